"""Longer contexts than the model was trained on: drop-in replacements for `model.plain_rope`.

Each function takes the configuration and returns a positions function, (B, T) -> cos, sin (B, T, D) in float32. Which
one is used is config.json's `rope_scaling` (or `rope_parameters`), key `rope_type`. The arithmetic follows
transformers' `modeling_rope_utils.py` operation by operation; what Python computes in float64 there is Python here,
what a tensor computes in float32 is a tensor.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from .model import LlamaConfig, Rope, cos_sin, inverse_frequencies


def scaled_rope(config: LlamaConfig) -> Rope:
    """The positions function for `config.rope_scaling`; ValueError names a type or a key that is not known."""
    rope_type = config.rope_scaling["rope_type"]
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type {rope_type!r} is not supported; known are {', '.join(ROPE_TYPES)}")
    return ROPE_TYPES[rope_type](config)


def linear_rope(config: LlamaConfig) -> Rope:
    """Squeeze all positions by one factor. See: "… via Positional Interpolation", arXiv:2306.15595."""
    frequencies = inverse_frequencies(config.rope_theta, config.head_dim) / option(config, "factor")
    return partial(cos_sin, frequencies=frequencies)


def dynamic_rope(config: LlamaConfig) -> Rope:
    """Raise theta once the text outgrows the context, the more the longer it is (NTK-aware, u/bloc97 and u/emozilla).

    The frequencies depend on the longest position of the call alone. transformers remembers the longest one it has
    ever seen and keeps its frequencies for a following text between the trained context and that length; a function
    of its arguments does not.
    """
    theta, D, longest = config.rope_theta, config.head_dim, config.max_position_embeddings
    factor = option(config, "factor")

    def frequencies(length: int | Tensor) -> Tensor:
        grown = theta * ((factor * length / longest) - (factor - 1)) ** (D / (D - 2))
        return inverse_frequencies(grown, D)

    within = frequencies(longest)

    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        length = (positions.max() + 1).cpu()
        # rounding: past the context the length is a tensor, so that theta is grown in float32; within it, in float64
        return cos_sin(positions, frequencies(length) if length > longest else within)

    return rope


def llama3_rope(config: LlamaConfig) -> Rope:
    """Squeeze slow pairs, leave fast ones, blend between. See: "The Llama 3 Herd of Models", arXiv:2407.21783."""
    factor = option(config, "factor")
    low, high = option(config, "low_freq_factor"), option(config, "high_freq_factor")
    trained = option(config, "original_max_position_embeddings", config.max_position_embeddings)

    plain = inverse_frequencies(config.rope_theta, config.head_dim)
    wavelength = 2 * math.pi / plain  # positions per turn
    squeezed = torch.where(wavelength > trained / low, plain / factor, plain)
    blend = (trained / wavelength - low) / (high - low)
    blended = (1 - blend) * squeezed / factor + blend * squeezed
    between = ~(wavelength < trained / high) & ~(wavelength > trained / low)
    frequencies = torch.where(between, blended, squeezed)
    return partial(cos_sin, frequencies=frequencies)


def yarn_rope(config: LlamaConfig) -> Rope:
    """Squeeze slow pairs, leave fast ones, and sharpen attention for the longer text. See: "YaRN", arXiv:2309.00071."""
    theta, D = config.rope_theta, config.head_dim
    trained = option(config, "original_max_position_embeddings", config.max_position_embeddings)
    factor = option(config, "factor", None) or config.max_position_embeddings / trained

    def pair_turning(turns: float) -> float:
        """The pair (as a fraction) that turns so often over the trained context."""
        return D * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first = pair_turning(option(config, "beta_fast", None) or 32)  # faster pairs are left alone
    last = pair_turning(option(config, "beta_slow", None) or 1)  # slower pairs are squeezed
    if option(config, "truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, D - 1)
    if first == last:
        last += 0.001  # no ramp, but no division by zero either
    ramp = (torch.arange(D // 2, dtype=torch.float32, device="cpu") - first) / (last - first)
    keep = 1 - ramp.clamp(0, 1)

    periods = theta ** (torch.arange(0, D, 2, dtype=torch.float32, device="cpu") / D)
    frequencies = 1.0 / (factor * periods) * (1 - keep) + 1.0 / periods * keep
    scale = yarn_attention_factor(config, factor)
    return partial(cos_sin, frequencies=frequencies, scale=scale)


def yarn_attention_factor(config: LlamaConfig, factor: float) -> float:
    """What cos and sin are multiplied with: 0.1 ln(factor) + 1 unless the configuration says otherwise."""

    def sharpen(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    given = option(config, "attention_factor", None)
    mscale, mscale_all = option(config, "mscale", None), option(config, "mscale_all_dim", None)
    if given is not None:
        return given
    return sharpen(mscale) / sharpen(mscale_all) if mscale and mscale_all else sharpen(1)


ROPE_TYPES = {"linear": linear_rope, "dynamic": dynamic_rope, "llama3": llama3_rope, "yarn": yarn_rope}

REQUIRED = object()


def option(config: LlamaConfig, key: str, default: object = REQUIRED):
    """One key of `rope_scaling`; ValueError names it when it is missing and has no default."""
    scaling = config.rope_scaling
    if key not in scaling and default is REQUIRED:
        raise ValueError(f"rope_scaling of type {scaling['rope_type']!r} needs the key {key!r}")
    return scaling.get(key, default)


def context_length(config: LlamaConfig) -> int:
    """How many positions the model is meant for: the trained ones, times the factor by which they are stretched."""
    scaling = config.rope_scaling or {}
    trained = scaling.get("original_max_position_embeddings", config.max_position_embeddings)
    return max(config.max_position_embeddings, int(trained * (scaling.get("factor") or 1)))
