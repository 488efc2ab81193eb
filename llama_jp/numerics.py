"""Distances between floating-point tensors: bit equality, ULPs, cosine, KL divergence.

An ULP (unit in the last place) is the step between two neighbouring floating-point numbers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 17  # elements compared at a time: they stay in the processor's cache, which halves the time
MEDIAN_SAMPLE = 1 << 11  # elements from which the median is taken
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Difference:
    """The distance of two tensors. ULPs are those of the coarser dtype of the two."""

    elements: int
    differing: int
    max_ulp: int = 0  # large where a number near zero changes its sign; `median_ulp` shows the usual distance
    median_ulp: int = 0  # of the elements that differ, or of an even sample of them
    max_value: float = 0.0
    cosine: float = 1.0
    token: tuple[int, int] | None = None  # the first that differs: row, index in the call

    @property
    def equal(self) -> bool:
        return self.differing == 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def difference(x: Tensor, y: Tensor, tokens: Tensor | None = None) -> Difference:
    """Compare two tensors (B, T, …). `tokens` (B, T) bool selects the positions that count; None: all."""
    return difference_by_token(x, y, tokens)[0]


def difference_by_token(x: Tensor, y: Tensor, tokens: Tensor | None = None) -> tuple[Difference, Tensor | None]:
    """`difference`, and the largest absolute difference at each token (B, T), or None for equal tensors."""
    if same_bits(x, y):  # the common case, without a copy
        return Difference(x.numel(), 0), None
    rows, coarse = max(len(x), len(y)), max(x.dtype, y.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    x, y = (each.to(coarse).expand(rows, *each.shape[1:]).reshape(rows, each.shape[1], -1) for each in (x, y))
    shape = x.shape[:2]
    tokens = None if tokens is None or len(tokens) != rows or tokens.all() else tokens.flatten()
    x, y = x.flatten(0, 1), y.flatten(0, 1)  # (B * T, …)
    size = rows_in_block(x)
    stride = 1 + x.numel() // MEDIAN_SAMPLE
    differing, max_ulp = 0, 0
    samples: list[Tensor] = []
    largest: list[Tensor] = []
    for start in range(0, len(x), size):
        block = slice(start, start + size)
        steps, most = ulps_and_largest(x[block], y[block])
        if tokens is not None:
            steps, most = steps * tokens[block, None], most.masked_fill(~tokens[block], 0)
        largest.append(most)
        if number := int(steps.count_nonzero()):
            sample = steps.flatten()[::stride]
            samples.append(sample[sample > 0] if sample.any() else steps[steps > 0])
            differing, max_ulp = differing + number, max(max_ulp, int(steps.max()))
    if not differing:
        return Difference(x.numel(), 0), None
    by_token = torch.cat(largest).view(shape)  # (B, T)
    row, index = by_token.nonzero()[0].tolist()
    median = int(torch.cat(samples).median())
    return Difference(x.numel(), differing, max_ulp, median, float(by_token.max()), token=(row, index)), by_token


def rows_in_block(x: Tensor) -> int:
    """The number of rows of x (N, C) that are compared at a time."""
    return max(1, BLOCK // max(1, x.shape[1]))


def ulps_and_largest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in ULPs (N, C), and the largest absolute difference of each row (N,). NaN equals only NaN."""
    steps, value = ulps(x, y), (x.to(at_least_float32(x.dtype)) - y.to(at_least_float32(y.dtype))).abs_()
    most = value.amax(-1)
    if not most.isfinite().all():
        same = (x == y) | (x.isnan() & y.isnan())
        steps, value = steps.masked_fill(same, 0), value.masked_fill(same, 0).nan_to_num_(math.inf, posinf=math.inf)
        most = value.amax(-1)
    return steps, most


def same_bits(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors have equal shape, dtype and bytes. 0 and -0 are equal numbers with different bytes.

    Comparing 8-byte words is ten times as fast as `torch.equal` on 16-bit dtypes.
    """
    return x.shape == y.shape and x.dtype == y.dtype and torch.equal(words(x), words(y))


def words(x: Tensor) -> Tensor:
    """The bytes of a tensor as the largest integers that divide them evenly."""
    x = x.contiguous().flatten()
    size = next(n for n in (8, 4, 2, 1) if x.numel() * x.element_size() % n == 0 and x.data_ptr() % n == 0)
    return x.view(INTEGERS[size])


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype for differences: two float16 numbers can be farther apart than the largest float16."""
    return torch.promote_types(dtype, torch.float32)


def ulps(x: Tensor, y: Tensor) -> Tensor:
    """The number of floating-point steps between x and y, counted across zero as well."""
    wider = torch.int32 if x.element_size() < 4 else torch.int64
    return ordinal(x).to(wider).sub_(ordinal(y)).abs_()


def ordinal(x: Tensor) -> Tensor:
    """Floats as integers in the same order: the next float has the next integer."""
    bits = x.contiguous().view(INTEGERS[x.element_size()])
    sign = bits >> (8 * x.element_size() - 1)  # 0, or -1 for negative numbers, whose magnitude counts downwards
    return (sign & torch.iinfo(bits.dtype).max).bitwise_xor_(bits).sub_(sign)


def non_finite(x: Tensor) -> Tensor:
    """Where x is NaN or infinite."""
    return x.isfinite().logical_not_()


def all_finite(x: Tensor) -> bool:
    """Whether x has neither NaN nor infinity. One pass without a temporary tensor: 20 times as fast as `isfinite`."""
    return not x.numel() or all(bool(extreme.isfinite()) for extreme in x.aminmax())


def json_values(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: they become "NaN", "Infinity" and "-Infinity".

    JavaScript's `Number` and Python's `float` convert these strings back.
    """
    if isinstance(value, dict):
        return {key: json_values(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def cosine(x: Tensor, y: Tensor) -> float:
    """Cosine similarity, computed as 1 minus the missing part, which float32 sums resolve near 1."""
    x, y = x.to(at_least_float32(x.dtype)).flatten(), y.to(at_least_float32(y.dtype)).flatten()
    a, b, apart = float(x.norm()), float(y.norm()), float((x - y).norm())
    return 1 - (apart**2 - (a - b) ** 2) / (2 * a * b) if a and b else float(a == b)


def kl_divergence(x: Tensor, y: Tensor) -> Tensor:
    """KL divergence of softmax(y) from softmax(x), in nats: logits (N, V) -> (N,).

    With d = x - y and p = softmax(x) it is E[d] + log E[exp(-d)], which rounding does not cancel for nearly equal x, y.
    """
    dtype = torch.promote_types(at_least_float32(x.dtype), y.dtype)
    p, d = x.softmax(-1, dtype=dtype), x.to(dtype) - y.to(dtype)
    d -= (p * d).sum(-1, keepdim=True)
    return (p * d).sum(-1) + (d.neg_().expm1_().mul_(p)).sum(-1).log1p()
