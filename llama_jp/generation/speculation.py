"""Speculation: propose draft tokens cheaply, verify all of them in one call of the model, keep the accepted ones.

A call of a large model costs about one pass over its weights, for one position or for eight. Accepted draft tokens save
calls; rejected ones cost little, and `DraftLengthSchedule` proposes fewer after rejections.

Greedy answers are unchanged, except where two logits tie within rounding; `query_by_query` makes that rare in 16 bits.
Sampled answers keep their distribution, but a seed gives other tokens than without speculation.

See: "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, 2; prompt lookup: A. Saxena, 2023.
Reference: `GenerationMixin._assisted_decoding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..model import Attention, Llama, SelfAttention
from .decoding import token_outputs
from .guidance import Guidance
from .results import GeneratedToken, Generation
from .sampling import Generators, choose, sample
from .stop_strings import StopStringBuffer
from .task import DecodingTask


class Draft(NamedTuple):
    """Draft tokens, and the distributions (tokens, V) they were sampled from. None: each was certain."""

    tokens: list[int]
    probabilities: Tensor | None = None


class DraftSource(Protocol):
    """Proposes draft tokens: at most `tokens` for one call of the model."""

    tokens: int

    def propose(self, ids: list[int], most: int) -> Draft:
        """Up to `most` draft tokens after the ids."""


class PromptLookup:
    """Drafts the tokens that followed the last occurrence of the newest n-gram. Costs nothing."""

    def __init__(self, tokens: int, ngram: int) -> None:
        self.tokens, self.ngram = tokens, ngram

    def propose(self, ids: list[int], most: int) -> Draft:
        """Up to `most` draft tokens after the ids; none where the n-gram does not occur earlier."""
        for size in range(min(self.ngram, len(ids) - 1), 0, -1):
            for begin in range(len(ids) - size - 1, -1, -1):
                if ids[begin : begin + size] == ids[-size:]:
                    text = list(ids)
                    for i in range(min(self.tokens, most)):
                        text.append(text[begin + size + i])  # may copy a draft token, so a repetition continues
                    return Draft(text[len(ids) :])
        return Draft([])


class DraftModel:
    """Drafts with a smaller model of the same vocabulary. Its logits pass the same filters."""

    def __init__(self, model: Llama, task: DecodingTask, tokens: int) -> None:
        V = task.runner.model.config.vocab_size
        if model.config.vocab_size != V:
            raise ValueError(
                f"the draft model's vocabulary has {model.config.vocab_size} tokens, the model's {V}; "
                "use a draft model with the same tokenizer"
            )
        self.model, self.task, self.tokens = model, task, tokens
        self.cache = model.new_cache(1, task.ids.shape[1])

    def propose(self, ids: list[int], most: int) -> Draft:
        """Up to `most` draft tokens after the ids, with their distributions when sampling."""
        do_sample = bool(self.task.options.do_sample)
        text, distributions = list(ids), []
        self.cache.crop(min(self.cache.length, len(ids) - 1))  # remove draft tokens that were rejected
        for _ in range(min(self.tokens, most)):
            new = torch.tensor([text[self.cache.length :]], device=self.task.ids.device)
            logits = self.model(new, self.cache, last_only=True)[:, -1].float()
            scores = self.task.filter(torch.tensor([text], device=new.device), logits)
            text.append(int(choose(scores, do_sample, self.task.generators)))
            distributions.append(scores.softmax(-1))
        return Draft(text[len(ids) :], torch.cat(distributions) if do_sample and distributions else None)


class DraftLengthSchedule:
    """The number of draft tokens for each call. Counts decide, not clocks, so a run repeats exactly.

    The number doubles after a call that accepts all draft tokens, and halves after one that accepts fewer than half.
    After a single rejected token, drafting pauses; each further rejection doubles the pause.
    """

    LONGEST_PAUSE = 32  # calls

    def __init__(self, most: int) -> None:
        self.most = self.now = most
        self.pause = self.remaining = 0

    def next(self) -> int:
        """The number of draft tokens for the next call."""
        if self.remaining:
            self.remaining -= 1
            return 0
        return self.now

    def update(self, drafted: int, accepted: int) -> None:
        """Record the result of a call."""
        if not drafted:
            return
        if accepted:
            self.pause = 0
        elif self.now == 1:
            self.remaining = self.pause = min(2 * self.pause or 1, self.LONGEST_PAUSE)
        if accepted == drafted:
            self.now = min(2 * self.now, self.most)
        elif 2 * accepted < drafted:
            self.now = max(self.now // 2, 1)


def make_draft(task: DecodingTask, assistant_model: Llama | None) -> DraftSource:
    """The source of draft tokens for a task. Refuses, as the reference does, what speculation cannot do."""
    options = task.options
    if len(task.ids) > 1:
        raise ValueError(f"speculation works on one answer at a time, not on {len(task.ids)}")
    if options.past_context == "shift":
        raise ValueError("past_context='shift' cannot be combined with speculation")
    if any(isinstance(filter, Guidance) for filter in task.filters):
        raise ValueError("guidance_scale cannot be combined with speculation")
    if assistant_model is not None:
        if options.prompt_lookup_num_tokens:
            raise ValueError("prompt_lookup_num_tokens and a draft model both propose tokens; choose one of them")
        return DraftModel(assistant_model, task, options.num_assistant_tokens or 4)
    assert options.prompt_lookup_num_tokens is not None  # there is no speculation otherwise
    return PromptLookup(options.prompt_lookup_num_tokens, options.max_matching_ngram_size or 2)


@torch.no_grad()
def speculate(
    task: DecodingTask, text: StopStringBuffer, draft: DraftSource, answer: Generation
) -> Iterator[list[GeneratedToken | None]]:
    """`decoding.decode` for one row, with several tokens for each call of the model.

    Counts drafted and accepted tokens, and calls of the model, in `answer`.
    """
    ids, N, runner, options = task.ids, task.prompt_length, task.runner, task.options
    weight = runner.model.embed_tokens.weight
    same_bits = not options.do_sample and options.exact and weight.device.type == "cpu" and weight.dtype.itemsize == 2
    schedule = DraftLengthSchedule(draft.tokens)
    logits = runner.next_logits(ids[:, :N])  # prefill: the whole prompt; (1, V)
    end, drafted = N, Draft([])
    while True:
        # logits (1 + drafted, V): the next token after the text and after each draft token
        candidate = torch.cat((ids[:, :end], row_of(drafted.tokens, ids)), dim=1)
        scores = torch.cat(
            [task.filter(candidate[:, : end + i], logits[i : i + 1]) for i in range(len(drafted.tokens) + 1)]
        )
        if options.do_sample:
            chosen, accepted = verify_sampled(scores.softmax(-1), drafted, task.generators)
        else:
            chosen, accepted = verify_greedy(scores, drafted.tokens)
        answer.drafted += len(drafted.tokens)
        answer.accepted += accepted
        answer.passes += 1
        schedule.update(len(drafted.tokens), accepted)
        runner.cache.crop(end + accepted)  # remove rejected tokens before the caller can see the cache

        for i, token in enumerate(chosen):  # the accepted draft tokens and one of the model's own
            ids[:, end] = token
            end += 1
            text.push(token)
            reasons = task.stopping(ids[:, :end], scores[i : i + 1], N, [text])
            token_now = torch.tensor([token], device=ids.device)
            tokens = token_outputs(token_now, scores[i : i + 1], logits[i : i + 1], reasons, options.top_logprobs)
            if reasons[0] is not None:
                runner.cache.crop(min(runner.cache.length, end - 1))
            yield [*tokens]
            if reasons[0] is not None:
                return

        most = min(schedule.next(), ids.shape[1] - end - 1)
        drafted = draft.propose(ids[0, :end].tolist(), most) if most else Draft([])
        new = torch.cat((ids[:, end - 1 : end], row_of(drafted.tokens, ids)), dim=1)
        with query_by_query(runner.model) if same_bits and drafted.tokens else nullcontext():
            logits = runner.checked(
                runner.model(new, runner.cache)[0]
            )  # the newest token and all draft tokens in one call


def row_of(tokens: list[int], like: Tensor) -> Tensor:
    """Tokens as one row of ids: (1, T)."""
    return torch.tensor([tokens], dtype=like.dtype, device=like.device)


@contextmanager
def query_by_query(model: Llama) -> Iterator[None]:
    """Inside, attention processes one query after the other, each with the keys that are visible to it.

    Kernels for several queries sum in another order than kernels for one. Here a call for several tokens has the bits
    of single calls if its matrix products are batch-invariant: nearly always in bfloat16 and float16, not in float32.
    """
    modules = [module for module in model.modules() if isinstance(module, SelfAttention)]
    before = [module.attend for module in modules]
    try:
        for module, attend in zip(modules, before, strict=True):
            module.attend = partial(attend_each, attend)
        yield
    finally:
        for module, attend in zip(modules, before, strict=True):
            module.attend = attend


def attend_each(attend: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *positions: Tensor) -> Tensor:
    """Call `attend` for every query with the arguments of a call for one token."""
    T, S = q.shape[2], k.shape[2]
    outputs = []
    for i in range(T):
        end = S - T + i + 1
        visible_k, visible_v = (x[:, :, :end] if x.shape[3] % 16 == 0 else x[:, :, :end].contiguous() for x in (k, v))
        # contiguous: see LayerCache.append
        outputs.append(attend(q[:, :, i : i + 1], visible_k, visible_v, None, *(p[:, :end] for p in positions)))
    return torch.cat(outputs, dim=2)


def verify_greedy(scores: Tensor, drafted: Sequence[int]) -> tuple[list[int], int]:
    """The accepted draft tokens and the model's next token, and the number accepted: scores (1 + drafted, V)."""
    best = scores.argmax(-1).tolist()
    accepted = next((i for i, token in enumerate(drafted) if token != best[i]), len(drafted))
    return best[: accepted + 1], accepted


def verify_sampled(p: Tensor, draft: Draft, generators: Generators) -> tuple[list[int], int]:
    """Sample from the model's distributions p (1 + drafted, V), using draft tokens sampled from q (drafted, V).

    Token x is accepted with probability min(1, p(x) / q(x)). The first rejected token is replaced by a sample from
    max(0, p - q), rescaled. Together that samples exactly from p. A token from a lookup has q(x) = 1.
    """
    generator = generators[0] if isinstance(generators, Sequence) else generators
    for i, token in enumerate(draft.tokens):
        if draft.probabilities is None:
            q = torch.zeros_like(p[i])
            q[token] = 1
        else:
            q = draft.probabilities[i]
        if torch.rand((), generator=generator, device=p.device) * q[token] < p[i, token]:
            continue
        rest = (p[i] - q).clamp(min=0)
        if rest.sum() == 0:  # p and q are equal within rounding
            rest = p[i]
        return [*draft.tokens[:i], int(sample(rest[None], generators=generators))], i
    return [*draft.tokens, int(sample(p[-1:], generators=generators))], len(draft.tokens)
