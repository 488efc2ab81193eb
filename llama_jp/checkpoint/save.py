"""Save a model as a checkpoint."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from ..linear.scheme import Scheme
from ..model import Llama
from .chat_template import carry_chat_template
from .config import config_to_json
from .hub import TOKENIZER_FILES
from .json_files import write_json
from .tensors import checkpoint_name

WEIGHT_FILE = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def save_model(model: Llama, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
    """Write safetensors, config.json, generation_config.json and the tokenizer files that the model was loaded with.

    max_shard_size  the largest weight file, such as "5GB" or a number of bytes; more weights make more files

    transformers loads the result without a warning and with equal logits. An interrupted save leaves the folder as it
    was, and a complete one replaces the weights of an earlier save.

    Raises ValueError if the target is a file, or if the model has no weights.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot save to {folder}: it is a file")
    tensors = {checkpoint_name(name): tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError("the model has no weights to save: it is on the meta device")
    shards = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)

    with write_atomically(folder) as new_folder:
        for file, names in shards.filename_to_tensors.items():
            content = {name: tensors[name].contiguous() for name in names}
            save_file(content, new_folder / file, metadata={"format": "pt"})
        if shards.is_sharded:
            index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
            write_json(index, new_folder / "model.safetensors.index.json")
        config = config_to_json(model.config, model.embed_tokens.weight.dtype)
        scheme: Scheme | None = getattr(model, "quantization", None)
        if scheme is not None:
            config["quantization_config"] = scheme.to_json()
        write_json(config, new_folder / "config.json")
        if model.generation_config:
            write_json(model.generation_config, new_folder / "generation_config.json")
        if model.folder is not None:
            copy_tokenizer(model.folder, new_folder)


def check_target_is_new(folder: Path) -> None:
    """Raise ValueError if a folder to write to holds files already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; choose another, or remove it")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer files of a checkpoint, byte for byte, into another folder, and its chat template with them."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    carry_chat_template(source, target)


@contextmanager
def write_atomically(folder: Path) -> Iterator[Path]:
    """A temporary folder to write a checkpoint to; its files move to `folder` at the end.

    The moved files replace the weights of an earlier save. After an exception, nothing moves.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new_folder = Path(temporary)
        yield new_folder
        folder.mkdir(exist_ok=True)
        new_names = {file.name for file in new_folder.iterdir()}
        # safetensors creates files that only their owner can read; config.json has the usual permissions
        mode = (new_folder / "config.json").stat().st_mode
        for name in new_names:
            (new_folder / name).chmod(mode)
            (new_folder / name).replace(folder / name)
        for file in folder.iterdir():
            if file.name not in new_names and WEIGHT_FILE.fullmatch(file.name):
                file.unlink()
