"""KL divergence, top-1 agreement and perplexity of a model and its reference on a text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .documents import Text, Window

ROWS_AT_ONCE = 128  # positions per block: bounds the memory for float64 probabilities (rows, V)


@dataclass(frozen=True)
class Divergence:
    """The distance of a model from its reference: means over the scored tokens of a text."""

    kl_divergence: float  # of the model from the reference, in nats per token: sum of p log(p / q)
    top1_agreement: float  # share of tokens, 0 … 1, for which both models have the same most probable token
    reference_perplexity: float
    perplexity: float


class ScoredBlock(NamedTuple):
    """Up to ROWS_AT_ONCE scored positions of one window."""

    window: int  # its number in the list
    rows: Tensor  # (N,) int64: row t of the logits predicts the token at t + 1
    targets: Tensor  # (N,) int64: the tokens at t + 1
    log_probs: list[Tensor]  # (N, V) float64, one for each model

    def losses(self) -> list[float]:
        """The sum of -log p(token) of each model, in nats."""
        return [-each.gather(-1, self.targets[:, None]).sum().item() for each in self.log_probs]


class TopDifference(NamedTuple):
    """The first scored position at which two models have different most probable tokens. Instances sort by position."""

    window: int
    row: int
    reference: int  # the reference's most probable token
    token: int  # the model's
    margin: float  # log p(reference) - log p(token) in the reference, in nats


@dataclass
class DivergenceSums:
    """Sums over scored positions of a reference p and a model q."""

    tokens: int = 0
    divergence: float = 0.0
    agreeing: int = 0
    reference_loss: float = 0.0  # sum of -log p(token), in nats
    loss: float = 0.0
    first_difference: TopDifference | None = None
    by_token: list[Tensor] = field(default_factory=list)  # the divergence of each token, float64, in blocks

    def add(self, block: ScoredBlock) -> tuple[float, float]:
        """Add a block with the probabilities of the reference and the model. Returns the losses of the two."""
        p, q = block.log_probs
        first, second = p.argmax(-1), q.argmax(-1)
        divergence = (p.exp() * (p - q)).sum(-1)
        self.divergence += divergence.sum().item()
        self.by_token.append(divergence.cpu())
        self.agreeing += int((first == second).sum())
        reference_loss, loss = block.losses()
        self.reference_loss += reference_loss
        self.loss += loss
        self.tokens += len(block.targets)
        for i in (first != second).nonzero()[:1, 0].tolist():
            a, b = int(first[i]), int(second[i])
            found = TopDifference(block.window, int(block.rows[i]), a, b, float(p[i, a] - p[i, b]))
            self.first_difference = min(found, self.first_difference or found)
        return reference_loss, loss


def measure_divergence(reference: Iterable[Tensor], model: Iterable[Tensor], text: Text) -> Divergence:
    """Compare the next-token distributions of two models.

    reference, model  logits (T, V) of each window of the text, in order; an iterator keeps one window in memory
    text              the windows, with the mask of scored tokens

    Probabilities are float64. Raises ValueError when the numbers of windows differ.
    """
    sums = DivergenceSums()
    logits = (scored_rows(text.windows, each) for each in (reference, model))
    for block in scored_blocks(text.windows, *logits, title="comparing"):
        sums.add(block)
    n = sums.tokens
    return Divergence(
        sums.divergence / n, sums.agreeing / n, math.exp(sums.reference_loss / n), math.exp(sums.loss / n)
    )


def scored_rows(windows: Sequence[Window], logits: Iterable[Tensor]) -> Iterator[Tensor]:
    """The rows (N, V) of the logits of each window that predict a scored token.

    logits  of each window in order: (T, V), or (T - 1, V) without the last row

    Raises ValueError when the numbers of windows differ.
    """
    for window, each in zip(windows, logits, strict=True):
        yield each[window.scored.nonzero()[:, 0].to(each.device)]


@torch.inference_mode()
def scored_blocks(
    windows: Sequence[Window], *models: Iterable[Tensor], title: str, numbers: Sequence[int] | None = None
) -> Iterator[ScoredBlock]:
    """The scored positions of windows, block by block, with the log probabilities of each model.

    models   for each model an iterable of the scored rows (N, V) of each window in order, see `scored_rows`
    title    of the progress bar
    numbers  of the windows in the blocks; default: 0, 1, 2, …

    Raises ValueError when the numbers of windows differ.
    """
    numbers = range(len(windows)) if numbers is None else numbers
    total = sum(int(window.scored.sum()) for window in windows)
    with tqdm(desc=title, total=total, unit=" tokens", disable=None, leave=False) as bar:
        for number, window, *logits in zip(numbers, windows, *models, strict=True):
            rows = window.scored.nonzero()[:, 0]
            for block, *parts in zip(*(each.split(ROWS_AT_ONCE) for each in (rows, *logits)), strict=True):
                log_probs = [part.double().log_softmax(-1) for part in parts]
                targets = window.ids[0, 1:][block].to(log_probs[0].device)
                yield ScoredBlock(number, block, targets, [each.to(targets.device) for each in log_probs])
                bar.update(len(block))
