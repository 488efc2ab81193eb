"""The decoding loop: greedy decoding and sampling, one token per step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .results import GeneratedToken
from .sampling import choose
from .stop_strings import StopStringBuffer
from .task import DecodingTask


@torch.no_grad()
def decode(task: DecodingTask, texts: Sequence[StopStringBuffer]) -> Iterator[list[GeneratedToken | None]]:
    """For each step, the next token of every row, or None for a finished row."""
    ids, N, runner = task.ids, task.prompt_length, task.runner
    running = [True] * len(ids)
    logits = runner.next_logits(ids[:, :N])  # prefill: the whole prompt; (B, V)
    for end in range(N, ids.shape[1]):
        tokens = next_tokens(task, end, logits, running, texts)
        yield [token if active else None for token, active in zip(tokens, running, strict=True)]

        running = [active and token.finish_reason is None for active, token in zip(running, tokens, strict=True)]
        if not any(running):
            return
        runner.drop_finished(running)
        logits = runner.next_logits(ids[:, : end + 1])  # decode: one new token per row


def next_tokens(
    task: DecodingTask, end: int, logits: Tensor, running: Sequence[bool], texts: Sequence[StopStringBuffer]
) -> list[GeneratedToken]:
    """Choose the token at index `end` of every row, and write it into the task's ids: logits (B, V).

    A finished row gets the pad id there; its token is not used.
    """
    ids, options = task.ids, task.options
    scores = task.filter(ids[:, :end], logits)  # (B, V)
    chosen = choose(scores, bool(options.do_sample), task.generators)  # (B,)
    ids[:, end] = chosen.where(torch.tensor(running, device=chosen.device), task.pad_id)
    for row, token in enumerate(chosen.tolist()):
        if running[row] and texts:
            texts[row].push(token)
    reasons = task.stopping(ids[:, : end + 1], scores, task.prompt_length, texts)
    return token_outputs(chosen, scores, logits, reasons, options.top_logprobs)


def token_outputs(
    chosen: Tensor, scores: Tensor, logits: Tensor, reasons: Sequence[str | None], top: int
) -> list[GeneratedToken]:
    """The chosen token of every row (B,), its probability, and the `top` most probable alternatives."""
    logprobs = logits.log_softmax(-1)  # (B, V)
    best = logprobs.topk(min(top, logits.shape[-1]))  # (B, top)
    index = chosen[:, None]
    chosen_logprobs, chosen_scores = logprobs.gather(-1, index)[:, 0].tolist(), scores.gather(-1, index)[:, 0].tolist()
    return [
        GeneratedToken(
            id=token,
            logprob=chosen_logprobs[row],
            finish_reason=reasons[row],
            score=chosen_scores[row],
            top=list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)),
        )
        for row, token in enumerate(chosen.tolist())
    ]
