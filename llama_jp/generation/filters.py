"""Filters (logits processors): pure functions of the ids so far and the logits of the next token.

    filter(ids (B, N) int64, logits (B, V) float32) -> (B, V) float32

In `ids`, -1 marks padding. A forbidden token gets the logit -inf. Names, edge cases and the order of the arithmetic are
those of transformers' `generation/logits_process.py`, so the same seed samples the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from .checks import check_ids

Filter = Callable[[Tensor, Tensor], Tensor]


# Penalties and biases


def bias_sequences(logits: Tensor, ids: Tensor, biases: Mapping[tuple[int, ...], float]) -> Tensor:
    """Add a bias to the last token of a sequence wherever the other tokens of the sequence precede it.

    A sequence of one token always has its bias. Reference: `SequenceBiasLogitsProcessor`.
    """
    V = logits.shape[-1]
    if wrong := sorted({token for sequence in biases for token in sequence if token >= V}):
        raise ValueError(f"sequence_bias or bad_words_ids names {wrong}, but the vocabulary has {V} tokens")
    lengths = [1, *dict.fromkeys(len(sequence) for sequence in biases if len(sequence) > 1)]
    bias = torch.zeros_like(logits)
    # rounding: the reference's order of additions: single tokens first, then lengths as they appear
    for sequence, value in sorted(biases.items(), key=lambda item: lengths.index(len(item[0]))):
        *prefix, last = sequence
        if len(prefix) > ids.shape[1]:
            continue
        there = (ids[:, ids.shape[1] - len(prefix) :] == torch.tensor(prefix, device=ids.device)).all(-1)  # (B,)
        bias[:, last] += torch.where(there, value, 0.0)
    return logits + bias


def as_biases(given: Mapping[tuple[int, ...], float] | Sequence) -> dict[tuple[int, ...], float]:
    """Check biases: {(ids): bias}, or [[[ids], bias], …] as in JSON."""
    pairs = list(given.items() if isinstance(given, Mapping) else given)
    if not pairs:
        raise ValueError("sequence_bias is empty")
    biases = {}
    for pair in pairs:
        if not is_bias(pair):
            raise ValueError(f"sequence_bias pairs ids with a float, as in {{(10, 45): -2.0}}, not {pair!r}")
        sequence, value = pair
        check_ids("sequence_bias", sequence)
        biases[tuple(sequence)] = value
    return biases


def is_bias(pair: object) -> bool:
    """Whether this is a pair of a non-empty list of ids and a float."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return False
    sequence, value = pair
    return isinstance(sequence, list | tuple) and len(sequence) > 0 and isinstance(value, float)


def as_bad_words(words: Sequence[Sequence[int]], eos: Sequence[int]) -> dict[tuple[int, ...], float]:
    """Forbidden sequences as biases of -inf. EOS alone is ignored; min_new_tokens forbids it."""
    if not words:
        raise ValueError("bad_words_ids is empty")
    for word in words:
        if not isinstance(word, tuple | list) or not word:
            raise ValueError(f"bad_words_ids is a list of lists of ids, and {word!r} is not a list of ids")
        check_ids("bad_words_ids", word)
    return {tuple(word): -math.inf for word in words if list(word) not in [[token] for token in eos]}


def penalize_repetition(logits: Tensor, ids: Tensor, penalty: float) -> Tensor:
    """Make every earlier token less probable (penalty > 1): divide positive logits, multiply negative ones.

    A token is penalised once, however often it occurs. The prompt counts. See: "CTRL", arXiv:1909.05858, 4.1.
    """
    seen = count(ids, logits.shape[-1]) > 0
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def penalize_counts(logits: Tensor, ids: Tensor, presence: float, frequency: float) -> Tensor:
    """Subtract `presence` from the logit of every earlier token, and `frequency` for each of its occurrences.

    Not in transformers. The formula is that of OpenAI's API, which many servers share.
    """
    counts = count(ids, logits.shape[-1])
    return logits - presence * (counts > 0) - frequency * counts


def count(ids: Tensor, V: int) -> Tensor:
    """The number of occurrences of each token in each row, without padding: ids (B, N) -> (B, V)."""
    counts = torch.zeros(len(ids), V + 1, dtype=torch.long, device=ids.device)
    known = ids.where((ids >= 0) & (ids < V), V)  # padding counts in one more column after the vocabulary
    return counts.scatter_add_(1, known, torch.ones_like(ids))[:, :V]


def forbid_repeated_ngrams(logits: Tensor, ids: Tensor, n: int, among: Tensor | None = None) -> Tensor:
    """Forbid the token that would complete an n-gram of the earlier ids, or of the ids `among`.

    With n = 3 and … a b c … a b, the next token cannot be c. See: arXiv:1705.04304, 2.5.
    Reference: `NoRepeatNGramLogitsProcessor`, `EncoderNoRepeatNGramLogitsProcessor`.
    """
    V, N = logits.shape[-1], ids.shape[1]
    source = ids if among is None else among
    if n > min(source.shape[1], N + 1):
        return logits
    windows = source.unfold(1, n, 1)  # (B, number of windows, n)
    same = (windows[..., :-1] == ids[:, None, N + 1 - n :]).all(-1)  # windows that begin with the last n - 1 tokens
    forbidden = torch.zeros(len(ids), V + 1, dtype=torch.bool, device=ids.device)
    forbidden.scatter_(
        1, windows[..., -1].where(same, V).clamp(max=V), True
    )  # no match: the column after the vocabulary
    return logits.masked_fill(forbidden[:, :V], -math.inf)


# Length, required and forbidden tokens


def forbid(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Forbid these tokens. Used by min_length, min_new_tokens, suppress_tokens and begin_suppress_tokens."""
    V = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(torch.isin(V, torch.tensor(list(tokens), device=V.device)), -math.inf, logits)


def force(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Allow only these tokens, with equal logits. Used by forced_bos_token_id and forced_eos_token_id."""
    forced = torch.full_like(logits, -math.inf)
    forced[:, list(tokens)] = 0
    return forced


def favour_eos(logits: Tensor, eos: Sequence[int], factor: float, steps: int) -> Tensor:
    """Add |logit| * (factor^steps - 1) to EOS, `steps` tokens after the start of the decay.

    Reference: `ExponentialDecayLengthPenalty`.
    """
    if steps <= 0:
        return logits
    tokens = list(eos)
    bonus = torch.abs(logits[:, tokens]) * (factor**steps - 1)
    bonus = bonus.masked_fill(~logits[:, tokens].isfinite(), 0.0)  # a forbidden EOS stays forbidden
    added = torch.zeros_like(logits)
    added[:, tokens] = bonus
    return logits + added


def allow_only(logits: Tensor, ids: Tensor, allowed: Callable[[int, Tensor], Sequence[int]], num_beams: int) -> Tensor:
    """Allow only the tokens that a function of (prompt number, ids so far) returns. See: "GENRE", arXiv:2010.00904.

    If other filters forbid all of them for every beam of a prompt, the function overrides those filters.
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
    """Replace NaN by 0 and infinities by the largest finite numbers."""
    largest = torch.finfo(logits.dtype)
    logits = torch.where(logits.isnan(), 0.0, logits)
    return logits.clamp(largest.min, largest.max)


# The shape of the distribution. `at_least` tokens always remain: 1, or more in beam search.


def keep_top_k(logits: Tensor, k: int, at_least: int = 1) -> Tensor:
    """Keep the k most probable tokens, and all that tie with the last of them. See: arXiv:1805.04833, 5.4."""
    least = logits.topk(min(max(k, at_least), logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -math.inf)


def keep_top_p(logits: Tensor, p: float, at_least: int = 1) -> Tensor:
    """Keep the most probable tokens whose probabilities sum to p (nucleus sampling). See: arXiv:1904.09751."""
    ascending, order = logits.sort()
    # rounding: sum from the least probable token, as the reference does; the other order gives other sums
    remove = ascending.softmax(-1).cumsum(-1) <= 1 - p
    remove[..., -at_least:] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), -math.inf)


def keep_min_p(logits: Tensor, p: float, at_least: int = 1) -> Tensor:
    """Keep tokens with at least p times the largest probability. See: arXiv:2407.01082."""
    probabilities = logits.softmax(-1)
    remove = probabilities < p * probabilities.amax(-1, keepdim=True)
    best = probabilities.topk(min(at_least, logits.shape[-1])).indices
    return logits.masked_fill(remove.scatter(-1, best, False), -math.inf)


def keep_typical(logits: Tensor, mass: float, at_least: int = 1) -> Tensor:
    """Keep the tokens whose information -log p is closest to the entropy, until their probabilities sum to `mass`.

    Removes very improbable and very probable tokens. See: "Locally Typical Sampling", arXiv:2202.00666.
    """
    logp = logits.log_softmax(-1)
    entropy = -(logp * logp.exp()).nansum(-1, keepdim=True)  # 0 * -inf counts as 0
    distance, order = (-logp - entropy).abs().sort()
    needed = (logits.gather(-1, order).softmax(-1).cumsum(-1) < mass).sum(-1, keepdim=True)
    remove = distance > distance.gather(-1, needed.clamp(max=logits.shape[-1] - 1))
    remove[..., :at_least] = False
    return logits.masked_fill(remove.scatter(-1, order, remove), -math.inf)


def cut_epsilon(logits: Tensor, epsilon: float, at_least: int = 1) -> Tensor:
    """Remove tokens less probable than `epsilon`. See: "Truncation Sampling as Desmoothing", arXiv:2210.15191, 3."""
    return cut_below(logits, epsilon, at_least)


def cut_eta(logits: Tensor, epsilon: float, at_least: int = 1) -> Tensor:
    """Remove tokens less probable than eta = min(epsilon, sqrt(epsilon) * exp(-entropy)). See: arXiv:2210.15191, 4.

    A wider distribution has a lower threshold.
    """
    threshold = torch.tensor(epsilon, device=logits.device)  # rounding: in float32
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    return cut_below(logits, torch.min(threshold, threshold.sqrt() * torch.exp(-entropy))[..., None], at_least)


def cut_below(logits: Tensor, threshold: float | Tensor, at_least: int) -> Tensor:
    """Remove tokens less probable than `threshold`, except the `at_least` most probable and ties with the last."""
    least = logits.topk(min(at_least, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill((logits.softmax(-1) < threshold) & (logits < least), -math.inf)


def keep_top_h(logits: Tensor, share: float) -> Tensor:
    """Keep the most probable tokens while their entropy stays within `share` of the total; at least one.

    The total is the entropy of the 100 most probable tokens, as in the reference.
    See: "Top-H Decoding", arXiv:2509.02510.
    """
    best, order = logits.topk(min(100, logits.shape[-1]))
    most_probable = torch.distributions.Categorical(logits=best)
    bound = (most_probable.entropy() * share)[..., None]
    keep = (-most_probable.probs * torch.log(most_probable.probs)).cumsum(-1) <= bound
    keep[..., 0] = True
    kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, keep)
    return logits.masked_fill(~kept, -math.inf)
