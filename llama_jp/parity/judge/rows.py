"""Compare recorded calls operation by operation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...numerics import Difference, difference_by_token, kl_divergence, rows_in_block, same_bits
from ..operations import Operation
from ..run.recording import CACHE_POINTS, Call


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
    whole = name.endswith(CACHE_POINTS)  # keys and values of every token so far
    tokens = (None if a.mask is None else a.mask.bool()) if whole else a.tokens
    return difference_by_token(by_token(x), by_token(y), tokens)


def by_token(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H, D); what is (B, T, …) already stays."""
    return x.transpose(1, 2) if x.dim() == 4 else x


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
        for p, q in zip(x.split(rows_in_block(x)), y.split(rows_in_block(x)), strict=True):
            agree += int((p.argmax(-1) == q.argmax(-1)).sum())
            worst = max(worst, float(kl_divergence(p, q).max()))
    return Prediction(agree / max(tokens, 1), max(worst, 0.0))
