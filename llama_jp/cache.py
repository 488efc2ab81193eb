"""Keys and values of the tokens already seen, so that each new token costs one position of work."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LayerCache(NamedTuple):
    """One layer's share of a `Cache`, as one call of the model sees it.

    Room for every position, the first `start` in use.
    """

    keys: Tensor  # (B, K, max_length, D)
    values: Tensor  # (B, K, max_length, D)
    start: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new keys and values behind the old ones; return all of them: (B, K, T, D) -> (B, K, S, D)."""
        end = self.start + k.shape[2]
        self.keys[:, :, self.start : end] = k
        self.values[:, :, self.start : end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


class Cache:
    """Preallocated keys and values for every layer. `length`, the number of tokens seen, is the only position there is.

    The caller owns it: make one with `model.new_cache(...)`, pass it to every call of the model, and the model goes on
    where it stopped. `length` moves once per call, after the last layer has written, so a call that is interrupted
    leaves the cache as it was.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_key_value_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value < 1:
                raise ValueError(f"a cache needs a {name} of at least 1, not {value}")
        shape = (batch_size, num_key_value_heads, max_length, head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.batch_size = batch_size
        self.max_length = max_length
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        return LayerCache(self.keys[index], self.values[index], self.length)

    def make_room(self, batch_size: int, tokens: int) -> None:
        """Refuse what does not fit before anything is written."""
        if batch_size != self.batch_size:
            raise ValueError(f"the cache was made for batch_size={self.batch_size}, but the ids have {batch_size} rows")
        if self.length + tokens > self.max_length:
            raise ValueError(
                f"the cache holds {self.max_length} positions; {self.length} are used and {tokens} were asked for; "
                "make it with a larger max_length"
            )

    def crop(self, length: int) -> None:
        """Forget everything behind the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        self.length = length
