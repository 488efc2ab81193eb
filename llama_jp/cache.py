"""The KV cache: keys and values of earlier tokens, so each decoding step computes one position."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class LayerCache(NamedTuple):
    """The part of a `Cache` that one layer uses in one call. The first `start` positions are filled."""

    keys: Tensor  # (B, K, allocated positions, D)
    values: Tensor  # (B, K, allocated positions, D)
    start: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write T new keys and values after the old ones; return all: (B, K, T, D) -> (B, K, S, D)."""
        end = self.start + k.shape[2]
        self.keys[:, :, self.start : end] = k
        self.values[:, :, self.start : end] = v
        keys, values = self.keys[:, :, :end], self.values[:, :, :end]
        if k.shape[3] % 16:  # rounding: for these sizes, products with a slice and with contiguous keys differ
            keys, values = keys.contiguous(), values.contiguous()
        return keys, values


class Cache:
    """Keys and values of every layer. `length`, the number of tokens in it, is its only position.

    The caller owns the cache: make one with `model.new_cache(...)` and pass it to every call of the model. Each call
    appends its tokens. `length` changes once per call, after the last layer, so an interrupted call has no effect.

    Up to 4096 positions are allocated at once. A longer cache grows with use, so a context of 128k costs no memory
    before it is used.

    A subclass may store more, such as scales: it names its lists in STORED, one tensor (B, K, positions, …) for each
    layer, and returns an object with the method `append` of `LayerCache` from `layer`.
    """

    ALLOCATED_AT_ONCE = 4096  # positions
    STORED: tuple[str, ...] = ("keys", "values")

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
        shape = (batch_size, num_key_value_heads, min(max_length, self.ALLOCATED_AT_ONCE), head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.batch_size = batch_size
        self.max_length = max_length
        self.length = 0

    def layer(self, index: int) -> LayerCache:
        """The cache of one layer, for one call."""
        return LayerCache(self.keys[index], self.values[index], self.length)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor (B, K, allocated positions, …) by name: "keys.0", …, "values.0", …"""
        return {f"{name}.{i}": tensor for name in self.STORED for i, tensor in enumerate(getattr(self, name))}

    def reserve(self, batch_size: int, tokens: int) -> None:
        """Allocate memory for new tokens. Raises ValueError if a batch of this many rows and tokens does not fit."""
        if batch_size != self.batch_size:
            raise ValueError(f"the cache was made for batch_size={self.batch_size}, but the ids have {batch_size} rows")
        if self.length + tokens > self.max_length:
            raise ValueError(
                f"the cache holds {self.max_length} positions, {self.length} are used and {tokens} more are needed; "
                "make it with a larger max_length"
            )
        allocated, needed = self.keys[0].shape[2] if self.keys else self.max_length, self.length + tokens
        if needed > allocated:
            size = min(self.max_length, max(needed, 2 * allocated))
            for tensors in (getattr(self, name) for name in self.STORED):
                for i, old in enumerate(tensors):
                    tensors[i] = old.new_empty(*old.shape[:2], size, *old.shape[3:])
                    tensors[i][:, :, : self.length] = old[:, :, : self.length]

    def crop(self, length: int) -> None:
        """Remove everything after the first `length` tokens."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        self.length = length

    def select_rows(self, rows: Sequence[int]) -> None:
        """Select, reorder or repeat rows of the batch, in place."""
        for tensors in (getattr(self, name) for name in self.STORED):
            for i, old in enumerate(tensors):
                tensors[i] = old.new_empty(len(rows), *old.shape[1:])
                tensors[i][:, :, : self.length] = old[list(rows), :, : self.length]
        self.batch_size = len(rows)

    def fork(self, rows: Sequence[int] = (0,)) -> Cache:
        """Copy these rows into a new cache.

        Rows share no memory, not even for a common prompt. Fused attention needs the keys of a row contiguous, so a
        shared part would have to be joined to the rest at every step.
        """
        other = copy.copy(self)
        for name in self.STORED:
            setattr(other, name, list(getattr(self, name)))
        other.select_rows(rows)
        return other

    def save(self, file: str | Path, ids: Sequence[int] = (), model: str = "") -> None:
        """Write the filled positions, and the ids of their tokens, as a safetensors file.

        model  a name or fingerprint of the model that computed the keys and values, which `load` compares
        """
        tensors = {name: tensor[:, :, : self.length].contiguous() for name, tensor in self.tensors().items()}
        about = {"max_length": str(self.max_length), "ids": json.dumps(list(ids)[: self.length]), "model": model}
        safetensors.torch.save_file(tensors, file, about)

    def load(self, file: str | Path, model: str = "") -> list[int]:
        """Read a file that `save` wrote into this cache, which may be longer. Returns the ids of its tokens.

        model  the name or fingerprint that was given to `save`; "" accepts the file of any model with these shapes

        Raises ValueError, and leaves the cache as it was, for a file that is damaged, does not fit, or was written by
        another model or without a name of one.
        """
        try:
            opened = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or not a saved cache: {error}") from error
        with opened as stored:
            tensors = self.tensors()
            if tensors.keys() != set(stored.keys()):
                raise ValueError(f"{file} holds {len(stored.keys())} tensors, but this cache has {len(tensors)}")
            loaded = {name: stored.get_tensor(name) for name in tensors}
            for name, mine in tensors.items():
                theirs = loaded[name]
                B, K, length, *rest = theirs.shape
                if mine.shape != (B, K, mine.shape[2], *rest) or theirs.dtype != mine.dtype:
                    raise ValueError(
                        f"{file} holds {theirs.dtype} {tuple(theirs.shape)} in {name}, which does not fit a cache of "
                        f"{mine.dtype} {tuple(mine.shape)}"
                    )
                if length > self.max_length:
                    raise ValueError(f"{file} holds {length} tokens, but this cache holds at most {self.max_length}")
            about = stored.metadata() or {}
            if model and not about.get("model"):
                raise ValueError(f"{file} does not name the model that wrote it; remove it, and write it again")
            if model and about["model"] != model:
                raise ValueError(f"{file} was written by another model of the same shape; choose another file")
            self.length = 0  # whatever the cache held is replaced
            self.reserve(self.batch_size, length)
            for name, mine in self.tensors().items():
                mine[:, :, :length] = loaded[name]
            self.length = length
            return json.loads(about.get("ids", "[]"))
