"""Two tensors, or two runs, in bits: equal, or how many elements differ and by how much."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .points import Operation
from .record import KEPT, Call

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass
class Difference:
    """How far two tensors are apart. ULP: steps between neighbouring numbers, of the coarser dtype of the two."""

    elements: int
    differing: int
    max_ulp: int = 0  # large where a number near zero changes its sign: see `median_ulp` for what is usual
    median_ulp: int = 0  # of the elements that differ
    max_value: float = 0.0
    cosine: float = 1.0
    token: tuple[int, int] | None = None  # the first that differs: row, index in the call

    @property
    def equal(self) -> bool:
        return self.differing == 0

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass
class Row:
    """One operation in one call, on both sides."""

    call: int
    operation: Operation
    difference: Difference | None  # None: the two have different shapes


def compare_calls(first: list[Call], second: list[Call], operations: list[Operation]) -> list[Row]:
    """Every point that both sides have, in the order of computation."""
    rows = []
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        for op in operations:
            if op.name in a.points and op.name in b.points:
                rows.append(Row(number, op, compare_point(a, b, op.name)))
    return rows


def compare_point(a: Call, b: Call, name: str) -> Difference | None:
    x, y = a.points[name], b.points[name]
    if x.shape[1:] != y.shape[1:]:
        return None
    whole = name.endswith(KEPT)  # keys and values of every token so far
    tokens = (None if a.mask is None else a.mask.bool()) if whole else a.tokens
    return difference(by_token(x), by_token(y), tokens)


def by_token(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H, D); what is (B, T, …) already stays."""
    return x.transpose(1, 2) if x.dim() == 4 else x


def difference(x: Tensor, y: Tensor, tokens: Tensor | None = None) -> Difference:
    """Compare (B, T, …) with (B, T, …), where `tokens` (B, T) says which count."""
    if torch.equal(x, y):  # the common case, without a copy; NaN is unequal here and looked at below
        return Difference(x.numel(), 0)
    rows = max(len(x), len(y))
    x, y = x.expand(rows, *x.shape[1:]), y.expand(rows, *y.shape[1:])
    if x.dtype != y.dtype:
        coarse = max(x.dtype, y.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        x, y = x.to(coarse), y.to(coarse)
    differ = (x != y) & ~(x.isnan() & y.isnan())
    if tokens is not None and len(tokens) == rows:
        differ &= tokens.reshape(*tokens.shape, *[1] * (x.dim() - 2))
    if not differ.any():
        return Difference(x.numel(), 0)
    row, index = differ.reshape(*x.shape[:2], -1).any(-1).nonzero()[0].tolist()
    a, b = x[differ], y[differ]
    apart = ulps(a, b)
    used = (x, y) if tokens is None or len(tokens) != rows else (x[tokens], y[tokens])
    return Difference(
        x.numel(),
        int(differ.sum()),
        int(apart.max()),
        int(apart.median()),
        float((a.double() - b.double()).abs().max()),
        cosine(*used),
        (row, index),
    )


def ulps(x: Tensor, y: Tensor) -> Tensor:
    """How many representable numbers lie between two, counted across zero as well."""
    return (place(x) - place(y)).abs()


def place(x: Tensor) -> Tensor:
    """Floats as whole numbers in the same order: the next float is the next number."""
    bits = x.contiguous().view(INTEGERS[x.element_size()]).long()
    lowest = -(1 << (8 * x.element_size() - 1))
    return torch.where(bits < 0, lowest - bits, bits)


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
