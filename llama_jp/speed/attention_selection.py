"""Measure the attention of one query on this machine, and select the faster of two kernels."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear.one_query import OneQueryAttention, is_right, random_query, why_one_query_is_unavailable
from ..model import ATTENTIONS, Attention, Llama, SelfAttention
from .kernel_selection import RING_BYTES, RUNS

CONTEXTS = (64, 512)  # keys for which the kernels are compared

TESTED_CONTEXTS = (2, 3, 17, 64, 65, 512, 513, 2048)  # keys at which the result has to be right


@dataclass
class AttentionChoice:
    """The kernel for one query per row, and its speedup by the number of keys."""

    heads: int
    key_value_heads: int
    head_dim: int
    kernel: str
    speedups: dict[int, float]

    def __str__(self) -> str:
        shape = f"{self.heads}/{self.key_value_heads} x {self.head_dim}"
        speedups = ", ".join(f"{speedup:.2f}x at {keys} keys" for keys, speedup in self.speedups.items())
        return f"{'attention':24} {shape:>14}  {self.kernel:22} {speedups}"


def replaceable_attentions(model: Llama) -> list[SelfAttention]:
    """The attention modules with a function of this package. A function of your own stays."""
    modules = [module for module in model.modules() if isinstance(module, SelfAttention)]
    return [module for module in modules if any(module.attend is attend for attend in ATTENTIONS.values())]


def select_attention(model: Llama, rows: int) -> tuple[AttentionChoice | None, str | None]:
    """Whether `OneQueryAttention` is right and faster at the shape of this model: a choice or None, and a notice.

    rows  of a decoding step

    The kernel has to need less time for all numbers of keys together. The keys and values are more than the CPU cache
    holds, as those of all layers.
    """
    if not (modules := replaceable_attentions(model)):
        return None, None
    if notice := why_not_usable(model, rows):
        return None, notice
    plain = modules[0].attend
    fused: Attention = OneQueryAttention(plain)
    speedups: dict[int, float] = {}
    totals = [0.0, 0.0]
    for keys in numbers_of_keys(model):
        q, k, v = random_query_of(model, rows, keys)
        copies = max(1, min(len(modules), RING_BYTES // (2 * k.nbytes)))
        ring = [(k, v), *((copy_as_allocated(k), copy_as_allocated(v)) for _ in range(copies - 1))]
        seconds: list[list[float]] = [[], []]
        for _ in range(RUNS):  # in turns, so that a slow moment of the machine affects both
            for own, attend in zip(seconds, (plain, fused), strict=True):
                own.append(mean_seconds(attend, q, ring))
        medians = [statistics.median(own) for own in seconds]
        speedups[keys] = medians[0] / medians[1]
        totals = [total + median for total, median in zip(totals, medians, strict=True)]
    return (attention_choice(model, speedups) if totals[1] < totals[0] else None), None


def attention_choice(model: Llama, speedups: dict[int, float]) -> AttentionChoice:
    """The choice of `OneQueryAttention` for this model."""
    c = model.config
    return AttentionChoice(c.num_attention_heads, c.num_key_value_heads, c.head_dim, OneQueryAttention.name, speedups)


def why_not_usable(model: Llama, rows: int) -> str | None:
    """A sentence if `OneQueryAttention` is missing or wrong at the shape of this model, else None.

    It has to be right at each of TESTED_CONTEXTS, with a mask as well for several rows.
    """
    c, name = model.config, OneQueryAttention.name
    dtype = model.embed_tokens.weight.dtype
    if reason := why_one_query_is_unavailable(dtype, c.num_attention_heads != c.num_key_value_heads):
        return f"attention by {name} is not available on this machine: {reason}"
    fused = OneQueryAttention(replaceable_attentions(model)[0].attend)
    for keys in numbers_of_keys(model, TESTED_CONTEXTS):
        mask = torch.arange(keys) >= torch.arange(rows)[:, None]  # (B, S): row i has i tokens of padding
        mask[:, -1] = True
        masks = [None] if rows == 1 else [None, mask[:, None, None]]
        if not all(is_right(fused, *random_query_of(model, rows, keys), each) for each in masks):
            return f"attention by {name} is not used: its result is wrong at {keys} keys"
    return None


def numbers_of_keys(model: Llama, contexts: tuple[int, ...] = CONTEXTS) -> list[int]:
    """The contexts, up to the positions of the model."""
    return sorted({max(2, min(context, model.config.max_position_embeddings)) for context in contexts})


def random_query_of(model: Llama, rows: int, keys: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random q, k and v of the shape of this model."""
    c, dtype = model.config, model.embed_tokens.weight.dtype
    return random_query(rows, c.num_attention_heads, c.num_key_value_heads, keys, c.head_dim, dtype)


def copy_as_allocated(x: Tensor) -> Tensor:
    """A copy of keys or values (B, K, S, D) with the strides of the original."""
    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return copy.copy_(x)


def mean_seconds(attend: Attention, q: Tensor, ring: list[tuple[Tensor, Tensor]]) -> float:
    """Seconds of one call: the mean over a ring of keys and values, after a warm-up."""
    attend(q, *ring[0], None)
    begun = time.perf_counter()
    for k, v in ring:
        attend(q, k, v, None)
    return (time.perf_counter() - begun) / len(ring)
