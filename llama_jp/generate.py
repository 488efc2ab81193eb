"""Prompts to text, in three thin layers: ids one step at a time (`generate_steps`), text as it comes (`stream_text`),
and whole answers (`generate`). Options carry transformers' names and meanings; a checkpoint's generation_config.json
sets their defaults. How the model reads is in `reading.py`, when an answer ends in `stopping.py`, beam search in
`beam_search.py`, speculation in `speculation.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import Cache
from .model import Llama
from .options import Choice, Generation, Options
from .reading import Guidance, Reader, pad_left
from .rope_scaling import context_length
from .sampling import Filter, check_range, choose, make_filters
from .stopping import AnswerText, LoopDetector, Stopping
from .tokenizer import Tokenizer

DEFAULT_MAX_NEW_TOKENS = 256  # what ELYZA's model card asks for; used when neither the caller nor the checkpoint says


def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    *,
    tokenizer: Tokenizer | None = None,
    cache: Cache | None = None,
    assistant_model: Llama | None = None,
    **options,
) -> list[Generation]:
    """Whole answers to prompts of any lengths, in one batch. `options` are the fields of `Options`.

    With num_return_sequences, the answers to one prompt follow each other. A `cache` holds the beginning of the
    prompts, as in `stream_text`; one with a single row serves all answers, each with a copy of its own.

    Raises ValueError before the first token when a prompt is empty, has ids outside the vocabulary, or does not fit
    the context.
    """
    chosen = Options.of(model, options)
    if chosen.beams > 1:
        from .beam_search import beam_search  # it builds on this file

        if assistant_model is not None or chosen.prompt_lookup_num_tokens:
            raise ValueError("speculation drafts for greedy decoding and sampling, not for beam search")
        return beam_search(prepare(model, prompts, chosen, chosen.beams, cache), tokenizer)
    rows = [prompt for prompt in prompts for _ in range(chosen.copies)]
    answers = [Generation() for _ in rows]
    texts = [AnswerText(tokenizer, chosen.stop_strings, prompt) for prompt in rows]
    for choices in generate_steps(
        model, prompts, chosen, texts=texts, cache=cache, assistant_model=assistant_model, answers=answers
    ):
        for answer, choice in zip(answers, choices, strict=True):
            if choice is not None:
                answer.add(choice)
    return answers


class stream_text:
    """Iterate over an answer's text while it is made. `.generation` holds the ids so far and, at the end, why it ended.

    A character comes with the token that completes it. Text that could be the beginning of a stop string is held back
    until it is known; the stop string itself is not part of the text.

    With a `cache`, the tokens it holds are the beginning of `prompt` and are not computed again; afterwards it holds
    the prompt and the answer, but for the last token.
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        *,
        cache: Cache | None = None,
        assistant_model: Llama | None = None,
        **options,
    ):
        chosen = Options.of(model, options)
        if chosen.beams > 1 or chosen.copies > 1:
            raise ValueError(
                "a stream has one answer, which grows at its end: use generate() for beams and for several"
            )
        self.generation = Generation()
        self.seconds = [0.0, 0.0]  # to the first token, prompt included; from there to the last
        self._text = AnswerText(tokenizer, chosen.stop_strings, prompt)
        self._steps = generate_steps(
            model,
            [prompt],
            chosen,
            texts=[self._text],
            cache=cache,
            assistant_model=assistant_model,
            answers=[self.generation],
        )

    def __iter__(self) -> Iterator[str]:
        begun = time.perf_counter()
        for (choice,) in self._steps:
            elapsed = time.perf_counter() - begun
            self.seconds = [elapsed, 0.0] if not self.generation.ids else [self.seconds[0], elapsed - self.seconds[0]]
            self.generation.add(choice)
            if piece := self._text.take():
                yield piece
        if rest := self._text.finish():
            yield rest


class stream_batch:
    """Iterate over (row, piece of text) while the answers to several prompts are made; `.generations` hold the ids.

    With num_return_sequences, the answers to one prompt are rows next to each other. The pieces of one row are those
    that `stream_text` would give.
    """

    def __init__(self, model: Llama, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], **options):
        chosen = Options.of(model, options)
        if chosen.beams > 1:
            raise ValueError("beams change their past until the end, so there is nothing to stream: use generate()")
        rows = [prompt for prompt in prompts for _ in range(chosen.copies)]
        self.generations = [Generation() for _ in rows]
        self._texts = [AnswerText(tokenizer, chosen.stop_strings, prompt) for prompt in rows]
        self._steps = generate_steps(model, prompts, chosen, texts=self._texts, answers=self.generations)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for choices in self._steps:
            for row, choice in enumerate(choices):
                if choice is None:
                    continue
                self.generations[row].add(choice)
                piece = self._texts[row].take() + (self._texts[row].finish() if choice.finish_reason else "")
                if piece:
                    yield row, piece


def generate_steps(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    options: Options,
    *,
    texts: Sequence[AnswerText],
    cache: Cache | None = None,
    assistant_model: Llama | None = None,
    answers: Sequence[Generation] = (),
) -> Iterator[list[Choice | None]]:
    """One list per step, with each row's next token, or None where the row has ended. Prompts are checked at once.

    What speculation drafted and the model accepted is counted in `answers`.
    """
    task = prepare(model, prompts, options, options.copies, cache)
    if assistant_model is None and options.prompt_lookup_num_tokens is None:
        return _steps(task, texts)
    from .speculation import make_draft, speculate  # it builds on this file

    return speculate(task, texts[0] if texts else AnswerText(None, None), make_draft(task, assistant_model), answers)


@torch.no_grad()
def _steps(task: Task, texts: Sequence[AnswerText]) -> Iterator[list[Choice | None]]:
    ids, N, reader, options = task.ids, task.prompt_length, task.reader, task.options
    running = [True] * len(ids)
    logits = reader.read(ids[:, :N])  # prefill: the whole prompt; (B, V)
    for end in range(N, ids.shape[1]):
        scores = task.filter(ids[:, :end], logits)  # (B, V)
        chosen = choose(scores, options.do_sample, task.generators)  # (B,)
        ids[:, end] = chosen.where(torch.tensor(running, device=chosen.device), options.pad_token_id)

        for row, token in enumerate(chosen.tolist()):
            if running[row] and texts:
                texts[row].push(token)
        reasons = task.stopping(ids[:, : end + 1], scores, N, texts)
        chosen_now = describe(chosen, scores, logits, reasons, options.top_logprobs)
        yield [choice if going else None for choice, going in zip(chosen_now, running, strict=True)]

        running = [going and reason is None for going, reason in zip(running, reasons, strict=True)]
        if not any(running):
            return
        reader.leave(running)
        logits = reader.read(ids[:, : end + 1])  # decode: one new token per row, behind what the cache holds


def describe(chosen: Tensor, scores: Tensor, logits: Tensor, reasons: Sequence[str | None], top: int) -> list[Choice]:
    """What was chosen, how likely it was, and the `top` likeliest alternatives, for every row."""
    logprobs = logits.log_softmax(-1)
    best = logprobs.topk(min(top, logits.shape[-1]))
    alternatives = [
        list(zip(*pair, strict=True)) for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [
        Choice(*columns)
        for columns in zip(
            chosen.tolist(),
            logprobs.gather(-1, chosen[:, None])[:, 0].tolist(),
            reasons,
            scores.gather(-1, chosen[:, None])[:, 0].tolist(),
            alternatives,
            strict=True,
        )
    ]


@dataclass
class Task:
    """Everything that a way of decoding needs, checked and put together. One row for each answer or beam."""

    options: Options
    ids: Tensor  # (B, prompt_length + new tokens); padding on the left is -1
    prompt_length: int  # padding included
    reader: Reader
    filters: list[Filter]
    generators: torch.Generator | list[torch.Generator] | None
    stopping: Stopping

    def filter(self, ids: Tensor, logits: Tensor) -> Tensor:
        for filter in self.filters:
            logits = filter(ids, logits)
        return logits


def prepare(
    model: Llama, prompts: Sequence[Sequence[int]], options: Options, copies: int, cache: Cache | None = None
) -> Task:
    """Check prompts and options, before anything is computed. Every prompt gets `copies` rows."""
    new_tokens = room_for(model, prompts, options)
    rows = [prompt for prompt in prompts for _ in range(copies)]
    device = model.embed_tokens.weight.device
    ids, mask = pad_left(rows, new_tokens, device)  # (B, N + new_tokens)
    N = ids.shape[1] - new_tokens
    if options.pad_token_id is None:
        options.pad_token_id = options.eos[0] if options.eos else 0
    shift = options.past_context == "shift"
    if shift and options.sink_tokens > (context := context_length(model.config)) - 2:
        raise ValueError(f"sink_tokens is {options.sink_tokens}, but the context holds {context}")
    filters = filters_of(options, N, ids.shape[1])
    if options.guidance_scale not in (None, 1):
        filters.insert(0, Guidance(model, options.guidance_scale, options.negative_prompt_ids, new_tokens))
    return Task(
        options=options,
        ids=ids,
        prompt_length=N,
        reader=Reader(
            model,
            mask,
            cache,
            copies=copies,
            chunk=options.prefill_chunk_size,
            context=context_length(model.config) if shift else None,
            sinks=options.sink_tokens,
            exact=options.exact,
        ),
        filters=filters,
        generators=make_generators(options.seed, len(prompts) if options.beams > 1 else len(rows), device),
        stopping=Stopping(
            eos=options.eos,
            max_time=options.max_time,
            criteria=options.stopping_criteria,
            loop=LoopDetector() if options.stop_on_loop else None,
            last=ids.shape[1],
            pad_id=options.pad_token_id,
        ),
    )


def filters_of(options: Options, prompt_length: int, max_length: int) -> list[Filter]:
    """The chain that the options ask for: those of them that `make_filters` knows by the same name."""
    names = make_filters.__kwdefaults__.keys() & vars(options).keys() - {"max_length", "num_beams"}
    return make_filters(
        do_sample=options.do_sample,
        prompt_length=prompt_length,
        max_length=max_length,
        eos=options.eos,
        pad_id=options.pad_token_id,
        num_beams=options.beams,
        **{name: getattr(options, name) for name in names},
    )


def room_for(model: Llama, prompts: Sequence[Sequence[int]], options: Options) -> int:
    """How many new tokens there will be; ValueError when the prompts are not prompts or do not fit."""
    V = model.config.vocab_size
    if not prompts:
        raise ValueError("there are no prompts")
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, int | str):
            raise ValueError(f"prompts are lists of ids, one per row, but the first entry is {prompt!r}")
        if not len(prompt):
            raise ValueError(f"prompt {number} is empty; begin it with the BOS id {model.config.bos_token_id} at least")
        if not 0 <= min(prompt) <= max(prompt) < V:
            raise ValueError(f"prompt {number} has an id outside the vocabulary of {V}: {min(prompt)} … {max(prompt)}")

    longest, context = max(map(len, prompts)), context_length(model.config)
    if options.past_context == "shift":
        context = sys.maxsize  # only the newest tokens have to fit
    if longest >= context:
        raise ValueError(
            f"the prompt has {longest} tokens, but the context holds {context}, and the answer needs room as well"
        )
    asked = options.max_new_tokens
    if asked is None:
        limit = context if options.max_length is None else min(context, options.max_length)
        asked = min(limit - longest, DEFAULT_MAX_NEW_TOKENS if options.max_length is None else context)
        if asked < 1:
            raise ValueError(
                f"the prompt has {longest} tokens, but max_length is {options.max_length}; set max_new_tokens"
            )
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise ValueError(f"max_new_tokens has to be a whole number of at least 1, not {asked!r}")
    if longest + asked > context:
        raise ValueError(
            f"the prompt has {longest} tokens and max_new_tokens is {asked}, but the context holds {context}; "
            f"ask for at most {context - longest}"
        )
    return asked


def make_generators(
    seed: int | Sequence[int] | None, rows: int, device: torch.device
) -> torch.Generator | list[torch.Generator] | None:
    """None draws from torch's global generator, an int makes one for the batch, a list one for each row."""
    if seed is None:
        return None
    for one in [seed] if isinstance(seed, int) else seed:
        check_range("seed", one, least=-(2**63), most=2**64 - 1, whole=True)
    if isinstance(seed, int):
        return torch.Generator(device).manual_seed(seed)
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} prompts; give one for each, or a single number for all")
    return [torch.Generator(device).manual_seed(one) for one in seed]
