"""Sliding window: a query sees the last WINDOW tokens only. See: "Mistral 7B", arXiv:2310.06825.

One function changes. Distances between indices suffice: in a left-padded row, and in a document of a packed row, they
are the distances between positions. The KV cache still holds all tokens.
"""

import torch
from torch import Tensor

from llama_jp import Llama
from llama_jp.model import attend_sdpa

WINDOW = 16  # tokens that a query sees, itself included


def attend_window(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Query i sees keys i - WINDOW + 1 … i. Shapes as in `attend_eager`."""
    T, S = q.shape[2], k.shape[2]
    index = torch.arange(S, device=q.device)
    distance = index[S - T :, None] - index  # (T, S): 0 is the query's own key
    near = (distance >= 0) & (distance < WINDOW)
    return attend_sdpa(q, k, v, near if mask is None else mask & near)


def make() -> Llama:
    return Llama.from_pretrained("demo", attention=attend_window)
