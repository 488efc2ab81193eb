"""Log-likelihoods of given continuations: the score of multiple-choice tasks, as lm-eval computes it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import Llama
from ..numerics import all_finite
from ..text.tokenizer import Tokenizer
from .logits import batch_by_length, batched_logits


class ChoiceScore(NamedTuple):
    """How probable a continuation is."""

    log_likelihood: float  # sum of log p(token) over its tokens, in nats
    is_greedy: bool  # whether each of its tokens is the most probable one


def choice_log_likelihoods(
    model: Llama,
    tokenizer: Tokenizer,
    context: str,
    choices: Sequence[str],
    softmax_dtype: torch.dtype | None = None,
) -> list[ChoiceScore]:
    """The log-likelihood of each choice after a context.

    context        a text, to which the choice is appended: a space between the two belongs to the choice. "" is BOS
    softmax_dtype  of the log softmax and the sum; None: that of the logits, as in lm-eval, which is coarse in 16 bits

    The numbers are those of lm-eval's `loglikelihood` with its transformers backend. Choices that differ only in their
    last token share one row of the batch. The beginning of a context that does not fit is left out, with a warning.

    Raises ValueError if there are no choices, and for a choice without tokens or with more than the context holds.
    """
    if isinstance(choices, str) or not choices:
        raise ValueError("choices is a list of texts with at least one choice")
    requests = [encode_choice(tokenizer, context, choice) for choice in choices]
    return score_continuations(model, requests, softmax_dtype=softmax_dtype)


def encode_choice(tokenizer: Tokenizer, context: str, choice: str) -> tuple[list[int], list[int]]:
    """The ids of the context and of the choice.

    The whole text is encoded, so a choice may begin inside a token; white space at the end of the context moves to the
    choice. Reference: `TemplateLM.loglikelihood` and `_encode_pair`.
    """
    prefix = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if not context:
        if prefix is None:
            raise ValueError("the tokenizer has neither BOS nor EOS, so the context cannot be empty")
        ids = tokenizer.encode(choice, bos=False, parse_special=True)
        return ([prefix], ids) if ids[:1] != [prefix] else (ids[:1], ids[1:])
    before = context.rstrip()
    whole = tokenizer.encode(context + choice, bos=tokenizer.adds_bos, parse_special=True)
    context_ids = tokenizer.encode(before, bos=tokenizer.adds_bos, parse_special=True)
    return context_ids, whole[len(context_ids) :]


@torch.inference_mode()
def score_continuations(
    model: Llama,
    requests: Sequence[tuple[list[int], list[int]]],
    *,
    context: int | None = None,
    batch_size: int | None = None,
    softmax_dtype: torch.dtype | None = None,
) -> list[ChoiceScore]:
    """Score continuations, given as (ids of the context, ids of the continuation).

    context     tokens that the model sees at most; default: the model's context
    batch_size  rows of a batch; the batches are then those of lm-eval. Default: as many as fit into a bounded memory

    Raises ValueError for a continuation that is empty or does not fit, for ids outside the vocabulary, and for logits
    that are not finite.
    """
    limit = context or model.config.context_length
    V = model.config.vocab_size
    rows: dict[tuple[int, ...], list[int]] = {}  # ids of the input -> the requests that need its logits
    for number, (before, ids) in enumerate(requests):
        if not ids:
            raise ValueError(f"continuation {number} adds no token to its context, so there is nothing to score")
        if len(ids) > limit:
            raise ValueError(f"continuation {number} has {len(ids)} tokens, but the context holds {limit}")
        if max([*before, *ids]) >= V:
            raise ValueError(f"the tokenizer gives ids of {V} and more; use the tokenizer of this model")
        if (excess := len(before) + len(ids) - limit - 1) > 0:
            warnings.warn(
                f"the first {excess} tokens of context {number} do not fit into {limit} tokens and are left out",
                stacklevel=3,
            )
        rows.setdefault(tuple([*before, *ids][-limit - 1 : -1]), []).append(number)
    inputs = sorted(rows, key=lambda row: (-len(row), row))
    if batch_size is None:
        batches = batch_by_length([len(row) for row in inputs], model.config)
    else:
        batches = [
            list(range(start, min(start + batch_size, len(inputs)))) for start in range(0, len(inputs), batch_size)
        ]
    order = [number for batch in batches for number in batch]
    scores: dict[int, ChoiceScore] = {}
    for row, logits in zip(order, batched_logits(model, inputs, batches), strict=True):
        for number in rows[inputs[row]]:
            scores[number] = score(logits, requests[number][1], softmax_dtype)
    return [scores[number] for number in range(len(requests))]


def score(logits: Tensor, ids: list[int], softmax_dtype: torch.dtype | None) -> ChoiceScore:
    """The score of the ids that the last logits (T, V) predict."""
    last = logits[-len(ids) :]
    if not all_finite(last):
        raise ValueError("the model's logits hold NaN or infinity; load it with another dtype, such as float32")
    targets = torch.tensor(ids, device=last.device)
    # rounding: lm-eval computes and sums log probabilities in the dtype of the logits
    log_probs = last.log_softmax(-1, dtype=softmax_dtype).gather(-1, targets[:, None])[:, 0]
    return ChoiceScore(float(log_probs.sum()), bool((last.argmax(-1) == targets).all()))
