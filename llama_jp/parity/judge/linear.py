"""Matrix products: the projections of attention and of the MLP, and the head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .arithmetic import join_heads
from .bounds import Judged, sum_bound, without_padding
from .context import OperationContext, sample_indices
from .kind import OperationKind

LINEAR = OperationKind("linear", bitwise=False, in_one_batch=True, reconstructed=True, mistakes_on_sample=True)
MAX_COLUMNS = 48  # the columns of a product that are judged


@LINEAR.formula
def linear_in_float64(context: OperationContext) -> Judged:
    """The product on a sample of its columns: those where the models differ most, and some at even distances."""
    x = without_padding(context, join_heads(context.inputs[0]))  # (N, in)
    out = without_padding(context, context.out)  # (N, out)
    if x.dtype.itemsize > out.dtype.itemsize:  # rounded before the product, whose operands have its dtype
        x = x.to(out.dtype)
    columns = sample_indices(distance_by_column(context, x, out), MAX_COLUMNS)
    out, weight = out.index_select(1, columns), context.weight.index_select(0, columns)
    bias = torch.zeros(()) if context.bias is None else context.bias[columns]
    # products of 16-bit numbers are exact in float32, where this sum and the model's have the same bound
    dtype, sums = (torch.float64, 1) if out.dtype.itemsize > 2 else (torch.float32, 2)
    x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    exact, terms = x @ weight.T, x.abs() @ weight.abs().T
    if context.input_rounding is not None:
        raw = without_padding(context, join_heads(context.at(context.operation.inputs[0])))
        if (remainder := context.input_rounding.remainder(raw, columns)) is not None:
            exact, terms = exact + remainder[0], terms + remainder[1]
    bound = sums * sum_bound(terms, x.shape[1]) + 3 * context.u * (exact.abs() + bias.abs()) + 2 * context.tiny
    return Judged(out, (exact + bias).double(), bound.double())


def distance_by_column(context: OperationContext, x: Tensor, out: Tensor) -> Tensor:
    """The largest difference in each column of the result, (N, in) and (N, out) -> (out,).

    It is that of the two models. Where one of them rounds its inputs, all columns differ for this reason, so the
    difference from the same product is taken.
    """
    if context.input_rounding is not None:
        return (out - F.linear(x, context.weight, context.bias)).abs_().amax(0)
    other = context.other_out
    return out.new_zeros(out.shape[1]) if other is None else (out - without_padding(context, other)).abs_().amax(0)


@LINEAR.same_arithmetic
def linear_in_dtype(context: OperationContext) -> Tensor:
    return product(context, context.inputs[0])


def product(context: OperationContext, x: Tensor, weight: Tensor | None = None) -> Tensor:
    """x (B, T, in) or (B, H, T, D), by the context's weight or another, plus the bias."""
    return F.linear(join_heads(x), context.weight if weight is None else weight, context.bias)


def has_bias(context: OperationContext) -> bool:
    return context.bias is not None


@LINEAR.mistake("the bias is left out", when=has_bias)
def bias_left_out(context: OperationContext) -> Tensor:
    return F.linear(join_heads(context.inputs[0]), context.weight)


def input_has_heads(context: OperationContext) -> bool:
    """The input of o_proj is the output of attention, (B, H, T, D)."""
    return context.inputs[0].dim() == 4


@LINEAR.mistake("heads not moved back behind the tokens before they are joined", when=input_has_heads)
def heads_not_moved_back(context: OperationContext) -> Tensor:
    x = context.call.points[context.operation.inputs[0]]
    (B, _, T, _) = x.shape
    return product(context, context.sampled(x.reshape(B, T, -1), token_dim=1))


@LINEAR.mistake("heads joined in reverse order", when=input_has_heads)
def heads_reversed(context: OperationContext) -> Tensor:
    return product(context, context.inputs[0].flip(1))


@LINEAR.mistake("heads and their elements joined in the wrong order", when=input_has_heads)
def elements_before_heads(context: OperationContext) -> Tensor:
    return product(context, context.inputs[0].permute(0, 2, 3, 1).flatten(2))


def has_square_weight(context: OperationContext) -> bool:
    return context.weight.shape[0] == context.weight.shape[1]


@LINEAR.mistake("transposed weight", when=has_square_weight)
def transposed(context: OperationContext) -> Tensor:
    return product(context, context.inputs[0], context.weight.T)


def other_weights(context: OperationContext) -> Iterator[str]:
    for name, tensor in context.weights.items():
        same_shape = tensor.shape == context.weight.shape
        if same_shape and name != f"{context.operation.weight}.weight" and name.endswith("weight"):
            yield name


@LINEAR.each(other_weights).mistake("it uses {}")
def other_weight(context: OperationContext, name: str) -> Tensor:
    return product(context, context.inputs[0], context.weights[name])


@LINEAR.each(OperationContext.points_like_input).mistake("its input is {}, not {operation.inputs[0]}")
def other_input(context: OperationContext, point: str) -> Tensor:
    return product(context, context.at(point))
