"""int8 KV cache: half the memory of bfloat16. Each key and value has one scale. See: arXiv:2208.07339, 2.1.

    stored = round(x / scale), scale = max |x| / 127 over the D numbers of a key or value

`new_cache` of a subclass makes the cache of all commands. A layer's keys and values become floats again in each call.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from llama_jp import Cache, Llama


class Int8LayerCache(NamedTuple):
    """The part of an `Int8Cache` that one layer uses in one call. The first `start` positions are filled."""

    keys: Tensor  # (B, K, allocated positions, D) int8
    values: Tensor
    key_scales: Tensor  # (B, K, allocated positions, 1) float32
    value_scales: Tensor
    start: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new keys and values; return all of them, dequantised: (B, K, T, D) -> (B, K, S, D)."""
        return self.store(k, self.keys, self.key_scales), self.store(v, self.values, self.value_scales)

    def store(self, x: Tensor, stored: Tensor, scales: Tensor) -> Tensor:
        end = self.start + x.shape[2]
        scale = x.float().abs().amax(-1, keepdim=True).clamp(min=1e-20) / 127  # (B, K, T, 1)
        scales[:, :, self.start : end] = scale
        stored[:, :, self.start : end] = (x / scale).round()
        return (stored[:, :, :end] * scales[:, :, :end]).to(x.dtype)


class Int8Cache(Cache):
    STORED = ("keys", "values", "key_scales", "value_scales")

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device):
        super().__init__(*shape, torch.int8, device)
        self.key_scales, self.value_scales = (
            [each.new_empty(*each.shape[:3], 1, dtype=torch.float32) for each in tensors]
            for tensors in (self.keys, self.values)
        )

    def layer(self, index: int) -> Any:
        return Int8LayerCache(*(getattr(self, name)[index] for name in self.STORED), self.length)


class Int8CacheLlama(Llama):
    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> Cache:
        c, weight = self.config, self.embed_tokens.weight
        length = c.max_position_embeddings if max_length is None else max_length
        shape = len(self.layers), batch_size, c.num_key_value_heads, length, c.head_dim
        return Int8Cache(*shape, dtype=weight.dtype, device=weight.device)


def make() -> Llama:
    return Int8CacheLlama.from_pretrained("demo")
