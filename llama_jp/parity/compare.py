"""Two tensors, or two runs, in bits: equal, or how many elements differ and by how much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .points import Operation
from .record import KEPT, Call

BLOCK = 1 << 17  # elements at a time: what stays in the processor's cache costs half of what goes through memory
MEDIAN_OF = 1 << 11  # elements from which the median is taken
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Difference:
    """How far two tensors are apart. ULP: steps between neighbouring numbers, of the coarser dtype of the two."""

    elements: int
    differing: int
    max_ulp: int = 0  # large where a number near zero changes its sign: see `median_ulp` for what is usual
    median_ulp: int = 0  # of the elements that differ, or of an even sample of them
    max_value: float = 0.0
    cosine: float = 1.0
    token: tuple[int, int] | None = None  # the first that differs: row, index in the call

    @property
    def equal(self) -> bool:
        return self.differing == 0

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(eq=False)
class Row:
    """One operation in one call, on both sides."""

    call: int
    operation: Operation
    difference: Difference | None  # None: the two have different shapes
    apart: Tensor | None = None  # the largest difference of each token, (B, T)


def compare_calls(first: list[Call], second: list[Call], operations: list[Operation]) -> list[Row]:
    """Every point that both sides have, in the order of computation."""
    rows = []
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        for op in operations:
            if op.name not in a.points or op.name not in b.points:
                continue
            before = rows[-1] if op.kind == "same" and rows else None  # logits are most often what lm_head gave
            if before is not None and all(passed_on(call, before.operation.name, op.name) for call in (a, b)):
                rows.append(Row(number, op, before.difference, before.apart))
            else:
                rows.append(Row(number, op, *compare_point(a, b, op.name)))
    return rows


def passed_on(call: Call, before: str, name: str) -> bool:
    return before in call.points and same_bits(call.points[before], call.points[name])


def compare_point(a: Call, b: Call, name: str) -> tuple[Difference | None, Tensor | None]:
    x, y = a.points[name], b.points[name]
    if x.shape[1:] != y.shape[1:]:
        return None, None
    whole = name.endswith(KEPT)  # keys and values of every token so far
    tokens = (None if a.mask is None else a.mask.bool()) if whole else a.tokens
    return measure(by_token(x), by_token(y), tokens)


def by_token(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H, D); what is (B, T, …) already stays."""
    return x.transpose(1, 2) if x.dim() == 4 else x


def difference(x: Tensor, y: Tensor, tokens: Tensor | None = None) -> Difference:
    """Compare (B, T, …) with (B, T, …), where `tokens` (B, T) says which count."""
    return measure(x, y, tokens)[0]


def measure(x: Tensor, y: Tensor, tokens: Tensor | None = None) -> tuple[Difference, Tensor | None]:
    """The same, and the largest difference of each token (B, T)."""
    if same_bits(x, y):  # the common case, without a copy
        return Difference(x.numel(), 0), None
    rows, coarse = max(len(x), len(y)), max(x.dtype, y.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    x, y = (each.to(coarse).expand(rows, *each.shape[1:]).reshape(rows, each.shape[1], -1) for each in (x, y))
    shape = x.shape[:2]
    tokens = None if tokens is None or len(tokens) != rows or tokens.all() else tokens.flatten()
    x, y = x.flatten(0, 1), y.flatten(0, 1)  # (B * T, …)
    size = block_of(x)
    every = 1 + x.numel() // MEDIAN_OF
    differing, max_ulp, some, apart = 0, 0, [], []
    for at in range(0, len(x), size):
        here = slice(at, at + size)
        steps, most = distances(x[here], y[here])
        if tokens is not None:
            steps, most = steps * tokens[here, None], most.masked_fill(~tokens[here], 0)
        apart.append(most)
        if number := int(steps.count_nonzero()):
            sample = steps.flatten()[::every]
            some.append(sample[sample > 0] if sample.any() else steps[steps > 0])
            differing, max_ulp = differing + number, max(max_ulp, int(steps.max()))
    if not differing:
        return Difference(x.numel(), 0), None
    apart = torch.cat(apart).view(shape)  # (B, T)
    first, median = tuple(apart.nonzero()[0].tolist()), int(torch.cat(some).median())
    return Difference(x.numel(), differing, max_ulp, median, float(apart.max()), token=first), apart


def block_of(x: Tensor) -> int:
    """How many rows of x are worked on at a time."""
    return max(1, BLOCK // max(1, x.shape[1]))


def distances(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C) -> in ULPs (N, C); the largest in value (N,). NaN is infinitely far from all but NaN."""
    steps, value = ulps(x, y), (x.to(wide(x.dtype)) - y.to(wide(y.dtype))).abs_()
    most = value.amax(-1)
    if not most.isfinite().all():
        same = (x == y) | (x.isnan() & y.isnan())
        steps, value = steps.masked_fill(same, 0), value.masked_fill(same, 0).nan_to_num_(math.inf, posinf=math.inf)
        most = value.amax(-1)
    return steps, most


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Are two tensors the same bytes? In 16-bit dtypes ten times as fast as `torch.equal`, as whole words are compared.

    Numbers may be equal and their bytes not: 0 and -0, or in two dtypes.
    """
    return x.shape == y.shape and x.dtype == y.dtype and torch.equal(words(x), words(y))


def words(x: Tensor) -> Tensor:
    """The bytes of a tensor as the largest whole numbers that they fill."""
    x = x.contiguous().flatten()
    size = next(n for n in (8, 4, 2, 1) if x.numel() * x.element_size() % n == 0 and x.data_ptr() % n == 0)
    return x.view(INTEGERS[size])


def wide(dtype: torch.dtype) -> torch.dtype:
    """Where differences are taken: two float16 numbers may be farther apart than float16 reaches."""
    return torch.promote_types(dtype, torch.float32)


def ulps(x: Tensor, y: Tensor) -> Tensor:
    """How many representable numbers lie between two, counted across zero as well."""
    wider = torch.int32 if x.element_size() < 4 else torch.int64
    return place(x).to(wider).sub_(place(y)).abs_()


def place(x: Tensor) -> Tensor:
    """Floats as whole numbers in the same order: the next float is the next number."""
    bits = x.contiguous().view(INTEGERS[x.element_size()])
    sign = bits >> (8 * x.element_size() - 1)  # 0, or -1 for negative numbers, whose size counts downwards
    return (sign & torch.iinfo(bits.dtype).max).bitwise_xor_(bits).sub_(sign)


def cosine(x: Tensor, y: Tensor) -> float:
    """As one minus what is missing to one, which float32 sums can tell where they could not tell the whole from one."""
    x, y = x.to(wide(x.dtype)).flatten(), y.to(wide(y.dtype)).flatten()
    a, b, apart = float(x.norm()), float(y.norm()), float((x - y).norm())
    return 1 - (apart**2 - (a - b) ** 2) / (2 * a * b) if a and b else float(a == b)


@dataclass
class Prediction:
    """What the difference means for the next token."""

    top1: float  # how often both sides find the same token likeliest
    kl: float  # the largest KL divergence of one next-token distribution, in nats, first from second


def predictions(first: list[Call], second: list[Call]) -> Prediction:
    agree, tokens, worst = 0, 0, 0.0
    for a, b in zip(first, second, strict=True):
        if same_bits(a.logits, b.logits):
            agree, tokens = agree + int(a.tokens.sum()), tokens + int(a.tokens.sum())
            continue
        x, y = (each.logits.flatten(0, 1) if a.tokens.all() else each.logits[a.tokens] for each in (a, b))
        tokens += len(x)
        for p, q in zip(x.split(block_of(x)), y.split(block_of(x)), strict=True):
            agree += int((p.argmax(-1) == q.argmax(-1)).sum())
            worst = max(worst, float(divergence(p, q).max()))
    return Prediction(agree / max(tokens, 1), max(worst, 0.0))


def divergence(x: Tensor, y: Tensor) -> Tensor:
    """KL of softmax(x) from softmax(y), in nats: (N, V) -> (N,).

    With d = x - y and p = softmax(x) it is E[d] + log E[exp(-d)], which two nearly equal sides do not lose to rounding.
    """
    dtype = torch.promote_types(wide(x.dtype), y.dtype)
    p, d = x.softmax(-1, dtype=dtype), x.to(dtype) - y.to(dtype)
    d -= (p * d).sum(-1, keepdim=True)
    return (p * d).sum(-1) + (d.neg_().expm1_().mul_(p)).sum(-1).log1p()
