"""Speculation: guess the next tokens cheaply, let the model check all guesses in one call, keep what it agrees with.

A step of a large model costs the reading of its weights, whether it computes one position or eight. So guesses that
are often right make it faster, and wrong ones cost little; where many are wrong, `DraftLengthSchedule` makes fewer. Greedy answers
stay the same but where a tie is closer than rounding, which `query_by_query` makes rare in 16 bits. Drawn answers keep
their distribution, but not the tokens of a seed.

See: "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192, 2; prompt lookup: A. Saxena, 2023;
reference: `GenerationMixin._assisted_decoding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from ..model import Attention, Llama
from .decoding import token_outputs
from .guidance import Guidance
from .results import GeneratedToken, Generation
from .sampling import choose, draw
from .stop_strings import StopStringBuffer
from .task import DecodingTask


class PromptLookup:
    """Guesses that the text goes on as it did the last time its newest tokens stood there. Costs nothing."""

    def __init__(self, tokens: int, ngram: int):
        self.tokens, self.ngram = tokens, ngram

    def propose(self, ids: list[int], most: int) -> tuple[list[int], Tensor | None]:
        """Tokens, and None: a guess that is looked up is certain of itself."""
        for size in range(min(self.ngram, len(ids) - 1), 0, -1):
            for begin in range(len(ids) - size - 1, -1, -1):
                if ids[begin : begin + size] == ids[-size:]:
                    text = list(ids)
                    for i in range(min(self.tokens, most)):
                        text.append(text[begin + size + i])  # may copy what it has just guessed: a loop goes on
                    return text[len(ids) :], None
        return [], None


class DraftModel:
    """Guesses what a smaller model of the same vocabulary would say, filtered as the large one's logits are."""

    def __init__(self, model: Llama, task: DecodingTask, tokens: int):
        V = task.runner.model.config.vocab_size
        if model.config.vocab_size != V:
            raise ValueError(
                f"the draft model's vocabulary has {model.config.vocab_size} tokens, the model's {V}; "
                "a draft model has to share the tokenizer"
            )
        self.model, self.task, self.tokens = model, task, tokens
        self.cache = model.new_cache(1, task.ids.shape[1])

    def propose(self, ids: list[int], most: int) -> tuple[list[int], Tensor | None]:
        """Tokens, and (when drawing) the distributions they were drawn from: (tokens, V)."""
        text, drawn_from = list(ids), []
        self.cache.crop(min(self.cache.length, len(ids) - 1))  # what was guessed last time and refused
        for _ in range(min(self.tokens, most)):
            new = torch.tensor([text[self.cache.length :]], device=self.task.ids.device)
            logits = self.model(new, self.cache, last_only=True)[:, -1].float()
            scores = self.task.filter(torch.tensor([text], device=new.device), logits)
            text.append(int(choose(scores, self.task.options.do_sample, self.task.generators)))
            drawn_from.append(scores.softmax(-1))
        return text[len(ids) :], torch.cat(drawn_from) if self.task.options.do_sample and drawn_from else None


class DraftLengthSchedule:
    """How many tokens to guess: twice as many after a call in which all were right, half as many after one in which
    most were wrong; and after a single wrong one none for a while, the longer the more often that happens.

    Counts decide, not clocks, so the same options give the same calls again.
    """

    LONGEST_PAUSE = 32  # steps

    def __init__(self, most: int):
        self.most = self.now = most
        self.pause = self.left = 0

    def next(self) -> int:
        if self.left:
            self.left -= 1
            return 0
        return self.now

    def learn(self, guessed: int, agreed: int) -> None:
        if not guessed:
            return
        if agreed:
            self.pause = 0
        elif self.now == 1:
            self.left = self.pause = min(2 * self.pause or 1, self.LONGEST_PAUSE)
        if agreed == guessed:
            self.now = min(2 * self.now, self.most)
        elif 2 * agreed < guessed:
            self.now = max(self.now // 2, 1)


def make_draft(task: DecodingTask, assistant_model: Llama | None) -> PromptLookup | DraftModel:
    """The one that the options ask for. Refuses, with the reference, what speculation does not do."""
    options = task.options
    if len(task.ids) > 1:
        raise ValueError(f"speculation works on one answer at a time, not on {len(task.ids)}")
    if options.past_context == "shift":
        raise ValueError("past_context='shift' does not go with speculation")
    if any(isinstance(filter, Guidance) for filter in task.filters):
        raise ValueError("guidance_scale does not go with speculation")
    if assistant_model is not None and options.prompt_lookup_num_tokens:
        raise ValueError("prompt_lookup_num_tokens and a draft model both guess; choose one of them")
    if assistant_model is not None:
        return DraftModel(assistant_model, task, options.num_assistant_tokens or 4)
    return PromptLookup(options.prompt_lookup_num_tokens, options.max_matching_ngram_size or 2)


@torch.no_grad()
def speculate(
    task: DecodingTask, text: StopStringBuffer, draft: PromptLookup | DraftModel, answers: Sequence[Generation] = ()
) -> Iterator[list[GeneratedToken]]:
    """The loop of `generate.decode` for one row, with several tokens per call of the model."""
    ids, N, runner, options = task.ids, task.prompt_length, task.runner, task.options
    answer = answers[0] if answers else Generation()
    weight = runner.model.embed_tokens.weight
    same_bits = not options.do_sample and options.exact and weight.device.type == "cpu" and weight.dtype.itemsize == 2
    pace = DraftLengthSchedule(draft.tokens)
    logits = runner.next_logits(ids[:, :N])  # prefill: the whole prompt; (1, V)
    end, guesses, drawn_from = N, [], None
    while True:
        # `logits` (1 + guesses, V): what comes next, after each of the guesses
        with_guesses = torch.cat((ids[:, :end], torch.tensor([guesses], dtype=ids.dtype, device=ids.device)), dim=1)
        rows = [task.filter(with_guesses[:, : end + i], logits[i : i + 1]) for i in range(len(guesses) + 1)]
        scores = torch.cat(rows)
        if options.do_sample:
            chosen, agreed = verify_drawn(scores.softmax(-1), guesses, drawn_from, task.generators)
        else:
            chosen, agreed = verify_greedy(scores, guesses)
        answer.drafted += len(guesses)
        answer.accepted += agreed
        answer.passes += 1
        pace.learn(len(guesses), agreed)
        runner.cache.crop(end + agreed)  # forget the guesses that were wrong, before anybody looks

        for i, token in enumerate(chosen):  # the guesses that the model agrees with, and one of its own
            ids[:, end] = token
            end += 1
            text.push(token)
            reasons = task.stopping(ids[:, :end], scores[i : i + 1], N, [text])
            token_now = torch.tensor([token], device=ids.device)
            step = token_outputs(token_now, scores[i : i + 1], logits[i : i + 1], reasons, options.top_logprobs)
            if reasons[0] is not None:
                runner.cache.crop(min(runner.cache.length, end - 1))
            yield step
            if reasons[0] is not None:
                return

        most = min(pace.next(), ids.shape[1] - end - 1)
        guesses, drawn_from = draft.propose(ids[0, :end].tolist(), most) if most else ([], None)
        new = torch.cat((ids[:, end - 1 : end], torch.tensor([guesses], dtype=ids.dtype, device=ids.device)), dim=1)
        with query_by_query(runner.model) if same_bits and guesses else nullcontext():
            logits = runner.model(new, runner.cache)[0].float()  # decode: the newest token and all guesses in one call


@contextmanager
def query_by_query(model: Llama) -> Iterator[None]:
    """Inside, attention takes one query after the other, each with the keys that it sees.

    The kernels for several queries sum in another order than those for one. Here a call for several tokens has the bits
    of calls for one as far as products of several rows have: nearly always in bfloat16 and float16, not in float32.
    """
    layers = [layer.self_attn for layer in model.layers]
    before = [layer.attend for layer in layers]
    try:
        for layer, attend in zip(layers, before, strict=True):
            layer.attend = partial(attend_each, attend)
        yield
    finally:
        for layer, attend in zip(layers, before, strict=True):
            layer.attend = attend


def attend_each(attend: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """`attend` for every query alone, from the arguments that a call for one token would have."""
    T, S = q.shape[2], k.shape[2]
    mixed = []
    for i in range(T):
        end = S - T + i + 1
        seen = [x[:, :, :end] if x.shape[3] % 16 == 0 else x[:, :, :end].contiguous() for x in (k, v)]  # see model.py
        mixed.append(attend(q[:, :, i : i + 1], *seen, None))
    return torch.cat(mixed, dim=2)


def verify_greedy(scores: Tensor, guesses: Sequence[int]) -> tuple[list[int], int]:
    """The model's own choices, as long as they are the guesses, and the one after: scores (1 + guesses, V)."""
    best = scores.argmax(-1).tolist()
    agreed = next((i for i, guess in enumerate(guesses) if guess != best[i]), len(guesses))
    return best[: agreed + 1], agreed


def verify_drawn(
    p: Tensor,
    guesses: Sequence[int],
    q: Tensor | None,
    generators: torch.Generator | Sequence[torch.Generator] | None,
) -> tuple[list[int], int]:
    """Draw from the model's distributions p (1 + guesses, V) with the help of guesses drawn from q (guesses, V).

    Guess x is taken with probability min(1, p(x) / q(x)). The first that is not is replaced by a draw from what p has
    more than q, max(0, p - q), rescaled: together that makes exactly p. A looked-up guess has q(x) = 1.
    """
    generator = generators[0] if isinstance(generators, Sequence) else generators
    for i, guess in enumerate(guesses):
        certain = torch.zeros_like(p[i])
        certain[guess] = 1
        guessed_from = certain if q is None else q[i]
        if torch.rand((), generator=generator, device=p.device) * guessed_from[guess] < p[i, guess]:
            continue
        rest = (p[i] - guessed_from).clamp(min=0)
        if rest.sum() == 0:  # p and q are the same but for rounding
            rest = p[i]
        return [*guesses[:i], int(draw(rest[None], generators=generators))], i
    return [*guesses, int(draw(p[-1:], generators=generators))], len(guesses)
