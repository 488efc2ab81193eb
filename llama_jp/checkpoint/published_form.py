"""Random checkpoints at 7B size in the file format of ELYZA's published checkpoints.

They test loading, speed and memory on a machine that cannot download the real files.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import torch
from torch import Tensor

from ..model import Llama, LlamaConfig
from ..rope import inverse_frequencies
from .config import config_to_json
from .json_files import write_json
from .random_checkpoint import mean_and_std
from .tensors import checkpoint_name

SHARD_BYTES = 10_000_000_000  # the largest shard that transformers 4.30 wrote
BLOCK_SIZE = (1 << 24) + 1  # random numbers that are generated; odd, so that rows do not begin at the same numbers


def write_published(folder: Path, config: LlamaConfig, seed: int = 0) -> None:
    """Write a random checkpoint as float16 `.bin` shards with an index, inv_freq buffers and a config.json.

    A shard is a memory-mapped file that is filled tensor by tensor, so peak memory is far below the shard's size.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = split_into_shards(empty_tensors(config))
    numbers = NormalNumbers(seed)
    weight_map, total_size = {}, 0
    for number, shard in enumerate(shards, 1):
        file = folder / f"pytorch_model-{number:05d}-of-{len(shards):05d}.bin"
        for name, tensor in create_mapped_file(file, shard).items():
            if name.endswith("inv_freq"):
                tensor.copy_(inverse_frequencies(config.rope_theta, config.head_dim))
            else:
                numbers.fill(tensor, *mean_and_std(name, tensor.shape))
            numbers.skip(tensor.numel() + 7919)  # a prime: every tensor begins at another number of the block
            weight_map[name] = file.name
            total_size += tensor.nbytes
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    write_json(index, folder / "pytorch_model.bin.index.json")
    write_json(config_to_json(config, torch.float16), folder / "config.json")


def empty_tensors(config: LlamaConfig) -> dict[str, Tensor]:
    """All tensors of a published checkpoint on the meta device, in the order of transformers 4.30.

    The inv_freq of a layer follows its o_proj.
    """
    tensors = {}
    with torch.device("meta"):
        for parameter_name, parameter in Llama(config).state_dict().items():
            name = checkpoint_name(parameter_name)
            tensors[name] = torch.empty(parameter.shape, dtype=torch.float16)
            if name.endswith("self_attn.o_proj.weight"):
                inv_freq = name.replace("o_proj.weight", "rotary_emb.inv_freq")
                tensors[inv_freq] = torch.empty(config.head_dim // 2, dtype=torch.float32)
    return tensors


def split_into_shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split tensors, in order, into shards of up to SHARD_BYTES, and into two shards at least."""
    limit = min(SHARD_BYTES, sum(tensor.nbytes for tensor in tensors.values()) * 3 // 4)
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        if shards[-1] and sum(member.nbytes for member in shards[-1].values()) + tensor.nbytes > limit:
            shards.append({})
        shards[-1][name] = tensor
    return shards


def create_mapped_file(file: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Create a `.bin` file for tensors of these shapes, and return them mapped from it: writes go to the file.

    A page takes memory only once it is written, so creating a file of 10 GB does not need 10 GB of memory.
    """
    with torch.serialization.skip_data():
        torch.save({name: torch.empty(tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()}, file)
    with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
        return torch.load(file, mmap=True, weights_only=True)


class NormalNumbers:
    """Normally distributed float16 numbers from one random block that repeats.

    Copies from a block are much faster than new random numbers for each of 7 billion weights.
    """

    def __init__(self, seed: int) -> None:
        self.block = torch.randn(BLOCK_SIZE, generator=torch.Generator().manual_seed(seed))
        self.scaled: dict[tuple[float, float], Tensor] = {}  # the block by (mean, standard deviation)
        self.position = 0

    def fill(self, tensor: Tensor, mean: float, std: float) -> None:
        """Fill a tensor with the numbers from the present position on; the position stays."""
        if (mean, std) not in self.scaled:
            self.scaled[mean, std] = (self.block * std + mean).half()
        block, target, done = self.scaled[mean, std], tensor.view(-1), 0
        while done < len(target):
            start = (self.position + done) % len(block)
            count = min(len(target) - done, len(block) - start)
            target[done : done + count] = block[start : start + count]
            done += count

    def skip(self, count: int) -> None:
        """Move the position forward."""
        self.position += count
