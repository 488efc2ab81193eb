"""The order of the rows of q_proj and k_proj.

RoPE rotates pairs of numbers. Meta and llama.cpp pair neighbours: rows 0 and 1, 2 and 3, … of a head. transformers and
this project pair the two halves of a head: rows i and i + D/2. The same rotation needs the rows in another order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def unpermute(weight: Tensor, heads: int) -> Tensor:
    """Bring the rows of a head from neighbours as pairs to split halves as pairs.

    weight  of q_proj or k_proj, (heads * D, C), or its bias, (heads * D)
    heads   query heads for q_proj, key/value heads for k_proj
    """
    pairs = weight.reshape(heads, -1, 2, *weight.shape[1:])  # (heads, D/2, 2, C)
    return pairs.transpose(1, 2).reshape(weight.shape)
