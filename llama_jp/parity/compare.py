"""Two tensors, or two runs, in bits: equal, or how many elements differ and by how much."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .points import Operation
from .record import KEPT, Call

MEDIAN_OF = 1 << 13  # elements from which the median is taken
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
            if op.name in a.points and op.name in b.points:
                rows.append(Row(number, op, *compare_point(a, b, op.name)))
    return rows


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
    """The same, and the largest difference of each token (B, T); every pass over the elements is one that counts."""
    if torch.equal(x, y):  # the common case, without a copy; NaN is unequal here and looked at below
        return Difference(x.numel(), 0), None
    rows, coarse = max(len(x), len(y)), max(x.dtype, y.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    x, y = (each.to(coarse).expand(rows, *each.shape[1:]).reshape(rows, each.shape[1], -1) for each in (x, y))
    steps, value = ulps(x, y), (x.to(wide(coarse)) - y.to(wide(coarse))).abs_()
    apart = value.amax(-1)  # (B, T)
    if not apart.isfinite().all():
        same = (x == y) | (x.isnan() & y.isnan())
        steps, value = steps.masked_fill(same, 0), value.masked_fill(same, 0).nan_to_num(math.inf, posinf=math.inf)
        apart = value.amax(-1)
    if tokens is not None and len(tokens) == rows and not tokens.all():
        steps, apart = steps * tokens[..., None], apart.masked_fill(~tokens, 0)
    if not apart.any():
        return Difference(x.numel(), 0), None
    some = steps.flatten()[:: 1 + steps.numel() // MEDIAN_OF]
    some = some[some > 0] if some.any() else steps[steps > 0]
    first = tuple(apart.nonzero()[0].tolist())
    sizes = int(steps.count_nonzero()), int(steps.max()), int(some.median()), float(apart.max())
    return Difference(x.numel(), *sizes, token=first), apart


def wide(dtype: torch.dtype) -> torch.dtype:
    """Where differences are taken: two float16 numbers may be farther apart than float16 reaches."""
    return torch.promote_types(dtype, torch.float32)


def ulps(x: Tensor, y: Tensor) -> Tensor:
    """How many representable numbers lie between two, counted across zero as well."""
    wider = torch.int32 if x.element_size() < 4 else torch.int64
    return (place(x).to(wider) - place(y)).abs_()


def place(x: Tensor) -> Tensor:
    """Floats as whole numbers in the same order: the next float is the next number."""
    bits = x.contiguous().view(INTEGERS[x.element_size()])
    sign = bits >> (8 * x.element_size() - 1)  # 0, or -1 for negative numbers, whose size counts downwards
    return ((sign & torch.iinfo(bits.dtype).max) ^ bits) - sign


def cosine(x: Tensor, y: Tensor) -> float:
    x, y = x.double().flatten(), y.double().flatten()
    norms = float(x.norm() * y.norm())
    return float(x @ y) / norms if norms else float(torch.equal(x, y))


@dataclass
class Prediction:
    """What the difference means for the next token."""

    top1: float  # how often both sides find the same token likeliest
    kl: float  # the largest KL divergence of one next-token distribution, in nats, first from second


def predictions(first: list[Call], second: list[Call]) -> Prediction:
    agree, tokens, worst = 0, 0, 0.0
    for a, b in zip(first, second, strict=True):
        if torch.equal(a.logits, b.logits):
            agree, tokens = agree + int(a.tokens.sum()), tokens + int(a.tokens.sum())
            continue
        x, y = a.logits[a.tokens].double(), b.logits[a.tokens].double()
        p, q = x.log_softmax(-1), y.log_softmax(-1)
        agree += int((x.argmax(-1) == y.argmax(-1)).sum())
        tokens += len(x)
        worst = max(worst, float((p.exp() * (p - q)).sum(-1).max()))
    return Prediction(agree / max(tokens, 1), max(worst, 0.0))
