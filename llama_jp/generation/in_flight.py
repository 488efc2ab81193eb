"""Many prompts, a few at a time: when an answer ends, the next prompt takes its place (in-flight batching).

Each row is a decoding task of its own: options, filters, random numbers and a KV cache, as for `generate` with this
prompt alone. Only the model's call for new tokens is shared (ragged.py), so the weights are loaded once for all rows.
See: "Orca", OSDI 2022.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..model import Llama, SelfAttention
from ..text.tokenizer import Tokenizer
from .checks import check_range
from .decoding import next_tokens
from .filter_chain import make_filters
from .options import Options, warn
from .ragged import is_pointwise, logits_of_rows
from .results import Generation
from .stop_strings import StopStringBuffer
from .task import DecodingTask, prepare_task, resolve_max_new_tokens

PROMPT_TOKENS = 512  # of prompts, in a call with decoding rows: smaller parts need more calls, which cost more time


class ManyGenerations:
    """Answers to many prompts: iterate over (number of the prompt, answer), in the order in which they end.

    options: for all prompts, or a list with those of each
    cache_bytes: the most memory for keys and values of running rows, known before the first token
    exact: False after a step whose batch size is not batch-invariant; with the option exact=False, from the start
    """

    def __init__(
        self,
        model: Llama,
        prompts: Sequence[Sequence[int]],
        options: Options | Sequence[Options],
        batch: int,
        tokenizer: Tokenizer | None,
        limits: Sequence[int] | None,
    ) -> None:
        check_range("batch", batch, least=1, whole=True)
        refuse_attention(model)
        if limits is not None and len(limits) != len(prompts):
            raise ValueError(f"{len(limits)} limits for {len(prompts)} prompts; give one for each prompt")
        if not isinstance(options, Options) and len(options) != len(prompts):
            raise ValueError(
                f"{len(options)} options for {len(prompts)} prompts; give one object for all, or one for each"
            )
        for own in [options] if isinstance(options, Options) else {id(each): each for each in options}.values():
            refuse_options(own)
            make_filters(own)
            StopStringBuffer(tokenizer, own.strings)
        self.model, self.prompts, self.batch, self.tokenizer = model, prompts, batch, tokenizer
        self.options = options_of_rows(options, len(prompts), limits)
        self.limits: list[int] = []  # the most new tokens of each answer
        for number, (prompt, own) in enumerate(zip(prompts, self.options, strict=True)):
            try:
                self.limits.append(resolve_max_new_tokens(model, [prompt], own))
            except ValueError as error:
                raise ValueError(f"prompt {number}: {error}") from error
        context = model.config.context_length
        lengths = [
            min(len(prompt) + new, context) if own.past_context == "shift" else len(prompt) + new
            for prompt, new, own in zip(prompts, self.limits, self.options, strict=True)
        ]
        self.cache_bytes = bytes_per_position(model) * sum(sorted(lengths)[-batch:])
        self.exact = any(own.exact for own in self.options)
        self.mixes = not self.exact  # whether prompts share calls with decoding rows

    def __iter__(self) -> Iterator[tuple[int, Generation]]:
        # the longest answers first: one that begins last would run alone
        waiting = deque(sorted(range(len(self.prompts)), key=lambda number: -self.limits[number]))
        running = list[Row]()
        while waiting or running:
            running += [self.start(waiting.popleft()) for _ in range(min(self.batch - len(running), len(waiting)))]
            with torch.no_grad():  # not around the yield, where it would reach the caller
                for call in self.calls(running):
                    compute_logits(self.model, call)
                ended = [row for row in running if not row.unprocessed and row.append_token()]
            running = [row for row in running if row not in ended]
            answers = [(row.number, row.answer) for row in ended]
            del call, ended  # and their caches, before those of the next prompts are made
            yield from answers

    def start(self, number: int) -> Row:
        """A row for one prompt, with an empty cache."""
        prompt, options = self.prompts[number], self.options[number]
        task = prepare_task(self.model, [prompt], options, 1)
        row = Row(number, task, StopStringBuffer(self.tokenizer, options.strings, prompt), len(prompt))
        row.has_parts = self.mixes and is_pointwise(self.model.rope, len(prompt), task.ids.device)
        return row

    def calls(self, rows: list[Row]) -> list[dict[Row, int]]:
        """The calls of the model in one step: rows, and how many of their unprocessed tokens to process."""
        alone = [{row: row.unprocessed} for row in rows if not row.fits_context()]  # the context has to shift
        rows = [row for row in rows if row.fits_context()]
        decoding = {row: 1 for row in rows if row.unprocessed == 1}
        prompts = [row for row in rows if row.unprocessed > 1]
        if self.mixes:
            return [*alone, decoding | parts_of_prompts(prompts, whole=not decoding)] if rows else alone
        if (
            self.exact
            and len(decoding) > 1
            and not next(iter(decoding)).task.runner.is_batch_invariant(len(decoding), 1)
        ):
            self.exact = False
            warn(
                f"{len(decoding)} rows round differently from one row in this model, so a near tie may be decided "
                "differently than for the prompt alone; batch=1 keeps the bits, exact=False hides this warning"
            )
        return [*alone, *([decoding] if decoding else []), *groups_of_prompts(prompts)]


@dataclass(eq=False)
class Row:
    """One answer while it is generated."""

    number: int  # of the prompt
    task: DecodingTask
    text: StopStringBuffer
    length: int  # tokens of prompt and answer
    answer: Generation = field(default_factory=Generation)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))  # (1, V): of the next token
    has_parts: bool = False  # whether the prompt can be processed in parts

    @property
    def processed(self) -> int:
        """Tokens that are in the cache, or were before the context shifted."""
        return self.task.runner.cache.length + self.task.runner.dropped_tokens

    @property
    def unprocessed(self) -> int:
        """Tokens that wait: the prompt at first, then one."""
        return self.length - self.processed

    def fits_context(self) -> bool:
        """Whether the unprocessed tokens fit the context without a shift."""
        context = self.task.runner.context
        return context is None or self.task.runner.cache.length + self.unprocessed <= context

    def append_token(self) -> bool:
        """Choose the next token. Returns True if it ends the answer."""
        (token,) = next_tokens(self.task, self.length, self.logits, [True], [self.text])
        self.answer.add(token)
        self.length += 1
        return token.finish_reason is not None


def compute_logits(model: Llama, call: dict[Row, int]) -> None:
    """Process tokens of each row in one call of the model, and keep the logits after the last one."""
    (row, count), *others = call.items()
    if not others and count == row.unprocessed:
        row.logits = row.task.runner.next_logits(row.task.ids[:, : row.length])
        return
    new = [row.task.ids[0, row.processed : row.processed + count] for row, count in call.items()]
    logits = logits_of_rows(model, [row.task.runner.cache for row in call], new)  # (N, V)
    for row, own in zip(call, logits.split(1), strict=True):
        row.logits = row.task.runner.checked(own)


def groups_of_prompts(prompts: list[Row]) -> list[dict[Row, int]]:
    """One call for each prompt. Those of equal length share one where that keeps the bits."""
    by_length: dict[int, list[Row]] = {}
    for row in prompts:
        by_length.setdefault(row.unprocessed, []).append(row)
    groups = list[list[Row]]()
    for group in by_length.values():
        chunked = any(row.task.options.prefill_chunk_size is not None for row in group)
        together = not chunked and group[0].task.runner.prefill_is_batch_invariant(len(group), 1)
        groups += [group] if together else [[row] for row in group]
    return [{row: row.unprocessed for row in group} for group in groups]


def parts_of_prompts(prompts: list[Row], whole: bool) -> dict[Row, int]:
    """Tokens of prompts to process in a call with decoding rows: the first prompts, up to PROMPT_TOKENS.

    So the weights are loaded once for both, and decoding rows never wait for a whole long prompt. Without decoding rows
    (`whole`) the first prompt is processed to its end. See: "Sarathi-Serve", arXiv:2403.02310.
    """
    counts: dict[Row, int] = {}
    for row in prompts:
        space = (row.task.options.prefill_chunk_size or PROMPT_TOKENS) - sum(counts.values())
        if space < 1:
            break
        in_parts = row.has_parts and (counts or not whole)
        counts[row] = min(row.unprocessed, space) if in_parts else row.unprocessed
    return counts


def options_of_rows(options: Options | Sequence[Options], rows: int, limits: Sequence[int] | None) -> list[Options]:
    """The options of each row, which is row 0 of its own batch and has random numbers of its own."""
    given = [options] * rows if isinstance(options, Options) else list(options)
    return [
        replace(
            own,
            seed=None if seed is None else [seed],
            max_new_tokens=own.max_new_tokens if limits is None else limits[number],
            prefix_allowed_tokens_fn=with_number(own.prefix_allowed_tokens_fn, number),
        )
        for number, (own, seed) in enumerate(zip(given, seeds_of_rows(options, rows), strict=True))
    ]


def seeds_of_rows(options: Options | Sequence[Options], rows: int) -> list[int | None]:
    """A seed for each row that samples. The options of one row have its own seed.

    Options for all rows have a list of seeds, or an int, which means seed, seed + 1, … Without a seed, torch's
    generator gives the first one.
    """
    given = [options] * rows if isinstance(options, Options) else list(options)
    sampling = [own.do_sample for own in given]
    if not any(sampling):
        return [None] * rows
    drawn = any(own.seed is None for own in given if own.do_sample)
    first = int(torch.randint(2**62, ())) if drawn else 0
    if not isinstance(options, Options):
        own_seeds = [first + number if own.seed is None else own.seed for number, own in enumerate(given)]
        seeds = [seed if isinstance(seed, int) else seed[0] for seed in own_seeds]
    elif options.seed is None or isinstance(options.seed, int):
        seeds = [(options.seed or first) + number for number in range(rows)]
    else:
        seeds = list(options.seed)
        if len(seeds) != rows:
            raise ValueError(f"{len(seeds)} seeds for {rows} prompts; give one for each prompt, or a single number")
    return [seed if samples else None for seed, samples in zip(seeds, sampling, strict=True)]


def with_number(
    allowed: Callable[[int, Tensor], Sequence[int]] | None, number: int
) -> Callable[[int, Tensor], Sequence[int]] | None:
    """`prefix_allowed_tokens_fn` of a row: with the number of the prompt, not 0."""
    return None if allowed is None else lambda _, ids: allowed(number, ids)


def refuse_options(options: Options) -> None:
    """Raise ValueError for an option that needs the whole batch, or a batch of one."""
    if options.beams > 1:
        raise ValueError("many prompts are answered without beam search; set num_beams=1, or use generate()")
    if options.copies > 1:
        raise ValueError("many prompts have one answer each; repeat a prompt for several, or use generate()")
    if options.prompt_lookup_num_tokens is not None:
        raise ValueError("speculation works on one answer at a time; leave out prompt_lookup_num_tokens")


def refuse_attention(model: Llama) -> None:
    """Raise ValueError for a layer whose attention cannot run row by row."""
    for layer in model.layers:
        attention = getattr(layer, "self_attn", layer)
        if not isinstance(attention, SelfAttention) or type(attention).forward is not SelfAttention.forward:
            raise ValueError(
                f"many prompts need attention row by row, and {type(attention).__name__} has a forward of its own; "
                "use generate()"
            )


def bytes_per_position(model: Llama) -> int:
    """Bytes of one position of one row in a cache of this model."""
    cache = model.new_cache(1, 1)
    return sum(tensor[:, :, :1].nbytes for tensor in cache.tensors().values())
