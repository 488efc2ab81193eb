"""Generate whole answers, or stream them as text.

Three thin layers: ids (`decoding.decode`), pieces of text (`stream_text`, `stream_batch`), whole answers (`generate`).
`generate_many` and `stream_many` answer more prompts than fit one batch.
Options have transformers' names and meanings, and the checkpoint's generation_config.json sets their defaults.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ..cache import Cache
from ..model import Llama
from ..text.tokenizer import Tokenizer
from .beams import beam_search
from .decoding import decode
from .in_flight import ManyGenerations
from .options import OptionFields, Options, show_option_fields, warn
from .results import GeneratedToken, Generation
from .speculation import SelfDraft, make_draft, speculate
from .stop_strings import StopStringBuffer
from .task import as_prompts, prepare_task

if TYPE_CHECKING:
    from typing_extensions import Unpack


@show_option_fields
def generate(
    model: Llama,
    prompts: Sequence[Sequence[int]] | Tensor,
    options: Options | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    cache: Cache | None = None,
    assistant_model: Llama | SelfDraft | None = None,
    **named: Unpack[OptionFields],
) -> list[Generation]:
    """Generate whole answers to prompts of any lengths, in one batch.

    prompts: lists of ids, or a tensor of them.
    options: an `Options`. Each of its fields can also be given by name; a value by name counts before `options`, and
        both before the checkpoint's generation_config.json. A name with the value None switches that option off.
        help(Options) has a line for each option, docs/generation.md its formula and source.
    tokenizer: needed for stop_strings only.
    cache: holds the first tokens of the prompts, which are then not computed again. A cache of one row serves all
        prompts, and each of them gets its own copy.
    assistant_model: a smaller model with the same tokenizer, or a `speed.self_draft` of the model, which proposes draft
        tokens (see speculation.py).

    Returns one `Generation` for each answer. With num_return_sequences, the answers to one prompt follow each other.
    Raises ValueError before the first token when a prompt is empty, has ids outside the vocabulary, or does not fit
    the context; TypeError for an unknown option.
    """
    warn_without_assistant(named, assistant_model)
    resolved, rows = Options.resolve(model, options, named), as_prompts(prompts, model)
    if resolved.beams > 1:
        if assistant_model is not None or resolved.prompt_lookup_num_tokens:
            raise ValueError("speculation works with greedy decoding and sampling, not with beam search")
        return beam_search(prepare_task(model, rows, resolved, resolved.beams, cache), tokenizer)
    copies = [prompt for prompt in rows for _ in range(resolved.copies)]
    answers = [Generation() for _ in copies]
    texts = [StopStringBuffer(tokenizer, resolved.strings, prompt) for prompt in copies]
    for tokens in start_decoding(model, rows, resolved, texts, answers, cache, assistant_model):
        for answer, token in zip(answers, tokens, strict=True):
            if token is not None:
                answer.add(token)
    return answers


@show_option_fields
def stream_text(
    model: Llama,
    tokenizer: Tokenizer,
    prompt: Sequence[int] | Tensor,
    options: Options | None = None,
    *,
    cache: Cache | None = None,
    assistant_model: Llama | SelfDraft | None = None,
    **named: Unpack[OptionFields],
) -> TextGeneration:
    """Generate one answer and iterate over its text: `for piece in stream_text(…)`. Arguments as in `generate`.

    A character appears with the token that completes it. Text that may be the start of a stop string is held back; the
    stop string itself is not part of the text. Afterwards a `cache` holds the prompt and the answer, except the last
    token.
    """
    warn_without_assistant(named, assistant_model)
    resolved = Options.resolve(model, options, named)
    if resolved.beams > 1 or resolved.copies > 1:
        raise ValueError("a stream has one answer that grows at its end; use generate() for beams or several answers")
    (row,) = as_prompts([prompt], model)
    return TextGeneration(model, tokenizer, row, resolved, cache, assistant_model)


@show_option_fields
def stream_batch(
    model: Llama,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]] | Tensor,
    options: Options | None = None,
    **named: Unpack[OptionFields],
) -> BatchGeneration:
    """Generate answers to several prompts and iterate over (row, piece of text).

    Arguments as in `generate`, without a cache and an assistant model.

    With num_return_sequences, the answers to one prompt are consecutive rows. The pieces of a row are those of
    `stream_text`.
    """
    resolved = Options.resolve(model, options, named)
    if resolved.beams > 1:
        raise ValueError("beams can change all of an answer until its end, so they cannot stream; use generate()")
    return BatchGeneration(model, tokenizer, as_prompts(prompts, model), resolved)


@show_option_fields
def generate_many(
    model: Llama,
    prompts: Sequence[Sequence[int]] | Tensor,
    options: Options | Sequence[Options] | None = None,
    *,
    batch: int = 8,
    tokenizer: Tokenizer | None = None,
    limits: Sequence[int] | None = None,
    **named: Unpack[OptionFields],
) -> list[Generation]:
    """Generate one answer to each of many prompts, `batch` at a time. The answers are in the order of the prompts.

    When an answer ends, the next prompt takes its place, so no row waits for the longest one.

    prompts, options, tokenizer: as in `generate`, or a list with the options of each prompt. Without max_new_tokens,
        each answer has its own limit.
    batch: rows in a decoding step. The KV cache grows with it; see `stream_many`.
    limits: max_new_tokens of each prompt.

    Each answer has the ids of `generate(model, [prompt], options)`, whatever the other prompts are. With sampling,
    prompt i has the seed of a list at i, or `seed + i`; in a list of options, each its own. Without a seed, torch's
    generator gives the first one.
    The ids are exact where the model is batch-invariant, which is measured (docs/generation.md). Otherwise a near tie
    can be decided differently, and a warning says so. `exact=False` accepts that without a warning.

    Raises ValueError as `generate` does, with the number of the prompt; and for beam search, num_return_sequences and
    prompt_lookup_num_tokens.
    """
    answers = dict(stream_many(model, prompts, options, batch=batch, tokenizer=tokenizer, limits=limits, **named))
    return [answers[number] for number in range(len(answers))]


@show_option_fields
def stream_many(
    model: Llama,
    prompts: Sequence[Sequence[int]] | Tensor,
    options: Options | Sequence[Options] | None = None,
    *,
    batch: int = 8,
    tokenizer: Tokenizer | None = None,
    limits: Sequence[int] | None = None,
    **named: Unpack[OptionFields],
) -> ManyGenerations:
    """Generate as `generate_many`, and iterate over (number of the prompt, answer) as the answers end.

    An interruption leaves the answers that have ended. Before the first token, `cache_bytes` is the most memory that
    keys and values need. Prompts start in the order given, but those with the largest limits first.
    """
    resolved: Options | list[Options]
    if options is None or isinstance(options, Options):
        resolved = Options.resolve(model, options, named)
    else:
        resolved = [Options.resolve(model, own, named) for own in options]
    return ManyGenerations(model, as_prompts(prompts, model), resolved, batch, tokenizer, limits)


class TextGeneration:
    """An answer while it is generated: iterate over its pieces of text.

    generation: the ids so far and, at the end, the reason for the end
    seconds: from the start to the first token, prefill included; from the first token to the last
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        options: Options,
        cache: Cache | None,
        assistant_model: Llama | SelfDraft | None,
    ) -> None:
        self.generation = Generation()
        self.seconds = (0.0, 0.0)
        self._text = StopStringBuffer(tokenizer, options.strings, prompt)
        self._steps = start_decoding(model, [prompt], options, [self._text], [self.generation], cache, assistant_model)

    def __iter__(self) -> Iterator[str]:
        begun = time.perf_counter()
        for (token,) in self._steps:
            elapsed = time.perf_counter() - begun
            self.seconds = (self.seconds[0], elapsed - self.seconds[0]) if self.generation.ids else (elapsed, 0.0)
            assert token is not None  # the only row runs until the last step
            self.generation.add(token)
            if piece := self._text.take():
                yield piece
        if rest := self._text.finish():
            yield rest


class BatchGeneration:
    """Answers while they are generated: iterate over (row, piece of text). `generations` holds the ids so far."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], options: Options) -> None:
        rows = [prompt for prompt in prompts for _ in range(options.copies)]
        self.generations = [Generation() for _ in rows]
        self._texts = [StopStringBuffer(tokenizer, options.strings, prompt) for prompt in rows]
        self._steps = start_decoding(model, prompts, options, self._texts, self.generations)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for tokens in self._steps:
            for row, token in enumerate(tokens):
                if token is None:
                    continue
                self.generations[row].add(token)
                piece = self._texts[row].take() + (self._texts[row].finish() if token.finish_reason else "")
                if piece:
                    yield row, piece


def warn_without_assistant(named: OptionFields, assistant_model: Llama | SelfDraft | None) -> None:
    """Warn about num_assistant_tokens without a draft model."""
    if named.get("num_assistant_tokens") is not None and assistant_model is None:
        warn("num_assistant_tokens: no effect without assistant_model")


def start_decoding(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    options: Options,
    texts: Sequence[StopStringBuffer],
    answers: Sequence[Generation],
    cache: Cache | None = None,
    assistant_model: Llama | SelfDraft | None = None,
) -> Iterator[list[GeneratedToken | None]]:
    """Check the prompts, and return the steps of decoding: the next token of every row, None for a finished row."""
    task = prepare_task(model, prompts, options, options.copies, cache)
    if assistant_model is None and options.prompt_lookup_num_tokens is None:
        return decode(task, texts)
    return speculate(task, texts[0], make_draft(task, assistant_model), answers[0])
