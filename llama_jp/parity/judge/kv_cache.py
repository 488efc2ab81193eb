"""The KV cache: the keys and values of past tokens, then those of new tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...model import rotate
from .bounds import Judged
from .context import OperationContext
from .kind import LOW_PRECISION, OperationKind

KV_CACHE = OperationKind("cache", sampled=False, bitwise=False, reconstructed=True)


def past_entries(context: OperationContext) -> Tensor:
    """The keys or values of earlier calls, (B, K, S - T, D)."""
    return context.input_heads[:, :, :0] if context.past is None else context.past


@KV_CACHE.formula
def kv_cache_in_float64(context: OperationContext) -> Judged:
    out, exact = context.out.transpose(1, 2), all_entries(context).transpose(1, 2)  # (B, S, K, D)
    if out.dtype == exact.dtype and torch.equal(out, exact):
        out, exact = out[:, -1:], exact[:, -1:]
    elif context.call.mask is not None:
        tokens = context.call.mask.bool()
        out, exact = out[tokens], exact[tokens]
    bound = torch.full(exact.shape, context.tiny, dtype=torch.float64)  # a copy: nothing is rounded
    return Judged(out, exact.double(), bound)


@KV_CACHE.same_arithmetic
def all_entries(context: OperationContext) -> Tensor:
    new = context.input_heads
    return new if context.past is None else torch.cat((context.past, new), 2)


# Mistakes of rows and heads


@KV_CACHE.mistake("heads in reverse order")
def heads_reversed(context: OperationContext) -> Tensor:
    return all_entries(context).flip(1)


@KV_CACHE.mistake("the first row's for all rows")
def first_row_for_all(context: OperationContext) -> Tensor:
    entries = all_entries(context)
    return entries[:1].expand_as(entries)


@KV_CACHE.mistake("the first row's for all rows, of the new ones")
def first_new_row_for_all(context: OperationContext) -> Tensor:
    new = context.input_heads
    return torch.cat((past_entries(context), new[:1].expand_as(new)), 2)


# Mistakes of values


@KV_CACHE.each(LOW_PRECISION).mistake("rounded to {} in the cache")
def rounded(context: OperationContext, low: torch.dtype) -> Tensor:
    entries = all_entries(context)
    return entries.to(low).to(entries.dtype)


@KV_CACHE.mistake("rotated like queries and keys")
def values_rotated(context: OperationContext) -> Tensor:
    return rotate(context.input_heads, *context.rotation)


# Mistakes of positions


@KV_CACHE.mistake("rolled: the oldest entry is lost")
def oldest_lost(context: OperationContext) -> Tensor:
    return all_entries(context).roll(-1, 2)


@KV_CACHE.mistake("one token late")
def one_token_late(context: OperationContext) -> Tensor:
    return all_entries(context).roll(1, 2)


@KV_CACHE.mistake("the new entries come before the old ones")
def new_before_past(context: OperationContext) -> Tensor:
    return torch.cat((context.input_heads, past_entries(context)), 2)


def has_past_entries(context: OperationContext) -> bool:
    return past_entries(context).shape[2] > 0


@KV_CACHE.mistake("cache off by one: new entries overwrite the last old one", when=has_past_entries)
def written_one_early(context: OperationContext) -> Tensor:
    past, new = past_entries(context), context.input_heads
    start = past.shape[2] - 1
    entries = context.out.clone()
    entries[:, :, : start + 1] = past
    entries[:, :, start : start + new.shape[2]] = new
    return entries


@KV_CACHE.mistake("the old entries are forgotten", when=has_past_entries)
def past_forgotten(context: OperationContext) -> Tensor:
    return torch.cat((torch.zeros_like(past_entries(context)), context.input_heads), 2)


# Stale entries


def equal_entries(x: Tensor, y: Tensor) -> Tensor:
    """Whether the entries of two caches (B, K, S, D) are equal in all rows and heads, (S,)."""
    return (x == y).flatten(3).all(-1).all(1).all(0)


def has_all_entries(context: OperationContext) -> bool:
    return context.out.shape[2] == past_entries(context).shape[2] + context.input_heads.shape[2]


def unchanged_past(context: OperationContext) -> Tensor:
    """Whether each past entry has its old value, (S - T,)."""
    past = past_entries(context)
    return equal_entries(context.out[:, :, : past.shape[2]], past)


def written_new(context: OperationContext) -> Tensor:
    """Whether each new entry has the value of this call, (T,)."""
    return equal_entries(context.out[:, :, past_entries(context).shape[2] :], context.input_heads)


def first_numbers(wrong: Tensor, start: int = 0) -> str:
    """The numbers of the first wrong entries, in words. `start`: the number of the first entry."""
    return ", ".join(str(start + i) for i in wrong.nonzero().flatten().tolist()[:6])


def changed_past_entries(context: OperationContext) -> Iterator[str]:
    if has_all_entries(context) and not bool((unchanged := unchanged_past(context)).all()):
        yield first_numbers(~unchanged)


def unwritten_entries(context: OperationContext) -> Iterator[str]:
    """Some entries are right. Where none is, other mistakes are more probable."""
    if not has_all_entries(context) or not bool(unchanged_past(context).all()):
        return
    written, past = written_new(context), past_entries(context).shape[2]
    if not bool(written.all()) and past + int(written.sum()):
        yield first_numbers(~written, start=past)


@KV_CACHE.each(changed_past_entries).mistake("stale cache: entry {} differs from the value that was written there")
def past_entry_changed(context: OperationContext, entries: str) -> Tensor:
    """The model's own past entries where they differ; all others are right."""
    past = past_entries(context)
    unchanged = unchanged_past(context)[None, None, :, None]
    return torch.cat((torch.where(unchanged, past, context.out[:, :, : past.shape[2]]), context.input_heads), 2)


@KV_CACHE.each(unwritten_entries).mistake("stale cache: entry {} was not written in this call")
def new_entry_unwritten(context: OperationContext, entries: str) -> Tensor:
    return context.out
