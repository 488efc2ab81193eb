"""NoPE: no position embedding. The causal mask alone tells the order. See: arXiv:2305.19466.

One function changes: it rotates by 0 radians at every position.
"""

import torch
from torch import Tensor

from llama_jp import Llama


def no_rope(positions: Tensor) -> tuple[Tensor, Tensor]:
    """cos = 1 and sin = 0: positions (B or 1, T) -> two tensors (B or 1, T, 1), which broadcast over any head size."""
    zeros = torch.zeros(*positions.shape, 1, device=positions.device)
    return zeros + 1, zeros


def make() -> Llama:
    return Llama.from_pretrained("demo", rope=no_rope)
