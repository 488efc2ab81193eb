"""ALiBi: scores fall linearly with the distance, and nothing is rotated. See: arXiv:2108.12409.

    softmax(q kᵀ / √D + slope * (j - i)) v        slope of head h = 1 … H: 2^(-8h / H)

Two functions change: attention, and the rope. (The paper interpolates the slopes where H is not a power of two.)
"""

import torch
import torch.nn.functional as F
from changes.no_positions import no_rope
from torch import Tensor

from llama_jp import Llama
from llama_jp.model import repeat_heads


def attend_alibi(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention with a linear bias. Shapes as in `attend_eager`."""
    H, T, S = q.shape[1], q.shape[2], k.shape[2]
    index = torch.arange(S, device=q.device)
    distance = index - index[S - T :, None]  # (T, S): 0 is the query's own key, negative before it
    slopes = 2.0 ** (-8 * torch.arange(1, H + 1, device=q.device) / H)  # (H,)
    visible = distance <= 0 if mask is None else mask
    bias = (slopes[:, None, None] * distance).masked_fill(~visible, -torch.inf)  # (B or 1, H, T, S)
    return F.scaled_dot_product_attention(q, repeat_heads(k, H), repeat_heads(v, H), bias.to(q.dtype))


def make() -> Llama:
    return Llama.from_pretrained("demo", attention=attend_alibi, rope=no_rope)
