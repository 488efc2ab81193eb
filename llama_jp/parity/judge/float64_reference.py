"""The whole model in float64: the arbiter for what cannot be judged operation by operation."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model import Llama, LlamaConfig, repeat_heads
from .formulas import norm, weigh

# One side may be this much farther from float64 than the other, and this many half ULPs besides, by rounding alone.
TIMES = 8
HALF_ULPS = 64


def exact_model(config: LlamaConfig, weights: dict[str, Tensor]) -> Llama:
    """This project's model with a side's weights, every sum and every function in float64."""
    with torch.device("meta"):
        model = Llama(config, attention=attend, norm=lambda x, w, eps: norm(x, w, eps, torch.float64))
    wanted = model.state_dict()
    model.load_state_dict({name: weights[name].double() for name in wanted}, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.eval().requires_grad_(True)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    return weigh(q, k, mask, q.shape[3] ** -0.5).softmax(-1) @ repeat_heads(v, q.shape[1])


def distance(x: Tensor, exact: Tensor) -> float:
    """How far, relative to the size of the whole."""
    size = float(exact.double().norm())
    return float((x.double() - exact).norm()) / size if size else float(x.double().norm())


def too_far(mine: float, other: float, dtype: torch.dtype) -> bool:
    """Is this distance more than rounding explains, seeing how far the other side is?"""
    return not mine <= TIMES * other + HALF_ULPS * torch.finfo(dtype).eps / 2


def farther(mine: float, other: float, dtype: torch.dtype) -> bool:
    """The same of the logits of two sides of one dtype: over so many numbers, rounding carries both about as far."""
    return not mine <= 3 * other + 4 * torch.finfo(dtype).eps / 2
