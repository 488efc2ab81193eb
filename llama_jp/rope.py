"""Rotary embeddings: positions to (cos, sin).

A `Rope` is a function: positions (B, T) -> cos and sin (B or 1, T, D) in float32. A function of your own may return
(B or 1, T, 1), one number for the whole head. `make_rope` chooses a rope from the configuration: `plain_rope`, or one
of the scaled forms for contexts longer than those of training. config.json names the form in `rope_scaling` (or
`rope_parameters`), key `rope_type`.

The arithmetic follows transformers' `modeling_rope_utils.py` operation by operation. What Python computes in float64
there is Python here; what a tensor computes in float32 there is a tensor here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

Rope = Callable[[Tensor], tuple[Tensor, Tensor]]


class RopeConfig(Protocol):
    """The fields of `LlamaConfig` that decide the rotation."""

    @property
    def head_dim(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> dict[str, Any] | None: ...


def make_rope(config: RopeConfig) -> Rope:
    """The rope that a configuration names. ValueError names an unknown type or a missing key."""
    if config.rope_scaling is None:
        return plain_rope(config)
    rope_type = config.rope_scaling["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type {rope_type!r} is not supported; known are {', '.join(ROPE_TYPES)}")
    return ROPE_TYPES[rope_type](config)


def plain_rope(config: RopeConfig) -> Rope:
    """Rotate pair i of a head by position * theta^(-2i / D) radians.

    cos and sin are float32 whatever the weights' dtype: at position 4095 bfloat16 cannot separate neighbours.
    See: "RoFormer", arXiv:2104.09864, 3.2.2.
    """
    frequencies = inverse_frequencies(config.rope_theta, config.head_dim)
    return partial(cos_sin, frequencies=frequencies)


def inverse_frequencies(theta: float | Tensor, head_dim: int) -> Tensor:
    """Radians per position for each pair: theta^(-2i / D), (D / 2,) float32, on the CPU."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu") / head_dim
    return 1.0 / theta**exponents  # rounding: a power and a reciprocal, not a power of the negative


@torch.no_grad()
def cos_sin(positions: Tensor, frequencies: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Positions (B, T) and frequencies (D / 2,) -> cos, sin (B, T, D), the same angles in both halves."""
    angles = positions[..., None].float() * frequencies.to(positions.device)  # (B, T, D / 2)
    angles = torch.cat((angles, angles), dim=-1)  # (B, T, D)
    return angles.cos() * scale, angles.sin() * scale


# Longer contexts


def linear_rope(config: RopeConfig) -> Rope:
    """Divide all positions by one factor. See: "… via Positional Interpolation", arXiv:2306.15595."""
    frequencies = inverse_frequencies(config.rope_theta, config.head_dim) / scaling_value(config, "factor")
    return partial(cos_sin, frequencies=frequencies)


def dynamic_rope(config: RopeConfig) -> Rope:
    """Raise theta when the text exceeds the context; a longer text raises it more (NTK-aware, u/bloc97, u/emozilla).

    The frequencies depend only on the longest position of the call. transformers also keeps those of the longest
    earlier call, for later texts of up to that length.
    """
    theta, D, longest = config.rope_theta, config.head_dim, config.max_position_embeddings
    factor = scaling_value(config, "factor")

    def frequencies(length: int | Tensor) -> Tensor:
        grown = theta * ((factor * length / longest) - (factor - 1)) ** (D / (D - 2))
        return inverse_frequencies(grown, D)

    within = frequencies(longest)

    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        length = (positions.max() + 1).cpu()
        # rounding: past the context the length is a tensor, so theta grows in float32; within it, in float64
        return cos_sin(positions, frequencies(length) if length > longest else within)

    return rope


def llama3_rope(config: RopeConfig) -> Rope:
    """Divide slow pairs by the factor, keep fast pairs, blend between. See: "Llama 3", arXiv:2407.21783."""
    factor = scaling_value(config, "factor")
    low, high = scaling_value(config, "low_freq_factor"), scaling_value(config, "high_freq_factor")
    trained = scaling_value(config, "original_max_position_embeddings", config.max_position_embeddings)

    plain = inverse_frequencies(config.rope_theta, config.head_dim)
    wavelength = 2 * math.pi / plain  # positions per turn
    divided = torch.where(wavelength > trained / low, plain / factor, plain)
    blend = (trained / wavelength - low) / (high - low)
    blended = (1 - blend) * divided / factor + blend * divided
    between = ~(wavelength < trained / high) & ~(wavelength > trained / low)
    frequencies = torch.where(between, blended, divided)
    return partial(cos_sin, frequencies=frequencies)


def yarn_rope(config: RopeConfig) -> Rope:
    """Divide slow pairs by the factor, keep fast pairs, and scale cos and sin. See: "YaRN", arXiv:2309.00071."""
    theta, D = config.rope_theta, config.head_dim
    trained = scaling_value(config, "original_max_position_embeddings", config.max_position_embeddings)
    factor = scaling_value(config, "factor", None) or config.max_position_embeddings / trained

    def pair_turning(turns: float) -> float:
        """The pair, as a fraction, that makes this number of turns over the trained context."""
        return D * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_turning(scaling_value(config, "beta_fast", None) or 32)  # faster pairs stay as they are
    last = pair_turning(scaling_value(config, "beta_slow", None) or 1)  # slower pairs are divided by the factor
    if scaling_value(config, "truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, D - 1)
    if first == last:
        last += 0.001  # avoids a division by zero
    ramp = (torch.arange(D // 2, dtype=torch.float32, device="cpu") - first) / (last - first)
    keep = 1 - ramp.clamp(0, 1)

    periods = theta ** (torch.arange(0, D, 2, dtype=torch.float32, device="cpu") / D)
    frequencies = 1.0 / (factor * periods) * (1 - keep) + 1.0 / periods * keep
    return partial(cos_sin, frequencies=frequencies, scale=yarn_attention_factor(config, factor))


def yarn_attention_factor(config: RopeConfig, factor: float) -> float:
    """The factor for cos and sin: `attention_factor`, or 0.1 ln(factor) + 1, or a ratio of two `mscale` values."""

    def attention_scale(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    given = scaling_value(config, "attention_factor", None)
    mscale, mscale_all = scaling_value(config, "mscale", None), scaling_value(config, "mscale_all_dim", None)
    if given is not None:
        return given
    return attention_scale(mscale) / attention_scale(mscale_all) if mscale and mscale_all else attention_scale(1)


def longrope_rope(config: RopeConfig) -> Rope:
    """Divide each pair by a number of its own, from one list for short texts and another for long ones.

    As in `dynamic_rope`, the frequencies depend on the longest position of the call. See: "LongRoPE", arXiv:2402.13753.
    """
    theta, D = config.rope_theta, config.head_dim
    trained = scaling_value(config, "original_max_position_embeddings", config.max_position_embeddings)
    factor = scaling_value(config, "factor", None) or config.max_position_embeddings / trained
    scale = scaling_value(config, "attention_factor", None)
    if scale is None:
        scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))

    def frequencies(key: str) -> Tensor:
        divisors = scaling_value(config, key)
        if len(divisors) != D // 2:
            raise ValueError(f"rope_scaling has {len(divisors)} numbers in {key}, and a head has {D // 2} pairs")
        periods = theta ** (torch.arange(0, D, 2, dtype=torch.float32, device="cpu") / D)
        return 1.0 / (torch.tensor(divisors, dtype=torch.float32) * periods)

    short, long = frequencies("short_factor"), frequencies("long_factor")
    if torch.equal(short, long):
        return partial(cos_sin, frequencies=short, scale=scale)

    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        return cos_sin(positions, long if positions.max() + 1 > trained else short, scale)

    return rope


ROPE_TYPES: dict[str, Callable[[RopeConfig], Rope]] = {
    "linear": linear_rope,
    "dynamic": dynamic_rope,
    "llama3": llama3_rope,
    "yarn": yarn_rope,
    "longrope": longrope_rope,
}

REQUIRED = object()


def scaling_value(config: RopeConfig, key: str, default: object = REQUIRED) -> Any:
    """One key of `rope_scaling`. A key without a default is required: ValueError names it."""
    scaling = config.rope_scaling or {}
    if key not in scaling and default is REQUIRED:
        raise ValueError(f"rope_scaling of type {scaling['rope_type']!r} needs the key {key!r}")
    return scaling.get(key, default)
