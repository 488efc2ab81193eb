"""Random checkpoints of full size in the published form."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..model import Llama, LlamaConfig
from ..rope import inverse_frequencies
from .config import config_to_json
from .json_files import write_json
from .tensors import file_name

SHARD_BYTES = 10_000_000_000  # what transformers 4.30 split at


def write_published(folder: Path, config: LlamaConfig, seed: int = 0) -> None:
    """A random checkpoint in the form in which ELYZA's are published: float16, `.bin` shards, an index, inv_freq."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        shapes = {file_name(name): tensor.shape for name, tensor in Llama(config).state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():  # inv_freq stands where transformers 4.30 had it: behind its layer's o_proj
        tensors[name] = torch.empty(shape, dtype=torch.float16, device="meta")
        if name.endswith("self_attn.o_proj.weight"):
            inv_freq = name.replace("o_proj.weight", "rotary_emb.inv_freq")
            tensors[inv_freq] = torch.empty(config.head_dim // 2, dtype=torch.float32, device="meta")
    shards = split(tensors)
    weight_map = {}
    block = torch.randn((1 << 24) + 1, generator=torch.Generator().manual_seed(seed))
    blocks = functools.lru_cache(lambda scale, mean: (block * scale + mean).half())
    drawn = 0
    for number, shard in enumerate(shards, 1):
        file = folder / f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        for name, tensor in reserve(file, shard).items():
            fill(name, tensor, config, blocks, drawn)
            drawn += tensor.numel() + 7919  # every tensor begins somewhere else in the block
            weight_map[name] = file.name
    total = sum(tensor.nbytes for tensor in tensors.values())
    write_json({"metadata": {"total_size": total}, "weight_map": weight_map}, folder / "pytorch_model.bin.index.json")
    write_json(config_to_json(config, torch.float16), folder / "config.json")


def split(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """As many tensors in a shard as go into SHARD_BYTES; two shards at least."""
    limit = min(SHARD_BYTES, sum(tensor.nbytes for tensor in tensors.values()) * 3 // 4)
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(each.nbytes for each in shards[-1].values()) + tensor.nbytes > limit:
            shards.append({})
        shards[-1][name] = tensor
    return shards


def reserve(file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file with room for the tensors, and the tensors mapped from it: what is written to them is in the file.

    So a shard of ten gigabytes needs no ten gigabytes of memory: pages that nobody touches take none.
    """
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(each.shape, dtype=each.dtype) for name, each in tensors.items()}, file)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        return torch.load(file, mmap=True, weights_only=True)


def fill(name: str, tensor: Tensor, config: LlamaConfig, blocks: Callable[[float, float], Tensor], start: int) -> None:
    """Random numbers from a block that is read in circles; sizes as in `shapes.write_random`."""
    if name.endswith("inv_freq"):
        tensor.copy_(inverse_frequencies(config.rope_theta, config.head_dim))
        return
    norm = name.endswith("norm.weight")
    block = blocks(0.1 if norm else 0.02 if "embed" in name else tensor.shape[1] ** -0.5, 1.0 if norm else 0.0)
    target, at = tensor.view(-1), 0
    while at < len(target):
        here = (start + at) % len(block)
        n = min(len(target) - at, len(block) - here)
        target[at : at + n] = block[here : here + n]
        at += n
