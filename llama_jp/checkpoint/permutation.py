"""The order of the rows of q and k in files whose rotation pairs neighbouring rows: GGUF, and Meta's own."""

from __future__ import annotations

from torch import Tensor


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Bring the rows of a query or key projection from neighbouring pairs to two halves, head by head.

    weight  (heads * D, K), or a bias (heads * D)
    heads   query heads for q, key heads for k

    Row 2i of a head moves to row i, and row 2i + 1 to row D/2 + i. The model rotates rows i and D/2 + i together, as
    transformers does; llama.cpp and Meta's code rotate rows 2i and 2i + 1.

    Raises ValueError for rows that are not `heads` times an even number.
    """
    if weight.shape[0] % (2 * heads):
        raise ValueError(f"{weight.shape[0]} rows are not {heads} heads of an even size")
    pairs = weight.view(heads, -1, 2, *weight.shape[1:])  # (heads, D/2, 2, …)
    return pairs.transpose(1, 2).reshape(weight.shape)


def permute(weight: Tensor, heads: int) -> Tensor:
    """Bring the rows of a query or key projection from two halves to neighbouring pairs. Inverse of `unpermute`."""
    if weight.shape[0] % (2 * heads):
        raise ValueError(f"{weight.shape[0]} rows are not {heads} heads of an even size")
    halves = weight.view(heads, 2, -1, *weight.shape[1:])  # (heads, 2, D/2, …)
    return halves.transpose(1, 2).reshape(weight.shape)
