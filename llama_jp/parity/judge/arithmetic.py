"""Formulas that several operations share. They compute in the dtype of their inputs, or in the dtype they are given."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...model import repeat_heads

MASKED = -1e4  # a score below it is masked: models have other numbers for -inf


def rms_norm_in(dtype: torch.dtype, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm with its inner steps in `dtype`. In float32 it is `model.rms_norm`.

    Shapes: x (B, T, C), weight (C,) -> (B, T, C), in the dtype of x.
    """
    return weight * normalized(x.to(dtype), eps).to(x.dtype)


def normalized(x: Tensor, eps: float) -> Tensor:
    """Scale each vector of x (B, T, C) to a root mean square of 1."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def masked_scores(q: Tensor, k: Tensor, visible: Tensor, scale: float) -> Tensor:
    """Attention scores, with -inf at masked entries.

    Shapes: q (B, H, T, D), k (B, K, S, D), visible (B or 1, 1, T, S) bool -> (B, H, T, S).
    """
    scores = q @ repeat_heads(k, q.shape[1]).transpose(2, 3) * scale
    return scores.masked_fill(~visible, -math.inf)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """The output of a projection as heads: (B, T, H * D) -> (B, H, T, D). Split heads stay as they are."""
    return x if x.dim() == 4 else x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The input of a matrix product: (B, H, T, D) -> (B, T, H * D). Other tensors stay as they are."""
    return x.transpose(1, 2).flatten(2) if x.dim() == 4 else x


def joined_shape(x: Tensor) -> tuple[int, ...]:
    """The shape of `join_heads(x)`."""
    return (x.shape[0], x.shape[2], x.shape[1] * x.shape[3]) if x.dim() == 4 else tuple(x.shape)
