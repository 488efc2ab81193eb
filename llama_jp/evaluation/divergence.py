"""KL divergence, top-1 agreement and perplexity of a model and its reference on a text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from .documents import Text

ROWS_AT_ONCE = 128  # positions per block: bounds the memory for float64 probabilities (rows, V)


@dataclass(frozen=True)
class Divergence:
    """The distance of a model from its reference: means over the scored tokens of a text."""

    kl_divergence: float  # of the model from the reference, in nats per token: sum of p log(p / q)
    top1_agreement: float  # share of tokens, 0 … 1, for which both models have the same most probable token
    reference_perplexity: float
    perplexity: float


def measure_divergence(reference: Iterable[Tensor], model: Iterable[Tensor], text: Text) -> Divergence:
    """Compare the next-token distributions of two models.

    reference, model  logits (T, V) of each window of the text, in order; an iterator keeps one window in memory
    text              the windows, with the mask of scored tokens

    Probabilities are float64. Raises ValueError when the numbers of windows differ.
    """
    divergence, agreeing = 0.0, 0
    reference_loss, model_loss = 0.0, 0.0  # sums of -log p(token), in nats
    with (
        torch.inference_mode(),
        tqdm(desc="comparing", total=text.scored_tokens, unit=" tokens", disable=None, leave=False) as bar,
    ):
        for window, reference_logits, model_logits in zip(text.windows, reference, model, strict=True):
            # The logits at position t predict the token at t + 1, so the last row is not used.
            blocks = zip(
                reference_logits[:-1][window.scored].split(ROWS_AT_ONCE),
                model_logits[:-1][window.scored].split(ROWS_AT_ONCE),
                window.ids[0, 1:][window.scored].split(ROWS_AT_ONCE),
                strict=True,
            )
            for first, second, targets in blocks:
                p, q = first.double().log_softmax(-1), second.double().log_softmax(-1)  # (rows, V)
                divergence += (p.exp() * (p - q)).sum().item()
                agreeing += int((first.argmax(-1) == second.argmax(-1)).sum())
                reference_loss -= p.gather(-1, targets[:, None]).sum().item()
                model_loss -= q.gather(-1, targets[:, None]).sum().item()
                bar.update(len(targets))
    n = text.scored_tokens
    return Divergence(divergence / n, agreeing / n, math.exp(reference_loss / n), math.exp(model_loss / n))
