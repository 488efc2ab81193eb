"""Write a model as a checkpoint."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import save_file

from ..model import Llama
from .config import config_to_json
from .hub import TOKENIZER_FILES
from .json_files import write_json
from .tensors import file_name


def save_model(model: Llama, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
    """Write sharded safetensors, config.json, generation_config.json and, where they are known, the tokenizer's files.

    transformers loads the result without a warning and with equal logits. Everything is written beside the folder
    first and moved in at the end, so an interrupted save leaves nothing; weights that an earlier save left in the
    folder are replaced.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot save to {folder}: it is a file")
    tensors = {file_name(name): tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError("the model has no weights to save: it is on the meta device")
    shards = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)

    with write_atomically(folder) as made:
        for file, names in shards.filename_to_tensors.items():
            save_file({name: tensors[name].contiguous() for name in names}, made / file, metadata={"format": "pt"})
        if shards.is_sharded:
            index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
            write_json(index, made / "model.safetensors.index.json")
        config = config_to_json(model.config, model.embed_tokens.weight.dtype)
        if scheme := getattr(model, "quantization", None):
            config["quantization_config"] = scheme.to_json()
        write_json(config, made / "config.json")
        if model.generation_config:
            write_json(model.generation_config, made / "generation_config.json")
        if model.folder is not None:
            copy_tokenizer(model.folder, made)


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


@contextmanager
def write_atomically(folder: Path) -> Iterator[Path]:
    """A new folder to write into. At the end its files move to `folder` and replace the weights of an earlier save;
    where something is raised before that, nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary)
        yield made
        folder.mkdir(exist_ok=True)
        new = {file.name for file in made.iterdir()}
        mode = (made / "config.json").stat().st_mode  # safetensors makes files that only their owner can read
        for name in new:
            (made / name).chmod(mode)
            (made / name).replace(folder / name)
        for old in folder.iterdir():
            weights = r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
            if old.name not in new and re.fullmatch(weights, old.name):
                old.unlink()
