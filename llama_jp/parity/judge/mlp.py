"""The activation of the MLP: silu(gate) * up."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

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


# Mistakes

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu (tanh)": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "quick gelu": lambda gate: gate * (1.702 * gate).sigmoid(),
    "tanh": torch.tanh,
    "squared relu": lambda gate: F.relu(gate).square(),
}
COMBINATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gate and up exchanged": lambda gate, up: F.silu(up) * gate,
    "activation left out": lambda gate, up: gate * up,
    "up left out": lambda gate, up: F.silu(gate),
    "activation on both": lambda gate, up: F.silu(gate) * F.silu(up),
    "activation after the product": lambda gate, up: F.silu(gate * up),
    "added, not multiplied": lambda gate, up: F.silu(gate) + up,
}


@MLP_ACTIVATION.each(ACTIVATIONS).mistake("activation: {}, not silu")
def other_activation(context: OperationContext, name: str) -> Tensor:
    gate, up = context.inputs
    return ACTIVATIONS[name](gate) * up


@MLP_ACTIVATION.each(COMBINATIONS).mistake("{}")
def other_combination(context: OperationContext, cause: str) -> Tensor:
    return COMBINATIONS[cause](*context.inputs)
