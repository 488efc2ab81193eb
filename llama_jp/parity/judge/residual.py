"""The residual stream: the output of attention or of the MLP is added to it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .bounds import Judged, judged_tokens
from .context import OperationContext
from .kind import OperationKind

RESIDUAL = OperationKind("residual", in_one_batch=True, reconstructed=True, mistakes_on_sample=True)


@RESIDUAL.formula
def residual_in_float64(context: OperationContext) -> Judged:
    x, y = context.inputs
    exact = x.double() + y.double()
    return judged_tokens(context, exact, 1.01 * context.u * exact.abs() + context.tiny)


@RESIDUAL.same_arithmetic
def residual_in_dtype(context: OperationContext) -> Tensor:
    x, y = context.inputs
    return x + y


SUMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the residual is left out": lambda x, y: y,
    "the output of the block is left out": lambda x, y: x,
    "added twice": lambda x, y: x + y + y,
    "subtracted": lambda x, y: x - y,
    "halved": lambda x, y: (x + y) * 0.5,
}


@RESIDUAL.each(SUMS).mistake("{}")
def other_sum(context: OperationContext, cause: str) -> Tensor:
    return SUMS[cause](*context.inputs)


@RESIDUAL.each(OperationContext.points_like_input).mistake("it adds to {}, not to {operation.inputs[0]}")
def added_to_other_point(context: OperationContext, point: str) -> Tensor:
    _, y = context.inputs
    return context.at(point) + y
