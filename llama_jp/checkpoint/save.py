"""Save a model as a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ..model import Llama
from .config import dtype_name
from .description import describe_model, model_state
from .json_files import write_json
from .recognise import with_name
from .saved_files import copy_tokenizer, remove_stale
from .tensors import SAFETENSORS_DTYPES, checkpoint_name


def save_model(model: Llama, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
    """Write safetensors, config.json, generation_config.json and the tokenizer files that the model was loaded with.

    max_shard_size  the largest weight file, such as "5GB" or a number of bytes; more weights make more files

    The configuration is that of the modules and functions that are there. transformers loads a plain model without a
    warning and with equal logits. A changed one, with its own class, attention, rope or norm, is recorded by the names
    of these parts (see parts.py), and transformers refuses it. An interrupted save leaves the folder as it was, and a
    complete one replaces an earlier save, see `remove_stale`. Of a model under FSDP2, every process calls this
    function, and the one of rank 0 writes.

    Raises ValueError if the target is a file or holds an adapter, if the model has no weights, and for a change that
    config.json cannot hold: a part that cannot be imported, a replaced module, a forward hook.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot save to {folder}: it is a file")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter (adapter_config.json), and transformers would load its base model in the place "
            "of this one; choose another folder, or remove the adapter"
        )
    state = model_state(model)
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError("the model has no weights to save: it is on the meta device")
    for name, tensor in state.items():
        if dtype_name(tensor.dtype) not in SAFETENSORS_DTYPES.values():
            raise ValueError(f"{name} is {tensor.dtype}, which no checkpoint holds; register it with persistent=False")
    config = describe_model(model, state)
    if any(is_sharded(tensor) for tensor in state.values()):
        with gather(state) as whole:
            if whole is not None:
                write_checkpoint(model, config, whole, folder, max_shard_size)
    else:
        write_checkpoint(model, config, state, folder, max_shard_size)


def write_checkpoint(
    model: Llama, config: dict[str, Any], state: dict[str, Tensor], folder: Path, max_shard_size: str | int
) -> None:
    """Write the files of a checkpoint: weights, configurations, tokenizer."""
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = {checkpoint_name(name): tensor for name, tensor in state.items()}
    shards = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    with write_atomically(folder) as new_folder:
        for file, names in shards.filename_to_tensors.items():
            content = separate_memory({name: tensors[name].contiguous() for name in names})
            save_file(content, new_folder / file, metadata={"format": "pt"})
        if shards.is_sharded:
            index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
            write_json(index, new_folder / "model.safetensors.index.json")
        write_json(config, new_folder / "config.json")
        if model.generation_config:
            write_json(model.generation_config, new_folder / "generation_config.json")
        if model.folder is not None:
            copy_tokenizer(Path(model.folder), new_folder)


def separate_memory(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share memory with an earlier one, such as the weights of a layer that stands twice."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        address = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return tensors


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as in a model under FSDP2."""
    return hasattr(tensor, "full_tensor")


@contextmanager
def gather(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor] | None]:
    """The whole tensors of a sharded model, on the CPU, for the process of rank 0; None for the others.

    Every process has to call this. They leave the context together, when rank 0 has written the files.
    """
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor

    writes = dist.get_rank() == 0
    whole = {}
    for name, tensor in state.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor  # collective, one tensor at a time
        if writes:
            whole[name] = full.cpu()
    try:
        yield whole if writes else None
    finally:
        dist.barrier()


def check_target_is_new(folder: Path) -> None:
    """Raise ValueError if a folder to write to holds files already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{with_name(folder)} exists and is not an empty folder; choose another, or remove it")


@contextmanager
def write_atomically(folder: Path) -> Iterator[Path]:
    """A temporary folder to write a checkpoint to; its files move to `folder` at the end.

    The moved files replace an earlier save, see `remove_stale`. After an exception, nothing moves.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new_folder = Path(temporary)
        yield new_folder
        new_files = {file.relative_to(new_folder) for file in new_folder.rglob("*") if file.is_file()}
        # safetensors creates files that only their owner can read; the JSON files have the usual permissions
        mode = next(new_folder.glob("*.json")).stat().st_mode
        for name in sorted(new_files):
            (new_folder / name).chmod(mode)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (new_folder / name).replace(folder / name)
        remove_stale(folder, new_files)
