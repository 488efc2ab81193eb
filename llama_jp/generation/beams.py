"""Beam search: keep the `num_beams` likeliest beginnings of an answer instead of one, and return the likeliest answers.

Every step extends all beams by every token, keeps the best of those, and puts answers that have ended aside. What is
"best" is the sum of the filtered log-probabilities, for finished answers divided by length ** length_penalty. With
do_sample the extensions are drawn without putting them back instead.

See: "Google's Neural Machine Translation System", arXiv:1609.08144, 7; "Stochastic Beams", arXiv:1903.06059;
reference: `GenerationMixin._beam_search`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..text.tokenizer import Tokenizer
from .options import Options
from .results import Generation
from .sampling import draw
from .stop_strings import StopStringBuffer
from .task import DecodingTask

Beams = dict[str, Tensor]
"""Answers side by side: each tensor is (B prompts, n answers, …). The keys are those of `no_beams`."""

REASONS = ("length", "eos", "stop", "loop", "criterion", "time")
WORST = -1.0e9  # rounding: added to scores rather than put in their place, as in the reference


@torch.no_grad()
def beam_search(task: DecodingTask, tokenizer: Tokenizer | None = None) -> list[Generation]:
    """The best `num_return_sequences` answers to every prompt, the best first."""
    options, runner, N, L = task.options, task.runner, task.prompt_length, task.ids.shape[1]
    n, V = options.beams, runner.model.config.vocab_size
    B = len(task.ids) // n
    width = max(2, 1 + len(options.eos)) * n  # so many that n go on even when every beam ends in every EOS
    new_text = StopStringBuffer(tokenizer, options.stop_strings)  # refuses stop strings without a tokenizer
    eager = options.early_stopping is True

    running = no_beams(task.ids.view(B, n, L), L - N, options.top_logprobs, [0.0] + [WORST] * (n - 1))
    done = no_beams(task.ids.view(B, n, L), L - N, options.top_logprobs, [WORST] * n)
    hopeful = torch.ones(B, 1, dtype=torch.bool, device=task.ids.device)  # may a running beam still win?
    first = torch.arange(B, device=task.ids.device)[:, None] * n  # the row of each prompt's first beam

    for end in range(N, L):
        ids = running["ids"][:, :, :end].flatten(0, 1)  # (B n, end)
        logprobs = runner.next_logits(ids).log_softmax(-1)  # (B n, V)
        scores = task.filter(ids, logprobs)
        totals = (scores.view(B, n, V) + running["total"][..., None]).flatten(1)  # (B, n V)
        if options.do_sample:
            best = draw(totals.softmax(-1), width, task.generators)  # (B, width)
            total = totals.gather(1, best)
        else:
            total, best = totals.topk(width)
        parent, token = best // V, best % V

        candidates = pick(running, parent)
        row = (first + parent).flatten()
        note(candidates, end - N, token, logprobs[row], scores[row], end)
        reasons = stop_reasons(task, candidates["ids"][:, :, : end + 1].flatten(0, 1), scores[row], new_text, tokenizer)
        numbers = [REASONS.index(reason or "length") for reason in reasons]
        candidates["reason"] = torch.tensor(numbers, device=ids.device).view(B, width)
        ended = torch.tensor([reason is not None for reason in reasons], device=ids.device).view(B, width)

        # The n best that have not ended go on …
        candidates["total"] = total + ended * WORST
        going = candidates["total"].topk(n).indices  # (B, n)
        running = pick(candidates, going)
        # … and those of the n best that have ended are put aside, where they beat what is there.
        counted = ended & (torch.arange(width, device=ids.device) < n)
        full = done["finished"].all(-1, keepdim=True) & eager
        final = total / (end + 1 - N) ** options.length_penalty
        candidates["total"] = final + full * WORST + ~hopeful * WORST + ~counted * WORST
        candidates["finished"] = counted
        merged = {name: torch.cat((done[name], candidates[name]), dim=1) for name in done}
        done = pick(merged, merged["total"].topk(n).indices)

        hopeful = hopeful & may_improve(running, done, end + 1 - N, L - N, options)
        if not hopeful.any() or (done["finished"].all() and eager) or ended.all():
            break
        runner.reorder_rows((first + parent.gather(1, going)).flatten().tolist())
    return [to_generation(done, prompt, rank, N, options) for prompt in range(B) for rank in range(options.copies)]


def no_beams(ids: Tensor, new_tokens: int, top: int, totals: Sequence[float]) -> Beams:
    """Beams that have nothing but their prompt."""
    B, n, _ = ids.shape
    return {
        "ids": ids.clone(),  # (B, n, L)
        "total": torch.tensor(totals, device=ids.device).repeat(B, 1),  # (B, n) float32
        "finished": torch.zeros(B, n, dtype=torch.bool, device=ids.device),
        "length": torch.zeros(B, n, dtype=torch.long, device=ids.device),  # of the answer
        "reason": torch.zeros(B, n, dtype=torch.long, device=ids.device),  # index in REASONS
        "logprobs": torch.zeros(B, n, new_tokens, device=ids.device),
        "scores": torch.zeros(B, n, new_tokens, device=ids.device),
        "top_ids": torch.zeros(B, n, new_tokens, top, dtype=torch.long, device=ids.device),
        "top_logprobs": torch.zeros(B, n, new_tokens, top, device=ids.device),
    }


def pick(beams: Beams, index: Tensor) -> Beams:
    """The beams of these numbers, for every prompt: index (B, m)."""
    prompt = torch.arange(len(index), device=index.device)[:, None]
    return {name: value[prompt, index] for name, value in beams.items()}


def note(beams: Beams, step: int, token: Tensor, logprobs: Tensor, scores: Tensor, end: int) -> None:
    """Write down what was chosen: token (B, m); logprobs and scores (B m, V), those of the beams it was chosen for."""
    beams["ids"][:, :, end] = token
    beams["length"] = torch.full_like(token, step + 1)
    chosen = token.flatten()[:, None]
    beams["logprobs"][:, :, step] = logprobs.gather(1, chosen).view(token.shape)
    beams["scores"][:, :, step] = scores.gather(1, chosen).view(token.shape)
    if top := beams["top_ids"].shape[-1]:
        best = logprobs.topk(top)
        beams["top_ids"][:, :, step] = best.indices.view(*token.shape, top)
        beams["top_logprobs"][:, :, step] = best.values.view(*token.shape, top)


def stop_reasons(
    task: DecodingTask, ids: Tensor, scores: Tensor, text: StopStringBuffer, tokenizer: Tokenizer | None
) -> list[str | None]:
    """Why each candidate has ended, or None. Its text is looked at as a whole: a beam's past may be another's."""
    texts = []
    if text.strings:
        for row in ids.tolist():
            prompt = [token for token in row[: task.prompt_length] if token >= 0]
            texts.append(StopStringBuffer(tokenizer, text.strings, prompt))
            for token in row[task.prompt_length :]:
                texts[-1].push(token)
    return task.stopping(ids, scores, task.prompt_length, texts)


def may_improve(running: Beams, done: Beams, length: int, longest: int, options: Options) -> Tensor:
    """Could the best running beam still beat the worst finished answer? (B, 1) bool.

    Log-probabilities only fall, but a length penalty can make up for it: by the length so far, or (`"never"` stopping
    early, and longer answers preferred) by the greatest possible one. Reference: `_check_early_stop_heuristic`.
    """
    if options.early_stopping == "never" and options.length_penalty > 0:
        length = longest
    possible = running["total"][:, :1] / length**options.length_penalty
    worst = done["total"].amin(1, keepdim=True).where(done["finished"], WORST)  # (B, n)
    return (possible > worst).any(-1, keepdim=True)


def to_generation(beams: Beams, prompt: int, rank: int, begin: int, options: Options) -> Generation:
    one = {name: value[prompt, rank] for name, value in beams.items()}
    length = int(one["length"])
    top = zip(one["top_ids"][:length].tolist(), one["top_logprobs"][:length].tolist(), strict=True)
    return Generation(
        ids=one["ids"][begin : begin + length].tolist(),
        finish_reason=REASONS[int(one["reason"])],
        logprobs=one["logprobs"][:length].tolist(),
        scores=one["scores"][:length].tolist(),
        top_logprobs=[list(zip(*pair, strict=True)) for pair in top] if options.top_logprobs else [],
        sequence_score=float(one["total"]),
    )
