"""Prompts to text, in three thin layers: ids one step at a time (`generate_steps`), text as it comes (`stream_text`),
and whole answers (`generate`). Options carry transformers' names and meanings; a checkpoint's generation_config.json
sets their defaults. How the model reads is in `reading.py`, when an answer ends in `stopping.py`, beam search in
`beam_search.py`, speculation in `speculation.py`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..cache import Cache
from ..model import Llama
from ..text.tokenizer import Tokenizer
from .beams import beam_search
from .decoding import decode
from .options import Options
from .results import GeneratedToken, Generation
from .speculation import make_draft, speculate
from .stop_strings import StopStringBuffer
from .task import prepare_task


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
        if assistant_model is not None or chosen.prompt_lookup_num_tokens:
            raise ValueError("speculation drafts for greedy decoding and sampling, not for beam search")
        return beam_search(prepare_task(model, prompts, chosen, chosen.beams, cache), tokenizer)
    rows = [prompt for prompt in prompts for _ in range(chosen.copies)]
    answers = [Generation() for _ in rows]
    texts = [StopStringBuffer(tokenizer, chosen.stop_strings, prompt) for prompt in rows]
    for choices in start_decoding(
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
        self._text = StopStringBuffer(tokenizer, chosen.stop_strings, prompt)
        self._steps = start_decoding(
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
        self._texts = [StopStringBuffer(tokenizer, chosen.stop_strings, prompt) for prompt in rows]
        self._steps = start_decoding(model, prompts, chosen, texts=self._texts, answers=self.generations)

    def __iter__(self) -> Iterator[tuple[int, str]]:
        for choices in self._steps:
            for row, choice in enumerate(choices):
                if choice is None:
                    continue
                self.generations[row].add(choice)
                piece = self._texts[row].take() + (self._texts[row].finish() if choice.finish_reason else "")
                if piece:
                    yield row, piece


def start_decoding(
    model: Llama,
    prompts: Sequence[Sequence[int]],
    options: Options,
    *,
    texts: Sequence[StopStringBuffer],
    cache: Cache | None = None,
    assistant_model: Llama | None = None,
    answers: Sequence[Generation] = (),
) -> Iterator[list[GeneratedToken | None]]:
    """One list per step, with each row's next token, or None where the row has ended. Prompts are checked at once.

    What speculation drafted and the model accepted is counted in `answers`.
    """
    task = prepare_task(model, prompts, options, options.copies, cache)
    if assistant_model is None and options.prompt_lookup_num_tokens is None:
        return decode(task, texts)
    return speculate(
        task, texts[0] if texts else StopStringBuffer(None, None), make_draft(task, assistant_model), answers
    )
