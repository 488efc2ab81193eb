"""Rotary embeddings: positions to cos and sin."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from ...rope import cos_sin, inverse_frequencies, make_rope, plain_rope
from .bounds import U32, Judged, judged_tokens
from .context import OperationContext
from .kind import LOW_PRECISION, OperationKind

ROPE = OperationKind("rope", sampled=False)


def computes_sin(context: OperationContext) -> bool:
    """Whether the operation is sin. The other of this kind is cos."""
    return context.operation.name == "rope.sin"


@ROPE.formula
def rope_in_float64(context: OperationContext) -> Judged:
    positions, rope = context.positions, make_rope(context.config)
    if isinstance(rope, partial):  # of `cos_sin`: the frequencies do not depend on the positions
        angles = positions[..., None].double() * rope.keywords["frequencies"].double()
        angles = torch.cat((angles, angles), -1)
        exact = (angles.sin() if computes_sin(context) else angles.cos()) * rope.keywords.get("scale", 1.0)
    else:
        exact = rope(positions)[computes_sin(context)].double()
    # float32 rounds an angle before its cosine: an absolute error in proportion to the position
    bound = context.u * 1.01 * exact.abs() + 4 * U32 * (1 + positions[..., None].double())
    return judged_tokens(context, exact, bound)


@ROPE.same_arithmetic
def rope_in_dtype(context: OperationContext) -> Tensor:
    return cos_or_sin(context, *context.configured_rotation())


def cos_or_sin(context: OperationContext, cos: Tensor, sin: Tensor) -> Tensor:
    """The result of the operation, cos or sin, in the dtype of the model's."""
    return (sin if computes_sin(context) else cos).to(context.out.dtype)


def configured_frequencies(context: OperationContext) -> Tensor:
    return inverse_frequencies(context.config.rope_theta, context.config.head_dim)


def at_positions(context: OperationContext, positions: Tensor) -> Tensor:
    """The result for other positions than those of the call."""
    return cos_or_sin(context, *context.configured_rotation(positions))


def with_frequencies(context: OperationContext, frequencies: Tensor) -> Tensor:
    return cos_or_sin(context, *cos_sin(context.positions, frequencies))


def with_theta(context: OperationContext, theta: float) -> Tensor:
    config = dataclasses.replace(context.config, rope_theta=theta)
    return cos_or_sin(context, *plain_rope(config)(context.positions))


# Mistakes of precision

low_precision = ROPE.each(LOW_PRECISION)


@low_precision.mistake("rotary frequencies (inv_freq) rounded to {}, as by casting the model after loading")
def frequencies_rounded(context: OperationContext, low: torch.dtype) -> Tensor:
    return with_frequencies(context, configured_frequencies(context).to(low).float())


@low_precision.mistake("angles, and so cos and sin, computed in {}")
def angles_rounded(context: OperationContext, low: torch.dtype) -> Tensor:
    angles = context.positions[..., None].to(low) * configured_frequencies(context).to(low)
    angles = torch.cat((angles, angles), -1)
    return cos_or_sin(context, angles.cos(), angles.sin())


@low_precision.mistake("cos and sin rounded to {}")
def cos_and_sin_rounded(context: OperationContext, low: torch.dtype) -> Tensor:
    cos, sin = context.configured_rotation()
    return cos_or_sin(context, cos.to(low), sin.to(low))


@low_precision.mistake("positions rounded to {}")
def positions_rounded(context: OperationContext, low: torch.dtype) -> Tensor:
    return at_positions(context, context.positions.to(low).float())


# Mistakes of positions


def possible_offsets(context: OperationContext) -> tuple[int, ...]:
    T = context.ids.shape[1]
    return 1, -1, T, -T


@ROPE.each(possible_offsets).mistake("position offset: every position is off by {:+d}")
def positions_shifted(context: OperationContext, offset: int) -> Tensor:
    return at_positions(context, (context.positions + offset).clamp(min=0))


@ROPE.mistake(
    "position offset: counted from zero in every call, past tokens forgotten", when=OperationContext.has_past_tokens
)
def past_forgotten(context: OperationContext) -> Tensor:
    T = context.positions.shape[1]
    return at_positions(context, torch.arange(T)[None])


@ROPE.mistake("position offset: padding counted as tokens", when=OperationContext.has_padding)
def padding_counted(context: OperationContext) -> Tensor:
    T, S = context.positions.shape[1], context.call.length
    return at_positions(context, torch.arange(S - T, S)[None])


# Mistakes of frequencies


def other_thetas(context: OperationContext) -> Iterator[float]:
    """Values that other models have, and multiples of the configured one. At position 0 alone, theta has no effect."""
    theta, positions = context.config.rope_theta, context.positions
    if positions.shape[1] == 1 and not bool((positions > 0).any()):
        return
    multiples = (theta * 2, theta / 2, theta * 10, theta / 10, theta * 100, theta / 100, theta * 1.1)
    for other in (1e4, 5e5, 1e6, *multiples, 1e3):
        if other != theta:
            yield other


@ROPE.each(other_thetas).mistake("rope_theta {:g} where config.json has {config.rope_theta:g}")
def other_theta(context: OperationContext, theta: float) -> Tensor:
    return with_theta(context, theta)


def has_scaling(context: OperationContext) -> bool:
    return bool(context.config.rope_scaling)


@ROPE.mistake("rope_scaling ignored", when=has_scaling)
def scaling_ignored(context: OperationContext) -> Tensor:
    return with_theta(context, context.config.rope_theta)


@ROPE.each((2, 4, 8, 0.5)).mistake("positions divided by {:g}")
def positions_divided(context: OperationContext, factor: float) -> Tensor:
    return with_frequencies(context, configured_frequencies(context) / factor)


@ROPE.mistake("pair layout: angles repeated for neighbours (i, i + 1), not for halves (i, i + D/2)")
def angles_of_neighbours(context: OperationContext) -> Tensor:
    angles = (context.positions[..., None].float() * configured_frequencies(context)).repeat_interleave(2, -1)
    return cos_or_sin(context, angles.cos(), angles.sin())


@ROPE.mistake("frequencies in reverse order")
def frequencies_reversed(context: OperationContext) -> Tensor:
    return with_frequencies(context, configured_frequencies(context).flip(0))


@ROPE.mistake("exponents i / D, not 2i / D")
def exponents_halved(context: OperationContext) -> Tensor:
    theta, D = context.config.rope_theta, context.config.head_dim
    return with_frequencies(context, 1 / theta ** (torch.arange(D // 2).float() / D))


@ROPE.mistake("exponents 2i / (D - 2)")
def exponents_up_to_one(context: OperationContext) -> Tensor:
    theta, D = context.config.rope_theta, context.config.head_dim
    return with_frequencies(context, 1 / theta ** (torch.arange(0, D, 2).float() / (D - 2)))


# Mistakes after cos and sin


@ROPE.mistake("cos and sin exchanged")
def exchanged(context: OperationContext) -> Tensor:
    cos, sin = context.configured_rotation()
    return cos_or_sin(context, sin, cos)


@ROPE.mistake("sin with the wrong sign")
def sin_negated(context: OperationContext) -> Tensor:
    cos, sin = context.configured_rotation()
    return cos_or_sin(context, cos, -sin)


@ROPE.mistake("no rotation")
def no_rotation(context: OperationContext) -> Tensor:
    return at_positions(context, torch.zeros_like(context.positions))
