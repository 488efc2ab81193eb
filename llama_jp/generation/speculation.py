"""Speculation: propose draft tokens cheaply, verify all of them in one call of the model, keep the accepted ones.

A call of a large model costs about one pass over its weights, for one position or for eight. Accepted draft tokens save
calls. Rejected ones cost what drafting costs, and `DraftLengthSchedule` proposes as many as pay.

Drafts come from the text itself (`PromptLookup`), from a smaller model with a KV cache of its own, or from a quantised
copy of the model (`SelfDraft`), which drafts on the model's own cache.

Greedy answers are unchanged, except where two logits tie within rounding; `query_by_query` makes that rare in 16 bits.
Sampled answers keep their distribution, but a seed gives other tokens than without speculation.

See: "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, 2; prompt lookup: A. Saxena, 2023.
Reference: `GenerationMixin._assisted_decoding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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

ASSISTANT_TOKENS = 4  # the most draft tokens in a call, unless num_assistant_tokens is set

SELF_DRAFT_TOKENS = 5


class Draft(NamedTuple):
    """Draft tokens, and the distributions (tokens, V) they were sampled from. None: each was certain."""

    tokens: list[int]
    probabilities: Tensor | None = None


class DraftSource(Protocol):
    """Proposes draft tokens: at most `tokens` for one call of the model."""

    tokens: int
    cost: float  # of a draft token, in calls of the model

    def propose(self, ids: list[int], most: int) -> Draft:
        """Up to `most` draft tokens after the ids."""


@dataclass
class SelfDraft:
    """A quantised copy of a model that drafts for it; `llama_jp.speed.self_draft` makes one.

    The copy writes keys and values of draft tokens into the model's cache. The check of the drafts overwrites them, and
    what it rejects is cropped. So there is no second cache and no second prefill.
    """

    model: Llama  # the copy; embedding and norms are the tensors of the target
    target: Llama
    nbytes: int  # of memory besides the target's


class PromptLookup:
    """Drafts the tokens that followed the last occurrence of the newest n-gram."""

    cost = 0.1  # of a draft token, in calls of the model: a row of the check; measured up to 0.07, see SELF_COST

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
    """Drafts with another model of the same vocabulary. Its logits pass the same filters."""

    # Of a draft token of a `SelfDraft`, in calls of the model. On 4 layers of a 7B in bfloat16 at level "exact", two
    # cores with AVX-512: a step of the copy takes 0.41 to 0.63 of a call, its row of the check up to 0.07.
    SELF_COST = 0.5

    def __init__(self, assistant: Llama | SelfDraft, task: DecodingTask, tokens: int) -> None:
        target = task.runner.model
        self.shares_cache = isinstance(assistant, SelfDraft)
        self.model = assistant.model if isinstance(assistant, SelfDraft) else assistant
        if isinstance(assistant, SelfDraft) and assistant.target is not target:
            raise ValueError("the self-draft belongs to another model; make one of this model with speed.self_draft")
        if self.model.config.vocab_size != target.config.vocab_size:
            raise ValueError(
                f"the draft model's vocabulary has {self.model.config.vocab_size} tokens, the model's "
                f"{target.config.vocab_size}; use a draft model with the same tokenizer"
            )
        self.task, self.tokens = task, tokens
        self.cost = self.SELF_COST if self.shares_cache else min(1.0, weights_read(self.model) / weights_read(target))
        self.cache = task.runner.cache if self.shares_cache else self.model.new_cache(1, task.ids.shape[1])

    def propose(self, ids: list[int], most: int) -> Draft:
        """Up to `most` draft tokens after the ids, with their distributions when sampling."""
        do_sample = bool(self.task.options.do_sample)
        text, distributions = list(ids), []
        self.cache.crop(min(self.cache.length, len(ids) - 1))  # remove draft tokens that were rejected
        try:
            for _ in range(min(self.tokens, most)):
                new = torch.tensor([text[self.cache.length :]], device=self.task.ids.device)
                logits = self.model(new, self.cache, last_only=True)[:, -1].float()
                scores = self.task.filter(torch.tensor([text], device=new.device), logits)
                text.append(int(choose(scores, do_sample, self.task.generators)))
                distributions.append(scores.softmax(-1))
        finally:
            if self.shares_cache:
                self.cache.crop(len(ids) - 1)  # the keys and values are the draft's, not the model's
        return Draft(text[len(ids) :], torch.cat(distributions) if do_sample and distributions else None)


def weights_read(model: Llama) -> int:
    """About the number of weights that a decoding step reads, from the sizes of the configuration."""
    c = model.config
    heads, groups = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    return c.hidden_size * (c.vocab_size + c.num_hidden_layers * (2 * heads + 2 * groups + 3 * c.intermediate_size))


class DraftLengthSchedule:
    """The number of draft tokens for each call: the one that gives the most tokens for the cost.

    With the share p of draft tokens accepted so far, and the cost c of one in calls of the model, k draft tokens give
    1 + p + … + p^k tokens for 1 + k c calls. Counts decide, not clocks, so a run repeats exactly. Where no k pays,
    drafting pauses: one token is tried after 4 calls, and each rejection doubles the pause.

    Whatever the draft proposes, an answer of 48 tokens or more costs at most 10 % more than plain decoding, which takes
    a call for each token. Here a accepted tokens save a calls, and d drafted ones cost d c. So no token is drafted that
    could bring d c - a above a tenth of the answer so far, or of 48 tokens.

    most  draft tokens
    cost  of one draft token, as a share of a call of the model

    See: "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, 3.
    """

    DECAY = 0.95  # the weight of what was counted before, for each draft token that is counted
    FIRST_PAUSE, LONGEST_PAUSE = 4, 32  # calls
    LOSS, SHORT = 0.1, 48  # the most that drafting may cost, as a share of the tokens of the answer, at least of SHORT

    def __init__(self, most: int, cost: float) -> None:
        self.most = self.limit = most
        self.cost = cost
        self.tokens = 0  # of the answer
        self.lost = 0.0  # calls spent on draft tokens, less the calls that accepted ones saved
        self.accepted, self.tested = 1.6, 2.0  # before the first call: as if two had been tested and 80 % accepted
        self.pause = self.remaining = 0

    def next(self) -> int:
        """The number of draft tokens for the next call."""
        if self.remaining:
            self.remaining -= 1
            return 0
        affordable = (self.LOSS * max(self.tokens, self.SHORT) - self.lost) / self.cost
        return min(max(1, min(self.best(), self.limit)), int(affordable + 1e-9))

    def best(self) -> int:
        """The number of draft tokens with the most tokens for the cost; 0 if none of them pays."""
        share, tokens, best, best_rate = self.accepted / self.tested, 1.0, 0, 1.0
        for k in range(1, self.most + 1):
            tokens += share**k
            if tokens / (1 + k * self.cost) > best_rate:
                best, best_rate = k, tokens / (1 + k * self.cost)
        return best

    def update(self, drafted: int, accepted: int) -> None:
        """Record the result of a call."""
        self.tokens += accepted + 1
        self.lost += drafted * self.cost - accepted
        if not drafted:
            return
        tested = min(accepted + 1, drafted)  # what follows the first rejected token is not tested
        self.accepted = self.accepted * self.DECAY**tested + accepted
        self.tested = self.tested * self.DECAY**tested + tested
        self.limit = min(2 * accepted + 1, self.most)
        if accepted:
            self.pause = 0
        elif not self.best():
            self.remaining = self.pause = min(2 * self.pause or self.FIRST_PAUSE, self.LONGEST_PAUSE)


def make_draft(task: DecodingTask, assistant_model: Llama | SelfDraft | None) -> DraftSource:
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
        default = SELF_DRAFT_TOKENS if isinstance(assistant_model, SelfDraft) else ASSISTANT_TOKENS
        return DraftModel(assistant_model, task, options.num_assistant_tokens or default)
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
    schedule = DraftLengthSchedule(draft.tokens, draft.cost)
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
