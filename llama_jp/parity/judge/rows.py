"""Compare recorded calls operation by operation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...numerics import Difference, all_finite, difference_by_token, kl_divergence, rows_in_block, same_bits
from ..operations import Operation
from ..run.recording import CACHE_POINTS, Call
from .arithmetic import MASKED


@dataclass(eq=False)
class Row:
    """One operation in one call of both models."""

    call: int
    operation: Operation
    difference: Difference | None  # None: the two shapes differ
    distance: Tensor | None = None  # the largest absolute difference at each token, (B, T)


def compare_calls(first: list[Call], second: list[Call], operations: list[Operation]) -> list[Row]:
    """A row for every point that both models have, in the order of computation."""
    rows: list[Row] = []
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        for op in operations:
            if op.name not in a.points or op.name not in b.points:
                continue
            before = rows[-1] if op.kind == "same" and rows else None
            # the logits are most often the output of lm_head, which is compared already
            if before is not None and all(passed_on(call, before.operation.name, op.name) for call in (a, b)):
                rows.append(Row(number, op, before.difference, before.distance))
            else:
                rows.append(Row(number, op, *compare_point(a, b, op.name)))
    return rows


def largest_relative_difference(first: list[Call], second: list[Call]) -> dict[str, float]:
    """For each point, the largest difference in any call, relative to the largest number of the second model's."""
    found: dict[str, float] = {}
    for a, b in zip(first, second, strict=True):
        for name in a.points.keys() & b.points.keys():
            x, y = a.points[name].double(), b.points[name].double()
            if x.shape[1:] == y.shape[1:]:
                shown = (x > MASKED) & (y > MASKED) if name.endswith(".scores") else x.isfinite() & y.isfinite()
                size = float(torch.where(shown, y, 0.0).abs().max()) or 1.0
                largest = float(torch.where(shown, x - y, 0.0).abs().max()) / size
                found[name] = max(found.get(name, 0.0), largest)
    return found


def passed_on(call: Call, before: str, name: str) -> bool:
    """Whether the point `name` has the same bits as the point `before`."""
    return before in call.points and same_bits(call.points[before], call.points[name])


def compare_point(a: Call, b: Call, name: str) -> tuple[Difference | None, Tensor | None]:
    """The difference at one point, and the largest absolute difference at each token. None for different shapes."""
    x, y = a.points[name], b.points[name]
    if x.shape[1:] != y.shape[1:]:
        return None, None
    mask = None if a.mask is None else a.mask.bool()
    tokens = mask if name.endswith(CACHE_POINTS) else a.tokens  # keys and values hold all tokens so far
    return difference_by_token(by_token(x), by_token(y), tokens)


def by_token(x: Tensor) -> Tensor:
    """(B, H, T, D) -> (B, T, H, D). Tensors (B, T, …) stay as they are."""
    return x.transpose(1, 2) if x.dim() == 4 else x


@dataclass
class Prediction:
    """The effect of a difference on the prediction of the next token."""

    top1: float  # the share of positions with finite logits and the same most probable token in both
    kl: float  # the largest KL divergence of the second model's distribution from the first's, in nats


def predictions(first: list[Call], second: list[Call]) -> Prediction:
    """Compare the next-token distributions of all calls, without padding."""
    agree, tokens, worst = 0, 0, torch.zeros(())
    for a, b in zip(first, second, strict=True):
        if same_bits(a.logits, b.logits) and all_finite(a.logits):
            agree, tokens = agree + int(a.tokens.sum()), tokens + int(a.tokens.sum())
            continue
        x, y = (call.logits.flatten(0, 1) if a.tokens.all() else call.logits[a.tokens] for call in (a, b))
        tokens += len(x)
        for p, q in zip(x.split(rows_in_block(x)), y.split(rows_in_block(x)), strict=True):
            same = p.argmax(-1) == q.argmax(-1)
            if not (all_finite(p) and all_finite(q)):
                same &= p.isfinite().all(-1) & q.isfinite().all(-1)
            agree += int(same.sum())
            worst = worst.maximum(kl_divergence(p, q).max().float().cpu())  # NaN stays NaN
    return Prediction(agree / max(tokens, 1), float(worst))
