"""The activation of the MLP: silu(gate) * up."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .bounds import U32, Judged, judged_tokens
from .context import OperationContext
from .kind import OperationKind

MLP_ACTIVATION = OperationKind("mlp_act", in_one_batch=True, reconstructed=True, mistakes_on_sample=True)


@MLP_ACTIVATION.formula
def activation_in_float64(context: OperationContext) -> Judged:
    gate, up = (x.double() for x in context.inputs)
    exact = F.silu(gate) * up
    # float32 has no exp(88.8) and more, so silu of a lower gate is 0
    underflow = torch.finfo(torch.float32).smallest_normal * gate.abs() * up.abs()
    bound = exact.abs() * (2.02 * context.u + 16 * U32) + context.tiny * (1 + up.abs()) + underflow
    return judged_tokens(context, exact, bound)


@MLP_ACTIVATION.same_arithmetic
def activation(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.silu(gate) * up


@MLP_ACTIVATION.mistake("activation: gelu, not silu")
def gelu(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.gelu(gate) * up


@MLP_ACTIVATION.mistake("activation: gelu (tanh), not silu")
def gelu_tanh(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.gelu(gate, approximate="tanh") * up


@MLP_ACTIVATION.mistake("gate and up exchanged")
def exchanged(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.silu(up) * gate


@MLP_ACTIVATION.mistake("activation: relu, not silu")
def relu(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.relu(gate) * up


@MLP_ACTIVATION.mistake("activation: sigmoid, not silu")
def sigmoid(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return gate.sigmoid() * up


@MLP_ACTIVATION.mistake("activation: quick gelu, not silu")
def quick_gelu(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return gate * (1.702 * gate).sigmoid() * up


@MLP_ACTIVATION.mistake("activation: tanh, not silu")
def tanh(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return gate.tanh() * up


@MLP_ACTIVATION.mistake("activation left out")
def activation_left_out(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return gate * up


@MLP_ACTIVATION.mistake("up left out")
def up_left_out(context: OperationContext) -> Tensor:
    gate, _ = context.inputs
    return F.silu(gate)


@MLP_ACTIVATION.mistake("activation on both")
def activation_on_both(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.silu(gate) * F.silu(up)


@MLP_ACTIVATION.mistake("activation after the product")
def activation_after_product(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.silu(gate * up)


@MLP_ACTIVATION.mistake("activation: squared relu, not silu")
def squared_relu(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.relu(gate).square() * up


@MLP_ACTIVATION.mistake("added, not multiplied")
def added(context: OperationContext) -> Tensor:
    gate, up = context.inputs
    return F.silu(gate) + up
