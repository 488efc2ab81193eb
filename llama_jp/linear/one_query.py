"""Attention for one query per row, as sums: the kernel of a decoding step on the CPU.

With a single query, `scaled_dot_product_attention` loads the keys at a fraction of the memory bandwidth. Here products,
softmax and sums become a few compiled loops over the cache as it is stored. They are compiled once for all lengths and
numbers of rows.

The letters in the shapes, besides those of model.py:

    N rows times key/value heads, B * K   G query heads that share a key/value head, H / K
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..model import Attention, attend_eager
from .kernels import reason_of
from .programs import compiled


class OneQueryAttention:
    """An attention function with another kernel for one query on the CPU. All other calls go to `attend`.

    It rounds in another order than `attend`: scores, softmax and sums are float32.
    """

    name = "one query, compiled"

    def __init__(self, attend: Attention):
        self.attend = attend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The arguments and result of `attend_eager`."""
        if not fits(q, k, v):
            return self.attend(q, k, v, mask)
        (B, H, _, D), (K, S) = q.shape, k.shape[1:3]
        q, k, v = q.reshape(B * K, H // K, D), k.flatten(0, 1), v.flatten(0, 1)
        visible = None if mask is None else mask[:, :, 0].expand(B, K, S).reshape(B * K, S)
        return compiled(weigh_values)(q, k, v, visible).view(B, H, 1, D)


def fits(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether a call is one for the kernel: one query and several keys, on the CPU, without gradients."""
    if q.shape[2] != 1 or k.shape[2] == 1 or q.device.type != "cpu" or not q.dtype == k.dtype == v.dtype:
        return False
    if torch.compiler.is_compiling():  # the graph around it holds the sums of other operations as well
        return False
    return not (torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad))


def weigh_values(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """softmax(q kᵀ / √D) v: q (N, G, D), k and v (N, S, D), visible (N, S) bool or None -> (N, G, D)."""
    scores = (q.float()[:, :, None] * k.float()[:, None]).sum(-1) * q.shape[-1] ** -0.5  # (N, G, S)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None], torch.finfo(torch.float32).min)
    weights = scores.softmax(-1)
    return (weights[..., None] * v.float()[:, None]).sum(-2).to(q.dtype)


def without_kernel(attend: Attention) -> Attention:
    """The attention function that a `OneQueryAttention` stands for; any other function itself."""
    return attend.attend if isinstance(attend, OneQueryAttention) else attend


@functools.cache  # the machine and the torch version do not change while the process runs
def why_one_query_is_unavailable(dtype: torch.dtype, grouped: bool) -> str | None:
    """The reason why this machine cannot use the kernel, or None if it can. It is tried on a small example.

    All sizes differ: torch.compile would take equal ones for the same size in every later call.
    """
    try:
        right = is_right(OneQueryAttention(attend_eager), *random_query(3, 4 if grouped else 2, 2, 11, 16, dtype))
    except Exception as error:  # a compiler that is missing or fails may raise any exception
        return reason_of(error)
    return None if right else "its result is wrong"


def random_query(B: int, H: int, K: int, S: int, D: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Random q (B, H, 1, D), k and v (B, K, S, D). As in a cache, more positions than S are allocated."""
    generator = torch.Generator().manual_seed(S)
    q = 2 * torch.randn(B, H, 1, D, generator=generator)
    k, v = (torch.randn(B, K, S + 2, D, generator=generator).to(dtype)[:, :, :S] for _ in range(2))
    return q.to(dtype), k, v


def is_right(attend: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> bool:
    """Whether a function has the result of `attend_eager` in float32, up to the rounding of its own dtype."""
    result, expected = attend(q, k, v, mask), attend_eager(q.float(), k.float(), v.float(), mask)
    rounding = torch.finfo(q.dtype).eps + 32 * torch.finfo(torch.float32).eps  # of the result, and of float32 sums
    atol = rounding * expected.abs().max().item()
    return result.dtype == q.dtype and torch.allclose(result.float(), expected, rtol=0, atol=atol)
