"""Logits to the next id: a chain of filters, then a choice.

A filter is a pure function of the ids so far and the logits of the next one, and returns new logits:

    filter(ids (B, N) int64, logits (B, V) float32) -> (B, V) float32

In `ids`, -1 stands for padding. What a filter forbids gets the logit -inf. Names, order and edge cases are those of
transformers' `generation/logits_process.py`, so that the same seed draws the same tokens; each makes its arithmetic
in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Filter = Callable[[Tensor, Tensor], Tensor]


def make_filters(
    *,
    do_sample: bool,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
) -> list[Filter]:
    """The filters that these options ask for, in transformers' order; neutral values leave theirs out.

    What changes the shape of the distribution (temperature to min_p) matters to sampling only and is left out of
    greedy decoding. Raises ValueError for a value outside its range.
    """
    check_range("repetition_penalty", repetition_penalty, above=0)
    check_range("temperature", temperature, above=0, hint="; for greedy decoding use do_sample=False")
    check_range("top_k", top_k, least=0, whole=True)
    check_range("top_p", top_p, least=0, most=1)
    check_range("min_p", min_p, least=0, most=1)

    filters: list[Filter] = []
    if repetition_penalty not in (None, 1):
        filters.append(lambda ids, logits: penalize_repetition(logits, ids, repetition_penalty))
    if not do_sample:
        return filters
    if temperature not in (None, 1):
        filters.append(lambda ids, logits: logits / temperature)
    if top_k:
        filters.append(lambda ids, logits: keep_top_k(logits, top_k))
    if top_p is not None and top_p < 1:
        filters.append(lambda ids, logits: keep_top_p(logits, top_p))
    if min_p is not None:
        filters.append(lambda ids, logits: keep_min_p(logits, min_p))
    return filters


def check_range(
    name: str,
    value: float | None,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    whole: bool = False,
    hint: str = "",
) -> None:
    """One sentence for a number outside its range; None means "not asked for" and passes."""
    if value is None:
        return
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not (value > above and least <= value <= most):
        kind = "a whole number" if whole else "a number"
        limits = [f"above {above:g}"] * (above > -math.inf)
        limits += [f"of at least {least:g}"] * (least > -math.inf) + [f"of at most {most:g}"] * (most < math.inf)
        raise ValueError(f"{name} has to be {kind} {' and '.join(limits)}, not {value!r}{hint}")


def penalize_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make every token seen so far less likely (penalty > 1): divide positive logits, multiply negative ones.

    Once per token, however often it stood there; the prompt counts. See: "CTRL", arXiv:1909.05858, 4.1.
    """
    V = logits.shape[-1]
    seen = torch.zeros(len(logits), V + 1, dtype=torch.bool, device=logits.device)
    seen.scatter_(1, ids.where(ids >= 0, V), True)  # padding marks the column behind the vocabulary
    return torch.where(seen[:, :V], torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens, and all that tie with the last of them."""
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most likely tokens whose probabilities add up to p, one at least. See: arXiv:1904.09751."""
    ascending, order = logits.sort()
    # rounding: summed from the unlikely end, as the reference does; from the likely end the sums would differ
    remove = ascending.softmax(-1).cumsum(-1) <= 1 - p
    remove[..., -1] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest. See: arXiv:2407.01082."""
    probabilities = logits.softmax(-1)
    best = probabilities.max(-1, keepdim=True)
    remove = probabilities < p * best.values
    return logits.masked_fill(remove.scatter(-1, best.indices, False), -math.inf)


def choose(
    logits: Tensor, do_sample: bool, generators: Sequence[torch.Generator] | torch.Generator | None = None
) -> Tensor:
    """The next id of every row: the likeliest, or one drawn from the softmax. logits (B, V) -> (B,) int64.

    One generator (None: torch's global one) draws for all rows as transformers does; a list gives each row its own,
    so that what a row draws does not depend on its neighbours.
    """
    if not do_sample:
        return logits.argmax(-1)
    probabilities = logits.softmax(-1)
    if isinstance(generators, Sequence):
        rows = zip(probabilities, generators, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])
    return torch.multinomial(probabilities, 1, generator=generators).squeeze(1)
