"""Attention sinks: a window, and the first SINKS tokens of the text. See: "StreamingLLM", arXiv:2309.17453.

Models put attention that no token needs on the first tokens, so a window without them loses fluency. The first tokens
are those of positions 0 … SINKS - 1, not of the first indices, which may be padding or another document. The fifth
parameter `positions` of an attention function has the positions of the keys. Unlike StreamingLLM, tokens keep their
positions in the text and stay in the KV cache.
"""

import torch
from torch import Tensor

from llama_jp import Llama
from llama_jp.model import attend_sdpa

WINDOW, SINKS = 16, 4  # tokens


def attend_sinks(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, positions: Tensor) -> Tensor:
    """Query i sees keys i - WINDOW + 1 … i and those at positions below SINKS.

    Shapes as in `attend_eager`; positions (B or 1, S) int64.
    """
    T, S = q.shape[2], k.shape[2]
    index = torch.arange(S, device=q.device)
    distance = index[S - T :, None] - index  # (T, S)
    is_sink = positions[:, None, None] < SINKS  # (B or 1, 1, 1, S)
    kept = (distance >= 0) & ((distance < WINDOW) | is_sink)  # (B or 1, 1, T, S)
    return attend_sdpa(q, k, v, kept if mask is None else mask & kept)


def make() -> Llama:
    return Llama.from_pretrained("demo", attention=attend_sinks)
