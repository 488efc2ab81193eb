"""AdamW for a model's parameters, the learning rate of a step, and activation checkpointing."""

from __future__ import annotations

import math
import warnings

import torch
from torch import nn

from ..model import Llama
from .sharding import whole

FLOOR = 0.1  # of the peak learning rate, at the end


def make_optimizer(model: nn.Module, lr: float, weight_decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) for the parameters that are trained. Only matrices decay, not norms and biases."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=(0.9, 0.95), fused=True)


def learning_rate(step: int, peak: float, steps: int, warmup: int, floor: float = FLOOR) -> float:
    """The learning rate of step 0 … steps - 1: a linear warm-up, then half a cosine down to `floor` × `peak`.

    See: "SGDR", arXiv:1608.03983.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def update(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float, clip: float = 1.0) -> float:
    """One step of the optimizer with the gradients that are there, which are removed. Returns their norm.

    clip  the largest norm of all gradients together; larger ones are scaled down to it

    Raises ValueError for gradients that are not finite; the weights are then unchanged.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr
    norm = whole(torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip))
    if not torch.isfinite(norm):
        raise ValueError(
            f"the gradients have the norm {norm.item()}; try a smaller learning rate, more warm-up steps, or float32"
        )
    optimizer.step()
    optimizer.zero_grad()
    return float(norm)


def checkpoint_activations(model: Llama) -> None:
    """Keep only the input of each block, and compute the rest again in the backward pass: less memory, same bits.

    See: "Training Deep Nets with Sublinear Memory Cost", arXiv:1604.06174.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper  # imports late: 1 s

    for i, layer in enumerate(model.layers):
        model.layers[i] = checkpoint_wrapper(layer)
