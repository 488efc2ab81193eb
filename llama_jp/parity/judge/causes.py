"""The probable cause of a wrong result: the known mistake that gives the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ...numerics import ulps
from .arithmetic import MASKED
from .bounds import Judged
from .context import OperationContext
from .registry import KINDS
from .rows import by_token

T = TypeVar("T")

MAX_REPLAYED = 1 << 18  # elements of a result; larger results are replayed on a sample
NEARER = 16  # a cause or a factor explains a result if it is this many times nearer than the right formula
FEW_ULPS = 4  # right formulas in float32 differ by up to so many ULPs
FEW_ELEMENTS = 4  # right formulas in 16 bits differ in fewer elements: those between two numbers


def has_right_bits(context: OperationContext) -> bool:
    """Whether a right formula gives the result to the bit. Kernels of some kinds may sum in another order."""
    kind = KINDS[context.operation.kind]
    parts = (context, replayed(context)) if kind.bitwise else ()
    # the sample comes first: most often it shows that the result is right
    return any(bits_equal(part, result, part.out) for part in parts for result in kind.right_results(part))


def bitwise_cause(context: OperationContext) -> str | None:
    """The known mistake that gives the result to the bit. The right formula does not, see `has_right_bits`."""
    kind = KINDS[context.operation.kind]
    if not kind.bitwise:
        return None
    replay = replayed(context)
    for trial in kind.trials(replay):
        result = attempt(trial.compute)
        if result is not None and bits_equal(replay, result, replay.out):
            near = any(met_by_chance(replay, result, right) for right in kind.right_results(replay))
            return None if near else trial.cause
    return None


def met_by_chance(context: OperationContext, mistake: Tensor, right: Tensor) -> bool:
    """Whether another right formula could give the result of a mistake, because it is so near the right result.

    The scale of one row in RMSNorm, for example, is a single number. With the sum in float64 it can differ from the
    float32 one by an ULP, and some wrong eps differs from the right one by the same ULP.
    """
    x, y = at_tokens(context, mistake, right)
    if x.dtype != y.dtype:
        return False
    steps = ulps(x, y)
    return int(steps.max()) <= FEW_ULPS and (x.dtype == torch.float32 or int(steps.count_nonzero()) < FEW_ELEMENTS)


def likely_cause(context: OperationContext) -> str | None:
    """The known mistake that gives the result to the bit; else the nearest, if it is far nearer than the formula."""
    context, kind = replayed(context), KINDS[context.operation.kind]
    judged = kind.judge(context)
    nearest = mean_distance(context, judged.out.double(), judged.exact) / NEARER
    cause = None
    for trial in kind.trials(context):
        result = attempt(trial.compute)
        if result is None or result.shape[1:] != context.out.shape[1:]:
            continue
        if bits_equal(context, result.to(context.out.dtype), context.out):
            return trial.cause
        distance = mean_distance(context, *at_tokens(context, context.out, result))
        if distance < nearest:
            nearest, cause = distance, trial.cause
    return cause or multiple(judged)


def replayed(context: OperationContext) -> OperationContext:
    """The context for replays of mistakes.

    It has all tokens, since sums of fewer rows may round differently. A large result keeps its sample, if no mistake of
    its kind mixes tokens.
    """
    large = context.call.points[context.operation.name].numel() > MAX_REPLAYED
    on_sample = large and KINDS[context.operation.kind].mistakes_on_sample
    return context if on_sample else context.without_sample()


def attempt(compute: Callable[[], T]) -> T | None:
    """The result of a mistake or of a judgement, or None where its shapes do not fit this model."""
    try:
        return compute()
    except (RuntimeError, ValueError, ZeroDivisionError, IndexError):
        return None


def bits_equal(context: OperationContext, x: Tensor, y: Tensor) -> bool:
    """Whether two results are equal, without padding."""
    if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype:
        return False
    return torch.equal(*at_tokens(context, x, y))


def at_tokens(context: OperationContext, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two results (B, T, …) or (B, H, T, D) at the positions of tokens, without padding."""
    keep = context.tokens
    x, y = torch.broadcast_tensors(by_token(x), by_token(y))
    return (x, y) if keep.all() or len(x) != len(keep) else (x[keep], y[keep])


def mean_distance(context: OperationContext, x: Tensor, y: Tensor) -> float:
    """The mean absolute difference of two results. Among scores, a masked entry is far from every other entry."""
    x, y = x.double(), y.double()
    distance = (x - y).abs()
    if KINDS[context.operation.kind].has_masked_entries:
        shown = x.isfinite() & y.isfinite() & (x.abs() < -MASKED) & (y.abs() < -MASKED)
        distance = torch.where(shown, distance, ((x < MASKED) != (y < MASKED)) * -MASKED)
    return float(torch.nan_to_num(distance, nan=1e9, posinf=1e9).mean())


def multiple(judged: Judged) -> str | None:
    """The factor, in words, if the result is the right one times a number."""
    x, y = judged.out.double(), judged.exact
    shown = x.isfinite() & y.isfinite() & (x.abs() < -MASKED)
    x, y = x[shown], y[shown]
    factor = float(x @ y) / (float(y @ y) or 1.0)
    if factor and float((x - factor * y).abs().mean()) < float((x - y).abs().mean()) / NEARER:
        return f"{factor:.4g} times the right result"
    return None
