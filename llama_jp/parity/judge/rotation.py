"""The rotation of queries and keys by the angles of their positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from ...model import rotate
from ...rope import plain_rope
from .bounds import Judged, judged_tokens
from .context import OperationContext
from .kind import LOW_PRECISION, OperationKind

ROTATION = OperationKind("rotate", in_one_batch=True, reconstructed=True, has_heads=True)


@ROTATION.formula
def rotation_in_float64(context: OperationContext) -> Judged:
    x = context.input_heads.double()
    cos, sin = (part.double() for part in context.rotation)
    first, second = x.abs().chunk(2, -1)
    terms = x.abs() * cos.abs()[:, None] + torch.cat((second, first), -1) * sin.abs()[:, None]
    return judged_tokens(context, rotate(x, cos, sin), 3 * context.u * terms + 3 * context.tiny)


@ROTATION.same_arithmetic
def rotation_in_dtype(context: OperationContext) -> Tensor:
    return rotate(context.input_heads, *context.rotation)


def rotated_by(context: OperationContext, cos: Tensor, sin: Tensor) -> Tensor:
    """The queries or keys rotated by float32 angles, in the model's dtype."""
    x = context.input_heads
    return rotate(x, cos.to(x.dtype), sin.to(x.dtype))


# Mistakes of pairs


def rotated_neighbours(x: Tensor) -> Tensor:
    """The pair (x[i], x[i + 1]) becomes (-x[i + 1], x[i])."""
    return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)


@ROTATION.mistake("pair layout: neighbours (i, i + 1) are rotated, not halves (i, i + D/2)")
def neighbours_rotated(context: OperationContext) -> Tensor:
    x, D = context.input_heads, context.config.head_dim
    cos, sin = (part[..., : D // 2].repeat_interleave(2, -1) for part in context.rotation)
    return x * cos[:, None] + rotated_neighbours(x) * sin[:, None]


@ROTATION.mistake("pair layout: neighbours rotated by the angles of halves")
def neighbours_rotated_as_halves(context: OperationContext) -> Tensor:
    x, (cos, sin) = context.input_heads, context.rotation
    return x * cos[:, None] + rotated_neighbours(x) * sin[:, None]


# Mistakes of rounding


def rotations_before_rounding(context: OperationContext) -> Iterator[tuple[Tensor, Tensor]]:
    """The model's cos and sin, then the configured ones, which are not rounded to the model's dtype."""
    if context.input_heads.dtype != torch.float32:
        yield context.rotation
        yield context.configured_rotation()


@ROTATION.each(rotations_before_rounding).mistake("computed in float32 and rounded once")
def rounded_once(context: OperationContext, rotation: tuple[Tensor, Tensor]) -> Tensor:
    x, (cos, sin) = context.input_heads, rotation
    return rotate(x.float(), cos.float(), sin.float()).to(x.dtype)


# Mistakes of the rotation itself


@ROTATION.mistake("not rotated")
def not_rotated(context: OperationContext) -> Tensor:
    return context.input_heads


@ROTATION.mistake("rotated the other way")
def rotated_backwards(context: OperationContext) -> Tensor:
    cos, sin = context.rotation
    return rotate(context.input_heads, cos, -sin)


@ROTATION.mistake("the halves are exchanged without the minus sign")
def minus_sign_left_out(context: OperationContext) -> Tensor:
    x, (cos, sin) = context.input_heads, context.rotation
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((second, first), -1) * sin[:, None]


@ROTATION.mistake("cos and sin exchanged")
def cos_and_sin_exchanged(context: OperationContext) -> Tensor:
    cos, sin = context.rotation
    return rotate(context.input_heads, sin, cos)


@ROTATION.mistake("rotated twice")
def rotated_twice(context: OperationContext) -> Tensor:
    return rotate(rotation_in_dtype(context), *context.rotation)


# Mistakes of angles


@ROTATION.each((1, -1)).mistake("position offset: every position is off by {:+d}")
def positions_shifted(context: OperationContext, offset: int) -> Tensor:
    return rotated_by(context, *context.configured_rotation((context.positions + offset).clamp(min=0)))


@ROTATION.mistake("position offset: counted from zero in every call")
def past_forgotten(context: OperationContext) -> Tensor:
    T = context.ids.shape[1]
    return rotated_by(context, *context.configured_rotation(torch.arange(T)[None]))


def other_thetas(context: OperationContext) -> tuple[float, ...]:
    theta = context.config.rope_theta
    return 5e5, 1e6, theta * 2, theta / 2, theta * 10


@ROTATION.each(other_thetas).mistake("rope_theta {:g} where config.json has {config.rope_theta:g}")
def other_theta(context: OperationContext, theta: float) -> Tensor:
    rope = plain_rope(dataclasses.replace(context.config, rope_theta=theta))
    return rotated_by(context, *rope(context.positions))


@ROTATION.each(LOW_PRECISION).mistake("cos and sin of this layer rounded to {}")
def cos_and_sin_rounded(context: OperationContext, low: torch.dtype) -> Tensor:
    cos, sin = context.rotation
    return rotated_by(context, cos.to(low), sin.to(low))


# Mistakes of heads and scale


@ROTATION.mistake("heads in reverse order")
def heads_reversed(context: OperationContext) -> Tensor:
    return rotation_in_dtype(context).flip(1)


@ROTATION.mistake("(tokens, heads) viewed as (heads, tokens)")
def tokens_viewed_as_heads(context: OperationContext) -> Tensor:
    x = context.input_heads
    return rotate(x.transpose(1, 2).reshape(x.shape), *context.rotation)


@ROTATION.mistake("scaled already, before the scores are")
def scaled_too_early(context: OperationContext) -> Tensor:
    return rotation_in_dtype(context) * context.scale
