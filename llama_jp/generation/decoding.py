"""Greedy decoding and sampling: the loop."""

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
    ids, N, runner, options = task.ids, task.prompt_length, task.runner, task.options
    running = [True] * len(ids)
    logits = runner.next_logits(ids[:, :N])  # prefill: the whole prompt; (B, V)
    for end in range(N, ids.shape[1]):
        scores = task.filter(ids[:, :end], logits)  # (B, V)
        chosen = choose(scores, options.do_sample, task.generators)  # (B,)
        ids[:, end] = chosen.where(torch.tensor(running, device=chosen.device), options.pad_token_id)

        for row, token in enumerate(chosen.tolist()):
            if running[row] and texts:
                texts[row].push(token)
        reasons = task.stopping(ids[:, : end + 1], scores, N, texts)
        chosen_now = token_outputs(chosen, scores, logits, reasons, options.top_logprobs)
        yield [choice if going else None for choice, going in zip(chosen_now, running, strict=True)]

        running = [going and reason is None for going, reason in zip(running, reasons, strict=True)]
        if not any(running):
            return
        runner.drop_finished(running)
        logits = runner.next_logits(ids[:, : end + 1])  # decode: one new token per row, behind what the cache holds


def token_outputs(
    chosen: Tensor, scores: Tensor, logits: Tensor, reasons: Sequence[str | None], top: int
) -> list[GeneratedToken]:
    """What was chosen, how likely it was, and the `top` likeliest alternatives, for every row."""
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(min(top, logits.shape[-1]))
    alternatives = [
        list(zip(*pair, strict=True)) for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [
        GeneratedToken(*columns)
        for columns in zip(
            chosen.tolist(),
            logprobs.gather(-1, chosen[:, None])[:, 0].tolist(),
            reasons,
            scores.gather(-1, chosen[:, None])[:, 0].tolist(),
            alternatives,
            strict=True,
        )
    ]
