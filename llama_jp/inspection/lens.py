"""The logit lens: the next token, if the model ended after each layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..model import Llama
from ..tracing import paused


class Lens(NamedTuple):
    """Rows: the embedding, then each layer. Columns: positions."""

    ids: Tensor  # (layers + 1, N, top) int64, most probable first
    probabilities: Tensor  # (layers + 1, N, top)
    of_next: Tensor  # (layers + 1, N): the probability of the token that follows in the text
    rank_of_next: Tensor  # (layers + 1, N) int64: 0 for the most probable


@torch.no_grad()
def logit_lens(model: Llama, hidden: list[Tensor], next_ids: Tensor, top: int = 5) -> Lens:
    """Apply the last norm and `lm_head` to the residual stream after each layer: hidden states (N, C), N next ids.

    See: "interpreting GPT: the logit lens", nostalgebraist, 2020.
    """
    rows = []
    following = next_ids.to(model.embed_tokens.weight.device)[:, None]
    with paused():  # these calls are not part of the run
        for x in hidden:
            p = model.lm_head(model.norm(x[None]))[0].float().softmax(-1)  # (N, V)
            best = p.topk(min(top, p.shape[-1]))
            of_next = p.gather(-1, following)  # (N, 1)
            rows.append((best.indices, best.values, of_next[:, 0], (p > of_next).sum(-1)))
    return Lens(*(torch.stack(column).cpu() for column in zip(*rows, strict=True)))
