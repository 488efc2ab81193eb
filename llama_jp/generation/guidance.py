"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..cache import Cache
from ..model import Llama


class Guidance:
    """A filter that moves the logits away from those without the prompt. It runs the model with its own cache.

    log p = log p(without) + scale * (log p(with) - log p(without)). "Without" starts from a negative prompt, or from
    the last token of the prompt alone. See: arXiv:2306.17806; reference: `UnbatchedClassifierFreeGuidance…`.
    """

    def __init__(self, model: Llama, scale: float, negative_prompt: Sequence[int] | None, new_tokens: int) -> None:
        self.model, self.scale, self.new_tokens = model, scale, new_tokens
        self.negative_prompt = None if negative_prompt is None else torch.tensor(list(negative_prompt))
        self.cache: Cache | None = None

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        new = ids[:, -1:].clamp(min=0)
        if self.cache is None:
            if self.negative_prompt is not None:
                new = self.negative_prompt.to(ids.device).expand(len(ids), -1)
            self.cache = self.model.new_cache(len(ids), new.shape[1] + self.new_tokens)
        # rounding: logits at all positions, and their softmax in the weights' dtype, as in the reference
        without = self.model(new, self.cache)[:, -1].log_softmax(-1)
        return self.scale * (logits.log_softmax(-1) - without) + without
