"""The residual stream: the output of attention or of the MLP is added to it."""

from __future__ import annotations

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
def residual(context: OperationContext) -> Tensor:
    x, y = context.inputs
    return x + y


@RESIDUAL.mistake("the residual is left out")
def residual_left_out(context: OperationContext) -> Tensor:
    _, y = context.inputs
    return y


@RESIDUAL.mistake("the output of the block is left out")
def output_left_out(context: OperationContext) -> Tensor:
    x, _ = context.inputs
    return x


@RESIDUAL.mistake("added twice")
def added_twice(context: OperationContext) -> Tensor:
    x, y = context.inputs
    return x + y + y


@RESIDUAL.mistake("subtracted")
def subtracted(context: OperationContext) -> Tensor:
    x, y = context.inputs
    return x - y


@RESIDUAL.mistake("halved")
def halved(context: OperationContext) -> Tensor:
    x, y = context.inputs
    return (x + y) * 0.5


@RESIDUAL.each(OperationContext.points_like_input).mistake("it adds to {}, not to {operation.inputs[0]}")
def added_to_other_point(context: OperationContext, point: str) -> Tensor:
    _, y = context.inputs
    return context.at(point) + y
