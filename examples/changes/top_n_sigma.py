"""A filter of one's own: top-nσ keeps the logits within n standard deviations of the largest. See: arXiv:2411.07641.

    llama_jp.generate(model, prompts, do_sample=True, logits_processor=TopNSigma(1.0), top_k=0, temperature=1.5)

A filter is a function (ids, logits) -> logits, as in transformers: ids (B, S), logits (B, V) float32. It runs before
temperature, and any temperature keeps the same tokens.
"""

import torch
from torch import Tensor


class TopNSigma:
    def __init__(self, n: float):
        self.n = n

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        allowed = logits.isfinite()  # an earlier filter gives forbidden tokens -inf
        count = allowed.sum(-1, keepdim=True)
        mean = logits.where(allowed, 0).sum(-1, keepdim=True) / count
        sigma = ((logits - mean).where(allowed, 0).square().sum(-1, keepdim=True) / count).sqrt()  # (B, 1)
        threshold = logits.amax(-1, keepdim=True) - self.n * sigma
        return logits.masked_fill(logits < threshold, -torch.inf)
