"""Round weights to int8 and int4."""

from __future__ import annotations

import torch
from torch import Tensor

from ..linear.scheme import Scheme
from ..linear.weight import int4_values, pack

ROWS_AT_ONCE = 64  # rows are rounded in blocks that fit the cache: ten times as fast, and no large float32 copies

SHRINKS = tuple(1 - 0.04 * i for i in range(11))  # how much of a group's range its sixteen values may cover


def round_weight(scheme: Scheme, name: str, weight: Tensor) -> dict[str, Tensor]:
    """Round the weight (N, K) of module `name` to nearest, in blocks of rows: the stored tensors by name."""
    bits, group_size = scheme.for_module(name)
    layout = scheme.parts(name, tuple(weight.shape))
    parts = {part: torch.empty(shape, dtype=dtype) for part, (shape, dtype) in layout.items()}
    for start in range(0, len(weight), ROWS_AT_ONCE):
        rows = finite(weight[start : start + ROWS_AT_ONCE].float(), name)
        rounded = round_int8(rows) if bits == 8 else round_int4(rows, group_size)
        for part, values in rounded.items():
            parts[part][start : start + len(rows)] = values
    return parts


def finite(weight: Tensor, name: str) -> Tensor:
    if not weight.isfinite().all():
        raise ValueError(f"{name}.weight has values that are not finite")
    return weight


def round_int8(weight: Tensor) -> dict[str, Tensor]:
    """Rows of float32 to int8: the largest value of a row becomes 127 or -127, zero stays zero."""
    scale = weight.abs().amax(1) / 127
    scale = scale.where(scale > 0, 1)  # a row of zeros
    return {"weight": (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def round_int4(weight: Tensor, group_size: int) -> dict[str, Tensor]:
    """Rows of float32 (N, K) to int4, with the scales that `fit_groups` finds."""
    groups = weight.unflatten(1, (-1, group_size))  # (N, G, g)
    scale, zero = fit_groups(groups)
    return {"weight": pack(nearest_int4(groups, scale, zero).flatten(1)), "scale": scale, "zero": zero}


def fit_groups(groups: Tensor, shrinks: tuple[float, ...] = SHRINKS) -> tuple[Tensor, Tensor]:
    """The scale and zero of each group: of several ranges, from all of it to a part, the one with the least error.

    Shapes: groups (…, G, g) float32 -> scale, zero (…, G) bfloat16.
    They are rounded to bfloat16 before anything is measured, so the weights are rounded with what will be stored.
    """
    low, high = groups.aminmax(dim=-1)
    best = torch.full_like(low, torch.inf)
    scale, zero = (torch.zeros_like(low, dtype=torch.bfloat16) for _ in range(2))
    for shrink in shrinks:
        step = (high - low) * shrink / 15
        middle = low * shrink + 8 * step
        step, middle = step.where(step > 0, 1).bfloat16(), middle.bfloat16()  # a constant group is its zero
        values = int4_values(nearest_int4(groups, step, middle), step, middle)
        error = (values - groups.flatten(-2)).square().unflatten(-1, groups.shape[-2:]).sum(-1)  # (…, G)
        better = error < best
        best = error.where(better, best)
        scale, zero = step.where(better, scale), middle.where(better, zero)
    return scale, zero


def nearest_int4(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The q = 0 … 15 nearest to each value: groups (…, G, g), scale and zero (…, G) -> (…, G, g) uint8."""
    steps = (groups - zero[..., None]) / scale[..., None]
    return (steps.round() + 8).clamp(0, 15).to(torch.uint8)
