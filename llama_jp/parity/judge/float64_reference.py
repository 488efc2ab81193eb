"""The whole model in float64: the reference for results that cannot be judged operation by operation."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ...model import Llama, LlamaConfig, repeat_heads
from .arithmetic import masked_scores, rms_norm_in

# Rounding alone can put one model this many times farther from float64 than the other, plus this many half ULPs.
TIMES = 8
HALF_ULPS = 64

# The same for logits of two models with one dtype: over so many numbers their distances are nearly equal.
TIMES_OF_PEER = 3
HALF_ULPS_OF_PEER = 4


def exact_model(config: LlamaConfig, weights: dict[str, Tensor]) -> Llama:
    """This project's model with the given weights. Every sum and every function is computed in float64."""
    with torch.device("meta"):
        model = Llama(config, attention=attend_in_float64, norm=partial(rms_norm_in, torch.float64))
    names = model.state_dict()
    model.load_state_dict({name: weights[name].double() for name in names}, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    return model.eval().requires_grad_(True)


def attend_in_float64(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`model.attend_eager` without casts: its softmax is float32, this one has the dtype of q."""
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    return masked_scores(q, k, mask, q.shape[3] ** -0.5).softmax(-1) @ repeat_heads(v, q.shape[1])


def distance(x: Tensor, exact: Tensor) -> float:
    """The norm of x - exact, relative to the norm of `exact`."""
    size = float(exact.double().norm())
    return float((x.double() - exact).norm()) / size if size else float(x.double().norm())


def exceeds_rounding(mine: float, other: float, dtype: torch.dtype) -> bool:
    """Whether rounding does not explain the distance of a model from float64. `other`: the distance of the other."""
    return not mine <= TIMES * other + HALF_ULPS * torch.finfo(dtype).eps / 2


def exceeds_peer(mine: float, other: float, dtype: torch.dtype) -> bool:
    """`exceeds_rounding` for the logits of two models with one dtype: a stricter limit."""
    return not mine <= TIMES_OF_PEER * other + HALF_ULPS_OF_PEER * torch.finfo(dtype).eps / 2
