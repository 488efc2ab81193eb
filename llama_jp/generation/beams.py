"""Beam search: keep the `num_beams` most probable partial answers, and return the most probable answers.

Every step extends all beams by every token, keeps the best extensions, and stores finished answers. The score of an
answer is the sum of its filtered log-probabilities, divided by length ** length_penalty once it is finished. With
do_sample the extensions are sampled without replacement.

See: "Google's Neural Machine Translation System", arXiv:1609.08144, 7; "Stochastic Beams", arXiv:1903.06059.
Reference: `GenerationMixin._beam_search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..text.tokenizer import Tokenizer
from .options import Options
from .results import Generation
from .sampling import sample
from .stop_strings import StopStringBuffer
from .task import DecodingTask

REASONS = ("length", "eos", "stop", "loop", "criterion", "time")
WORST = -1.0e9  # rounding: added to scores, as in the reference, not written in their place


@dataclass
class Beams:
    """m partial or finished answers to each of B prompts."""

    ids: Tensor  # (B, m, L), with the prompt
    total: Tensor  # (B, m) float32: the sum of scores
    finished: Tensor  # (B, m) bool
    length: Tensor  # (B, m) int64, of the answer
    reason: Tensor  # (B, m) int64, index in REASONS
    logprobs: Tensor  # (B, m, new tokens)
    scores: Tensor  # (B, m, new tokens)
    top_ids: Tensor  # (B, m, new tokens, top_logprobs)
    top_logprobs: Tensor  # (B, m, new tokens, top_logprobs)

    @classmethod
    def start(cls, ids: Tensor, new_tokens: int, top: int, totals: Sequence[float]) -> Beams:
        """Beams that contain only their prompt: ids (B, n, L)."""
        B, n, _ = ids.shape
        device = ids.device
        return cls(
            ids=ids.clone(),
            total=torch.tensor(totals, device=device).repeat(B, 1),
            finished=torch.zeros(B, n, dtype=torch.bool, device=device),
            length=torch.zeros(B, n, dtype=torch.long, device=device),
            reason=torch.zeros(B, n, dtype=torch.long, device=device),
            logprobs=torch.zeros(B, n, new_tokens, device=device),
            scores=torch.zeros(B, n, new_tokens, device=device),
            top_ids=torch.zeros(B, n, new_tokens, top, dtype=torch.long, device=device),
            top_logprobs=torch.zeros(B, n, new_tokens, top, device=device),
        )

    def map(self, function: Callable[..., Tensor], *others: Beams) -> Beams:
        """Apply a function to each tensor, together with the same tensor of other beams."""
        return Beams(*(function(*(getattr(each, one.name) for each in (self, *others))) for one in fields(self)))

    def select(self, index: Tensor) -> Beams:
        """The beams with these numbers, for every prompt: index (B, m)."""
        prompt = torch.arange(len(index), device=index.device)[:, None]
        return self.map(lambda tensor: tensor[prompt, index])

    def append(self, end: int, step: int, token: Tensor, logprobs: Tensor, scores: Tensor) -> None:
        """Add one token to every beam: token (B, m); logprobs and scores (B m, V) of the beams that it extends."""
        self.ids[:, :, end] = token
        self.length = torch.full_like(token, step + 1)
        chosen = token.flatten()[:, None]
        self.logprobs[:, :, step] = logprobs.gather(1, chosen).view(token.shape)
        self.scores[:, :, step] = scores.gather(1, chosen).view(token.shape)
        if top := self.top_ids.shape[-1]:
            best = logprobs.topk(top)
            self.top_ids[:, :, step] = best.indices.view(*token.shape, top)
            self.top_logprobs[:, :, step] = best.values.view(*token.shape, top)

    def generation(self, prompt: int, rank: int, prompt_length: int) -> Generation:
        """One finished answer."""
        length = int(self.length[prompt, rank])
        top = []
        if self.top_ids.shape[-1]:
            top_ids = self.top_ids[prompt, rank, :length].tolist()
            top_logprobs = self.top_logprobs[prompt, rank, :length].tolist()
            top = [list(zip(*pair, strict=True)) for pair in zip(top_ids, top_logprobs, strict=True)]
        return Generation(
            ids=self.ids[prompt, rank, prompt_length : prompt_length + length].tolist(),
            finish_reason=REASONS[int(self.reason[prompt, rank])],
            logprobs=self.logprobs[prompt, rank, :length].tolist(),
            scores=self.scores[prompt, rank, :length].tolist(),
            top_logprobs=top,
            sequence_score=float(self.total[prompt, rank]),
        )


@torch.no_grad()
def beam_search(task: DecodingTask, tokenizer: Tokenizer | None = None) -> list[Generation]:
    """The best `num_return_sequences` answers to every prompt, the best first."""
    options, runner, N, L = task.options, task.runner, task.prompt_length, task.ids.shape[1]
    n, V = options.beams, runner.model.config.vocab_size
    B = len(task.ids) // n
    width = max(2, 1 + len(options.eos)) * n  # enough that n beams continue even when every beam can end in every EOS
    length_penalty = 1.0 if options.length_penalty is None else options.length_penalty
    stop_early = options.early_stopping is True
    StopStringBuffer(tokenizer, options.strings)  # refuses stop strings without a tokenizer

    prompts = task.ids.view(B, n, L)
    running = Beams.start(prompts, L - N, options.top_logprobs, [0.0] + [WORST] * (n - 1))
    done = Beams.start(prompts, L - N, options.top_logprobs, [WORST] * n)
    improvable = torch.ones(B, 1, dtype=torch.bool, device=prompts.device)  # a running beam may still win
    first = torch.arange(B, device=prompts.device)[:, None] * n  # the row of each prompt's first beam

    for end in range(N, L):
        ids = running.ids[:, :, :end].flatten(0, 1)  # (B n, end)
        logprobs = runner.next_logits(ids).log_softmax(-1)  # (B n, V)
        scores = task.filter(ids, logprobs)
        totals = (scores.view(B, n, V) + running.total[..., None]).flatten(1)  # (B, n V)
        if options.do_sample:
            best = sample(totals.softmax(-1), width, task.generators)  # (B, width)
            total = totals.gather(1, best)
        else:
            total, best = totals.topk(width)
        parent, token = best // V, best % V

        candidates = running.select(parent)
        row = (first + parent).flatten()
        candidates.append(end, end - N, token, logprobs[row], scores[row])
        reasons = stop_reasons(task, candidates.ids[:, :, : end + 1].flatten(0, 1), scores[row], tokenizer)
        numbers = [REASONS.index(reason or "length") for reason in reasons]
        candidates.reason = torch.tensor(numbers, device=ids.device).view(B, width)
        ended = torch.tensor([reason is not None for reason in reasons], device=ids.device).view(B, width)

        # The n best candidates that have not ended continue …
        candidates.total = total + ended * WORST
        continued = candidates.total.topk(n).indices  # (B, n)
        running = candidates.select(continued)
        # … and those of the n best that have ended are stored, if they beat a stored answer.
        counted = ended & (torch.arange(width, device=ids.device) < n)
        full = done.finished.all(-1, keepdim=True) & stop_early
        final = total / (end + 1 - N) ** length_penalty
        candidates.total = final + full * WORST + ~improvable * WORST + ~counted * WORST
        candidates.finished = counted
        merged = done.map(lambda ours, theirs: torch.cat((ours, theirs), dim=1), candidates)
        done = merged.select(merged.total.topk(n).indices)

        improvable = improvable & may_improve(running, done, end + 1 - N, L - N, length_penalty, options)
        if not improvable.any() or (done.finished.all() and stop_early) or ended.all():
            break
        runner.reorder_rows((first + parent.gather(1, continued)).flatten().tolist())
    return [done.generation(prompt, rank, N) for prompt in range(B) for rank in range(options.copies)]


def stop_reasons(task: DecodingTask, ids: Tensor, scores: Tensor, tokenizer: Tokenizer | None) -> list[str | None]:
    """The reason for the end of each candidate, or None. Its text is rebuilt: a beam may continue another beam."""
    texts = []
    if task.options.strings:
        for row in ids.tolist():
            prompt = [token for token in row[: task.prompt_length] if token >= 0]
            texts.append(StopStringBuffer(tokenizer, task.options.strings, prompt))
            for token in row[task.prompt_length :]:
                texts[-1].push(token)
    return task.stopping(ids, scores, task.prompt_length, texts)


def may_improve(
    running: Beams, done: Beams, length: int, longest: int, length_penalty: float, options: Options
) -> Tensor:
    """Whether the best running beam can still beat the worst stored answer: (B, 1) bool.

    The sum of log-probabilities only falls, but division by length ** length_penalty can raise it. The length is the
    present one; with early_stopping "never" and a positive penalty, the greatest possible one.
    Reference: `_check_early_stop_heuristic`.
    """
    if options.early_stopping == "never" and length_penalty > 0:
        length = longest
    possible = running.total[:, :1] / length**length_penalty
    worst = done.total.amin(1, keepdim=True).where(done.finished, WORST)  # (B, n)
    return (possible > worst).any(-1, keepdim=True)
