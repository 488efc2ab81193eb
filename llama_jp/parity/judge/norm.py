"""RMSNorm."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import rms_norm
from .arithmetic import normalized, rms_norm_in
from .bounds import U32, Judged, judged_tokens
from .context import OperationContext
from .kind import OperationKind, low_precision_input

NORM = OperationKind("norm", in_one_batch=True, reconstructed=True, mistakes_on_sample=True)


@NORM.formula
def norm_in_float64(context: OperationContext) -> Judged:
    (x,), eps = context.inputs, context.config.rms_norm_eps
    exact = rms_norm_in(torch.float64, x.double(), context.weight.double(), eps)
    return judged_tokens(context, exact, exact.abs() * (2.02 * context.u + 8 * U32) + 2 * context.tiny)


@NORM.same_arithmetic
def norm_in_dtype(context: OperationContext) -> Tensor:
    return rms_norm(context.inputs[0], context.weight, context.config.rms_norm_eps)


def other_eps_values(context: OperationContext) -> Iterator[float]:
    """Usual values, multiples of the configured one, and the value that fits the result."""
    eps = context.config.rms_norm_eps
    usual = (eps * 10, eps / 10, 1e-5, 1e-6, 1e-8, 0.0, eps * 100, eps * 1000, 1e-12, eps * 2)
    for other in dict.fromkeys((*usual, fitting_eps(context))):
        if other != eps:
            yield other


def fitting_eps(context: OperationContext) -> float:
    """The eps with which the result is right, to two digits."""
    x, y = context.inputs[0].double(), context.out.double()
    scaled = x * context.weight.double()
    factor = (y * scaled).sum(-1) / scaled.square().sum(-1)
    return max(0.0, float(f"{float((factor**-2 - x.square().mean(-1)).median()):.2g}"))


@NORM.each(other_eps_values).mistake("eps {:g} where config.json has {config.rms_norm_eps:g}")
def other_eps(context: OperationContext, eps: float) -> Tensor:
    return rms_norm(context.inputs[0], context.weight, eps)


@NORM.mistake("norm cast order: the weight is multiplied before the cast back, not after")
def weight_before_cast(context: OperationContext) -> Tensor:
    (x,) = context.inputs
    return (context.weight.float() * normalized(x.float(), context.config.rms_norm_eps)).to(x.dtype)


@NORM.each(low_precision_input).mistake("computed in {}, not in float32")
def not_upcast(context: OperationContext, dtype: torch.dtype) -> Tensor:
    return rms_norm_in(dtype, context.inputs[0], context.weight, context.config.rms_norm_eps)


@NORM.mistake("the weight is left out")
def weight_left_out(context: OperationContext) -> Tensor:
    return rms_norm(context.inputs[0], torch.ones_like(context.weight), context.config.rms_norm_eps)


@NORM.mistake("the weight is 1 + weight")
def weight_plus_one(context: OperationContext) -> Tensor:
    return rms_norm(context.inputs[0], 1 + context.weight, context.config.rms_norm_eps)


@NORM.mistake("eps added after the root")
def eps_after_root(context: OperationContext) -> Tensor:
    (x,) = context.inputs
    root = x.float().pow(2).mean(-1, keepdim=True).sqrt()
    return context.weight * (x / (root + context.config.rms_norm_eps)).to(x.dtype)


@NORM.mistake("LayerNorm: the mean is subtracted")
def mean_subtracted(context: OperationContext) -> Tensor:
    (x,) = context.inputs
    return F.layer_norm(x.float(), x.shape[-1:], None, None, context.config.rms_norm_eps).to(x.dtype) * context.weight


@NORM.mistake("L2 norm: a sum where the mean should be")
def sum_of_squares(context: OperationContext) -> Tensor:
    (x,) = context.inputs
    return rms_norm(x, context.weight, context.config.rms_norm_eps) * x.shape[-1] ** -0.5


@NORM.mistake("no norm at all")
def no_norm(context: OperationContext) -> Tensor:
    return context.inputs[0]


@NORM.each(OperationContext.points_like_input).mistake("its input is {}, not {operation.inputs[0]}")
def other_input(context: OperationContext, point: str) -> Tensor:
    return rms_norm(context.at(point), context.weight, context.config.rms_norm_eps)


def other_weights(context: OperationContext) -> Iterator[str]:
    for name, tensor in context.weights.items():
        same_shape = tensor.shape == context.weight.shape
        if same_shape and name != f"{context.operation.weight}.weight" and not torch.equal(tensor, context.weight):
            yield name


@NORM.each(other_weights).mistake("it uses {}")
def other_weight(context: OperationContext, name: str) -> Tensor:
    return rms_norm(context.inputs[0], context.weights[name], context.config.rms_norm_eps)
