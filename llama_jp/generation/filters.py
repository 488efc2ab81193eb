"""Logits to the next id: a chain of filters, then a choice.

A filter is a pure function of the ids so far and the logits of the next one, and returns new logits:

    filter(ids (B, N) int64, logits (B, V) float32) -> (B, V) float32

In `ids`, -1 stands for padding. What a filter forbids gets the logit -inf. Names, order and edge cases are those of
transformers' `generation/logits_process.py`, so that the same seed draws the same tokens; each makes its arithmetic
in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .checks import check_ids

Filter = Callable[[Tensor, Tensor], Tensor]


def bias_sequences(logits: Tensor, ids: Tensor, biases: Mapping[tuple[int, ...], float]) -> Tensor:
    """Add a bias to the token that would complete a sequence: to its last token where the others stand before it.

    A sequence of one token is biased always. Reference: `SequenceBiasLogitsProcessor`.
    """
    V = logits.shape[-1]
    if wrong := sorted({token for sequence in biases for token in sequence if token >= V}):
        raise ValueError(f"sequence_bias or bad_words_ids names {wrong}, but the vocabulary has {V} tokens")
    lengths = [1, *dict.fromkeys(len(sequence) for sequence in biases if len(sequence) > 1)]
    bias = torch.zeros_like(logits)
    # rounding: added up in the reference's order, single tokens first, then lengths as they come
    for sequence, value in sorted(biases.items(), key=lambda item: lengths.index(len(item[0]))):
        *prefix, last = sequence
        if len(prefix) > ids.shape[1]:
            continue
        there = (ids[:, ids.shape[1] - len(prefix) :] == torch.tensor(prefix, device=ids.device)).all(-1)  # (B,)
        bias[:, last] += torch.where(there, value, 0.0)
    return logits + bias


def as_biases(given: Mapping[tuple[int, ...], float] | Sequence) -> dict[tuple[int, ...], float]:
    """{(ids): bias}, or as JSON writes it [[[ids], bias], …]."""
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    if not pairs:
        raise ValueError("sequence_bias is empty")
    biases = {}
    for pair in pairs:
        match pair:
            case [[_, *_] as sequence, float(value)]:
                check_ids("sequence_bias", sequence)
                biases[tuple(sequence)] = value
            case _:
                raise ValueError(f"sequence_bias pairs ids with a float, as in {{(10, 45): -2.0}}, not {pair!r}")
    return biases


def as_bad_words(words: Sequence[Sequence[int]], eos: Sequence[int]) -> dict[tuple[int, ...], float]:
    """Sequences that must not come, as biases of -inf. EOS alone is left out: that is what min_new_tokens is for."""
    if not words:
        raise ValueError("bad_words_ids is empty")
    for word in words:
        if not isinstance(word, tuple | list) or not word:
            raise ValueError(f"bad_words_ids is a list of lists of ids, and {word!r} is not a list of ids")
        check_ids("bad_words_ids", word)
    return {tuple(word): -math.inf for word in words if list(word) not in [[token] for token in eos]}


def penalize_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make every token seen so far less likely (penalty > 1): divide positive logits, multiply negative ones.

    Once per token, however often it stood there; the prompt counts. See: "CTRL", arXiv:1909.05858, 4.1.
    """
    seen = count(ids, logits.shape[-1]) > 0
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalize_counts(logits: Tensor, ids: Tensor, presence: float, frequency: float) -> Tensor:
    """Subtract `presence` from every token seen so far, and `frequency` for each time it was.

    Not in transformers; the formula is that of OpenAI's API, which many servers share.
    """
    counts = count(ids, logits.shape[-1])
    return logits - presence * (counts > 0) - frequency * counts


def count(ids: Tensor, V: int) -> Tensor:
    """How often each token stands in each row, padding left out: ids (B, N) -> (B, V)."""
    counts = torch.zeros(len(ids), V + 1, dtype=torch.long, device=ids.device)
    known = ids.where((ids >= 0) & (ids < V), V)  # padding counts in the column behind the vocabulary
    return counts.scatter_add_(1, known, torch.ones_like(ids))[:, :V]


def forbid_repeated_ngrams(logits: Tensor, ids: Tensor, n: int, among: Tensor | None = None) -> Tensor:
    """Forbid what would complete n tokens in a row that have been there, or that stand in the ids `among`.

    With n = 3 and … a b c … a b, the next token must not be c. See: arXiv:1705.04304, 2.5; reference:
    `NoRepeatNGramLogitsProcessor`, `EncoderNoRepeatNGramLogitsProcessor`.
    """
    V, N = logits.shape[-1], ids.shape[1]
    there = ids if among is None else among
    if n > min(there.shape[1], N + 1):
        return logits
    windows = there.unfold(1, n, 1)  # (B, number of windows, n)
    same = (windows[..., :-1] == ids[:, None, N + 1 - n :]).all(-1)  # the last n - 1 tokens have been there before
    forbidden = torch.zeros(len(ids), V + 1, dtype=torch.bool, device=ids.device)
    forbidden.scatter_(1, windows[..., -1].where(same, V).clamp(max=V), True)  # no match: the column behind
    return logits.masked_fill(forbidden[:, :V], -math.inf)


def forbid(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """None of these tokens. Behind min_length, min_new_tokens, suppress_tokens and begin_suppress_tokens."""
    V = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(torch.isin(V, torch.tensor(list(tokens), device=V.device)), -math.inf, logits)


def force(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Nothing but these tokens, whatever the model says. Behind forced_bos_token_id and forced_eos_token_id."""
    forced = torch.full_like(logits, -math.inf)
    forced[:, list(tokens)] = 0
    return forced


def favour_eos(logits: Tensor, eos: Sequence[int], factor: float, steps: int) -> Tensor:
    """Add |logit| * (factor^steps - 1) to EOS, `steps` tokens after the answer should have begun to end.

    Reference: `ExponentialDecayLengthPenalty`.
    """
    if steps <= 0:
        return logits
    tokens = list(eos)
    bonus = torch.abs(logits[:, tokens]) * (factor**steps - 1)
    bonus = bonus.masked_fill(~logits[:, tokens].isfinite(), 0.0)  # what is forbidden stays forbidden
    added = torch.zeros_like(logits)
    added[:, tokens] = bonus
    return logits + added


def allow_only(logits: Tensor, ids: Tensor, allowed: Callable[[int, Tensor], Sequence[int]], num_beams: int) -> Tensor:
    """Only the tokens that a function of (prompt number, ids so far) names. See: "GENRE", arXiv:2010.00904.

    Where all that it names is forbidden already, for every beam of a prompt, its word counts alone.
    Reference: `PrefixConstrainedLogitsProcessor`.
    """
    mask = torch.full_like(logits, -math.inf)
    for row, so_far in enumerate(ids):
        tokens = list(allowed(row // num_beams, so_far))
        if not tokens:
            raise ValueError(f"prefix_allowed_tokens_fn allows no token for prompt {row // num_beams}")
        mask[row, tokens] = 0
    constrained = logits + mask
    stuck = constrained.amax(-1).isneginf().view(-1, num_beams).all(-1).repeat_interleave(num_beams)  # (B,)
    return torch.where(stuck[:, None], mask, constrained)


def remove_invalid(logits: Tensor) -> Tensor:
    """NaN becomes 0, infinities the largest finite numbers, so that nothing downstream breaks on them."""
    largest = torch.finfo(logits.dtype)
    logits = torch.where(logits.isnan(), 0.0, logits)
    return logits.clamp(largest.min, largest.max)


def apply_own(own: Filter, pad_id: int, ids: Tensor, logits: Tensor) -> Tensor:
    """A callable of the caller's, with the arguments that transformers gives: (ids, logits), padding as the pad id."""
    return own(ids.where(ids >= 0, pad_id), logits)


def keep_top_k(logits: Tensor, k: int, at_least: int = 1) -> Tensor:
    """Keep the k most likely tokens, and all that tie with the last of them. See: arXiv:1805.04833, 5.4."""
    least = logits.topk(min(max(k, at_least), logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, p: float, at_least: int = 1) -> Tensor:
    """Keep the most likely tokens whose probabilities add up to p. See: arXiv:1904.09751."""
    ascending, order = logits.sort()
    # rounding: summed from the unlikely end, as the reference does; from the likely end the sums would differ
    remove = ascending.softmax(-1).cumsum(-1) <= 1 - p
    remove[..., -at_least:] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), -math.inf)


def keep_min_p(logits: Tensor, p: float, at_least: int = 1) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest. See: arXiv:2407.01082."""
    probabilities = logits.softmax(-1)
    remove = probabilities < p * probabilities.amax(-1, keepdim=True)
    best = probabilities.topk(min(at_least, logits.shape[-1])).indices
    return logits.masked_fill(remove.scatter(-1, best, False), -math.inf)


def keep_typical(logits: Tensor, mass: float, at_least: int = 1) -> Tensor:
    """Keep tokens whose surprise -log p is closest to the expected one, the entropy, until they add up to `mass`.

    Drops what is too unlikely, and what is too likely as well. See: "Locally Typical Sampling", arXiv:2202.00666.
    """
    logp = logits.log_softmax(-1)
    entropy = -(logp * logp.exp()).nansum(-1, keepdim=True)  # 0 * -inf counts as 0
    distance, order = (-logp - entropy).abs().sort()
    needed = (logits.gather(-1, order).softmax(-1).cumsum(-1) < mass).sum(-1, keepdim=True)
    remove = distance > distance.gather(-1, needed.clamp(max=logits.shape[-1] - 1))
    remove[..., :at_least] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), -math.inf)


def cut_epsilon(logits: Tensor, epsilon: float, at_least: int = 1) -> Tensor:
    """Drop tokens less likely than `epsilon`. See: "Truncation Sampling as Desmoothing", arXiv:2210.15191, 3."""
    return cut_below(logits, epsilon, at_least)


def cut_eta(logits: Tensor, epsilon: float, at_least: int = 1) -> Tensor:
    """Drop tokens less likely than eta = min(epsilon, sqrt(epsilon) * exp(-entropy)). See: arXiv:2210.15191, 4.

    The wider the distribution, the lower the bar.
    """
    bar = torch.tensor(epsilon, device=logits.device)  # rounding: in float32
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return cut_below(logits, torch.min(bar, bar.sqrt() * torch.exp(-entropy))[..., None], at_least)


def cut_below(logits: Tensor, bar: float | Tensor, at_least: int) -> Tensor:
    """Drop tokens less likely than `bar`, but for the `at_least` likeliest and what ties with the last of them."""
    least = logits.topk(min(at_least, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill((logits.softmax(-1) < bar) & (logits < least), -math.inf)


def keep_top_h(logits: Tensor, share: float) -> Tensor:
    """Keep the likeliest tokens as long as their entropy stays within `share` of the whole, one at least.

    The whole is the entropy of the 100 likeliest, as in the reference. See: "Top-H Decoding", arXiv:2509.02510.
    """
    best, order = logits.topk(min(100, logits.shape[-1]))
    likeliest = torch.distributions.Categorical(logits=best)
    bound = (likeliest.entropy() * share)[..., None]
    keep = (-likeliest.probs * torch.log(likeliest.probs)).cumsum(-1) <= bound
    keep[..., 0] = True
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, keep)
    return logits.masked_fill(~kept, -math.inf)
