"""Prompts to text, in three thin layers: ids one step at a time (`generate_steps`), text as it comes (`stream_text`),
and whole answers (`generate`). Options carry transformers' names and meanings; a checkpoint's generation_config.json
sets their defaults.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .cache import Cache
from .model import Llama
from .rope_scaling import context_length
from .sampling import choose, make_filters
from .tokenizer import Tokenizer

DEFAULT_MAX_NEW_TOKENS = 256  # what ELYZA's model card asks for; used when neither the caller nor the checkpoint says


@dataclass
class Options:
    """How to generate. Names, meanings and defaults are transformers' (`GenerationConfig`), except where noted."""

    max_new_tokens: int | None = None  # never counts the prompt; None: up to max_length, else DEFAULT_MAX_NEW_TOKENS
    max_length: int | None = None  # counts prompt and new tokens; used only without max_new_tokens
    do_sample: bool = False
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    repetition_penalty: float | None = 1.0
    eos_token_id: int | Sequence[int] | None = None
    stop_strings: str | Sequence[str] | None = None  # ends the answer before the string; needs a tokenizer
    seed: int | Sequence[int] | None = None  # ours: an int draws as transformers after manual_seed; a list, one per row

    @classmethod
    def of(cls, model: Llama, given: dict) -> Options:
        """What the caller gives, over what the checkpoint says, over the defaults above."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise TypeError(f"unknown generation option {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        for name, neutral in NOT_SUPPORTED.items():
            value = model.generation_config.get(name)
            if value not in (None, neutral):
                raise ValueError(f"generation_config.json asks for {name} {value!r}, which is not supported")
        own = {name: value for name, value in model.generation_config.items() if name in known and value is not None}
        options = cls(**({"eos_token_id": model.config.eos_token_id} | own | given))
        shaping = [name for name in ("temperature", "top_k", "top_p", "min_p") if given.get(name) is not None]
        if shaping and not options.do_sample:
            warnings.warn(f"{', '.join(shaping)}: no effect without do_sample=True", stacklevel=4)
        return options


# Keys of generation_config.json that would change the tokens, with the values that would not.
NOT_SUPPORTED = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "penalty_alpha": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "sequence_bias": None,
    "min_length": 0,
    "min_new_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "watermarking_config": None,
    "remove_invalid_values": False,
    "renormalize_logits": False,
}


@dataclass
class Generation:
    """One answer: its new ids (an EOS at the end included), why it ended, and how likely each id was."""

    ids: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str = "length"  # "eos" | "stop" | "length"
    logprobs: list[float] = dataclasses.field(
        default_factory=list
    )  # natural; of the model's own, unfiltered distribution


class Choice(NamedTuple):
    """One row's next token. `finish_reason` is None while the row goes on."""

    id: int
    logprob: float
    finish_reason: str | None


def generate(
    model: Llama, prompts: Sequence[Sequence[int]], *, tokenizer: Tokenizer | None = None, **options
) -> list[Generation]:
    """Whole answers to prompts of any lengths, in one batch. `options` are the fields of `Options`.

    Raises ValueError before the first token when a prompt is empty, has ids outside the vocabulary, or does not fit
    the context.
    """
    chosen = Options.of(model, options)
    texts = [AnswerText(tokenizer, chosen.stop_strings) for _ in prompts]
    answers = [Generation() for _ in prompts]
    for choices in generate_steps(model, prompts, chosen, texts=texts):
        for answer, choice in zip(answers, choices, strict=True):
            if choice is not None:
                answer.ids.append(choice.id)
                answer.logprobs.append(choice.logprob)
                answer.finish_reason = choice.finish_reason or answer.finish_reason
    return answers


class stream_text:
    """Iterate over an answer's text while it is made. `.generation` holds the ids so far and, at the end, why it ended.

    A character comes with the token that completes it. Text that could be the beginning of a stop string is held back
    until it is known; the stop string itself is not part of the text.

    With a `cache`, the tokens it holds are the beginning of `prompt` and are not computed again; afterwards it holds
    the prompt and the answer, but for the last token.
    """

    def __init__(
        self, model: Llama, tokenizer: Tokenizer, prompt: Sequence[int], *, cache: Cache | None = None, **options
    ):
        chosen = Options.of(model, options)
        self.generation = Generation()
        self.seconds = [0.0, 0.0]  # to the first token, prompt included; from there to the last
        self._text = AnswerText(tokenizer, chosen.stop_strings)
        self._steps = generate_steps(model, [prompt], chosen, texts=[self._text], cache=cache)

    def __iter__(self) -> Iterator[str]:
        begun = time.perf_counter()
        for (choice,) in self._steps:
            elapsed = time.perf_counter() - begun
            self.seconds = [elapsed, 0.0] if not self.generation.ids else [self.seconds[0], elapsed - self.seconds[0]]
            self.generation.ids.append(choice.id)
            self.generation.logprobs.append(choice.logprob)
            self.generation.finish_reason = choice.finish_reason or self.generation.finish_reason
            if piece := self._text.take():
                yield piece
        if rest := self._text.finish():
            yield rest


def generate_steps(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    options: Options,
    *,
    texts: Sequence[AnswerText],
    cache: Cache | None = None,
) -> Iterator[list[Choice | None]]:
    """One list per step, with each row's next token, or None where the row has ended. Prompts are checked at once."""
    new_tokens = room_for(model, prompts, options)
    filters = make_filters(
        do_sample=options.do_sample,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
        repetition_penalty=options.repetition_penalty,
    )
    generators = make_generators(options.seed, len(prompts), model.embed_tokens.weight.device)
    return _steps(model, prompts, new_tokens, options, filters, generators, texts, cache)


@torch.no_grad()
def _steps(model, prompts, new_tokens, options, filters, generators, texts, cache):
    eos = options.eos_token_id
    eos = set() if eos is None else {eos} if isinstance(eos, int) else set(eos)
    ids, mask = pad_left(prompts, new_tokens, model.embed_tokens.weight.device)  # (B, N + new_tokens)
    N = ids.shape[1] - new_tokens
    ragged = not bool(mask.all())
    cache = cache or model.new_cache(len(prompts), N + new_tokens)
    running = [True] * len(prompts)

    for end in range(N, N + new_tokens):
        # Prefill sees the whole prompt; every later step one new token per row, behind what the cache holds.
        new = ids[:, cache.length : end].clamp(min=0)  # padding may be any id: the mask hides it
        logits = model(new, cache, mask=mask[:, :end] if ragged else None, last_only=True)[:, -1].float()  # (B, V)
        scores = logits
        for keep in filters:
            scores = keep(ids[:, :end], scores)
        chosen = choose(scores, options.do_sample, generators)  # (B,)
        ids[:, end] = chosen
        logprobs = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]

        step: list[Choice | None] = [None] * len(prompts)
        for row, (token, logprob) in enumerate(zip(chosen.tolist(), logprobs.tolist(), strict=True)):
            if not running[row]:
                continue  # an ended row stays in the batch, as it does in the reference, but its tokens mean nothing
            reason = "eos" if token in eos else "stop" if texts[row].push(token) else None
            if reason is None and end + 1 == N + new_tokens:
                reason = "length"
            running[row] = reason is None
            step[row] = Choice(token, logprob, reason)
        yield step
        if not any(running):
            return


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


def pad_left(prompts: Sequence[Sequence[int]], new_tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Prompts flush right, then room for the answers: ids and mask, both (B, N + new_tokens).

    Padding is -1 in the ids and 0 in the mask; room is -1 and 1.
    """
    N = max(map(len, prompts))
    ids = torch.full((len(prompts), N + new_tokens), -1)
    mask = torch.ones_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, N - len(prompt) : N] = torch.tensor(prompt)
        mask[row, : N - len(prompt)] = 0
    return ids.to(device), mask.to(device)


def make_generators(
    seed: int | Sequence[int] | None, rows: int, device: torch.device
) -> torch.Generator | list[torch.Generator] | None:
    """None draws from torch's global generator, an int makes one for the batch, a list one for each row."""
    if seed is None:
        return None
    if isinstance(seed, int):
        return torch.Generator(device).manual_seed(seed)
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} prompts; give one for each, or a single number for all")
    return [torch.Generator(device).manual_seed(one) for one in seed]


class AnswerText:
    """One answer's text as it grows, without the stop string that ends it; what might begin one is held back.

    Without a tokenizer there is no text, only ids.
    """

    def __init__(self, tokenizer: Tokenizer | None, stop_strings: str | Sequence[str] | None):
        self.strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
        if "" in self.strings:
            raise ValueError("a stop string is empty")
        if self.strings and tokenizer is None:
            raise ValueError("stop_strings are matched on text, so they need the tokenizer: pass tokenizer=…")
        self.stream = tokenizer.stream() if tokenizer is not None else None
        self.vocab_size = tokenizer.vocab_size if tokenizer is not None else 0  # the model's may be larger: rows without text
        self.ready = ""  # may be shown
        self.held = ""  # may turn out to be the beginning of a stop string
        self.stopped = False

    def push(self, token: int) -> bool:
        """Take one more id; True when a stop string is complete."""
        if self.stream is not None and not self.stopped and token < self.vocab_size:
            self._add(self.stream.push(token))
        return self.stopped

    def take(self) -> str:
        """The text that has become certain since the last call."""
        text, self.ready = self.ready, ""
        return text

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self.stream is not None and not self.stopped:
            self._add(self.stream.finish())
        text = self.ready + ("" if self.stopped else self.held)
        self.ready = self.held = ""
        return text

    def _add(self, piece: str) -> None:
        text = self.held + piece
        found = [place for place in map(text.find, self.strings) if place >= 0]
        if found:
            self.stopped = True
            self.ready += text[: min(found)]
            self.held = ""
            return
        keep = max((overlap(text, string) for string in self.strings), default=0)
        self.ready += text[: len(text) - keep]
        self.held = text[len(text) - keep :]


def overlap(text: str, string: str) -> int:
    """How many characters at the end of `text` could be the beginning of `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
