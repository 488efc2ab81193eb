"""KL divergence, top-1 agreement and perplexity of two models on a text."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm import tqdm

from .documents import Text

ROWS_AT_ONCE = 128  # positions whose probabilities are in memory at once


def measure_divergence(original: Iterable[Tensor], quantized: Iterable[Tensor], text: Text) -> dict:
    """The numbers, from both logits (T, V) of each window. Of the probabilities a few rows are in memory at once."""
    divergence, agreeing, losses = 0.0, 0, [0.0, 0.0]
    with (
        torch.inference_mode(),
        tqdm(desc="comparing", total=text.tokens, unit=" tokens", disable=None, leave=False) as bar,
    ):
        for (ids, counted), *logits in zip(text.windows, original, quantized, strict=True):
            predicted = [one[:-1][counted] for one in logits]
            rows = [part.split(ROWS_AT_ONCE) for part in (*predicted, ids[0, 1:][counted])]
            for first, second, targets in zip(*rows, strict=True):
                p, q = (part.double().log_softmax(-1) for part in (first, second))  # (T, V)
                divergence += (p.exp() * (p - q)).sum().item()
                agreeing += (first.argmax(-1) == second.argmax(-1)).sum().item()
                for i, part in enumerate((p, q)):
                    losses[i] -= part.gather(-1, targets[:, None]).sum().item()
                bar.update(len(targets))
    n = text.tokens
    return {
        "kl_divergence": divergence / n,
        "top1_agreement": agreeing / n,
        "perplexity": {"original": math.exp(losses[0] / n), "quantized": math.exp(losses[1] / n)},
    }
