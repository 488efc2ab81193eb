"""The files and tensors of a checkpoint, in each layout that is published, under the model's names.

transformers' layout is the rule. meta.py has Meta's own files, packed_weights.py GPTQ and AWQ, and gguf/ GGUF files.
"""

from __future__ import annotations

from pathlib import Path

from .gguf.header import is_gguf, read_header
from .gguf.weights import find_gguf_tensors
from .hub import WEIGHT_FILES
from .json_files import read_json
from .meta import find_meta_tensors, is_meta, shard_files
from .packed_weights import dequantized, packed_file_names, read_packing
from .recognise import describe_folder
from .tensors import TensorInfo, list_tensors


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a checkpoint, in the order of its index; of a GGUF file, all its parts.

    Raises FileNotFoundError for a missing file, and ValueError for an index without names or with names of files
    outside the folder.
    """
    if is_gguf(folder):
        return sorted({tensor.file for tensor in read_header(folder).tensors.values()})
    if is_meta(folder):
        return shard_files(folder)
    for name in [name for name in WEIGHT_FILES if (folder / name).is_file()] or packed_file_names(folder):
        file = folder / name
        if not file.is_file():
            continue
        if not name.endswith(".index.json"):
            return [file]
        weight_map = read_json(file).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ValueError(f"{file} has no weight_map")
        if not all(isinstance(shard, str) for shard in weight_map.values()):
            raise ValueError(f"{file} has a weight_map with names of files that are not strings")
        shards = list(dict.fromkeys(weight_map.values()))
        for shard in shards:
            if Path(shard).name != shard:
                raise ValueError(f"{file} names {shard!r}, which is not a file beside it")
            if not (folder / shard).is_file():
                raise FileNotFoundError(f"{file.name} names {shard}, which is not in {folder}{describe_folder(folder)}")
        return [folder / shard for shard in shards]
    raise FileNotFoundError(
        f"there are no weights in {folder}: none of {', '.join(WEIGHT_FILES)}{describe_folder(folder)}"
    )


def find_tensors(folder: Path) -> dict[str, TensorInfo]:
    """List every tensor of a checkpoint under the model's name for it, without loading any.

    A tensor has a recipe where the files hold it in several parts, in another order, or packed. `rotary_emb.inv_freq`
    is left out: old checkpoints store it, and `plain_rope` computes it.

    Raises ValueError for a tensor that is stored twice, for one that is stored in part, and for a damaged file.
    """
    if is_gguf(folder):
        return find_gguf_tensors(folder)
    if is_meta(folder):
        return find_meta_tensors(folder)
    found: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        for info in list_tensors(file):
            name = info.name.removeprefix("model.")
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name in found:
                raise ValueError(f"{info.name} is stored twice, in {found[name].file.name} and in {file.name}")
            found[name] = info
    raw = read_json(folder / "config.json", missing_ok=True)
    biased = ["q_proj", "k_proj", "v_proj", "o_proj"] if raw.get("attention_bias") else []
    biased += ["gate_proj", "up_proj", "down_proj"] if raw.get("mlp_bias") else []
    return dequantized(found, read_packing(folder), biased)
