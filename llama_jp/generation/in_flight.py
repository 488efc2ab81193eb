"""Many prompts, a few at a time: when an answer ends, the next prompt takes its place (in-flight batching).

Each row is a decoding task of its own: options, filters, random numbers and a KV cache, as for `generate` with this
prompt alone. Only the model's call for the newest tokens is shared. The weights are loaded once for all rows; rotation
and attention run row by row, each at the row's own length, so there is no padding. See: "Orca", OSDI 2022.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache, LayerCache
from ..model import Attention, Llama, SelfAttention
from ..rope import Rope
from ..text.tokenizer import Tokenizer
from .checks import check_range
from .decoding import next_tokens
from .filter_chain import make_filters
from .options import Options, warn
from .results import Generation
from .runner import group_by_length, pad_left
from .stop_strings import StopStringBuffer
from .task import DecodingTask, prepare_task, resolve_max_new_tokens


class ManyGenerations:
    """Answers to many prompts: iterate over (number of the prompt, answer), in the order in which they end.

    cache_bytes: the most memory for keys and values of running rows, known before the first token
    exact: False after a step whose batch size is not batch-invariant; with the option exact=False, from the start
    """

    def __init__(
        self,
        model: Llama,
        prompts: Sequence[Sequence[int]],
        options: Options,
        batch: int,
        tokenizer: Tokenizer | None,
        limits: Sequence[int] | None,
    ) -> None:
        check_range("batch", batch, least=1, whole=True)
        refuse_options(options)
        refuse_attention(model)
        if limits is not None and len(limits) != len(prompts):
            raise ValueError(f"{len(limits)} limits for {len(prompts)} prompts; give one for each prompt")
        self.model, self.prompts, self.batch, self.tokenizer = model, prompts, batch, tokenizer
        seeds = seeds_of_rows(options, len(prompts))
        self.options = [
            options_of_row(options, number, seed, None if limits is None else limits[number])
            for number, seed in enumerate(seeds)
        ]
        make_filters(options)
        StopStringBuffer(tokenizer, options.strings)
        lengths = []
        for number, (prompt, own) in enumerate(zip(prompts, self.options, strict=True)):
            try:
                lengths.append(len(prompt) + resolve_max_new_tokens(model, [prompt], own))
            except ValueError as error:
                raise ValueError(f"prompt {number}: {error}") from error
        if options.past_context == "shift":
            lengths = [min(length, model.config.context_length) for length in lengths]
        self.cache_bytes = bytes_per_position(model) * sum(sorted(lengths)[-batch:])
        self.exact = options.exact

    def __iter__(self) -> Iterator[tuple[int, Generation]]:
        waiting, running = deque(range(len(self.prompts))), list[Row]()
        while waiting or running:
            new = [self.start(waiting.popleft()) for _ in range(min(self.batch - len(running), len(waiting)))]
            with torch.no_grad():  # not around the yield, where it would reach the caller
                self.step(running)
                self.prefill(new)
                running += new
                ended = [row for row in running if row.append_token()]
            running = [row for row in running if row not in ended]
            answers = [(row.number, row.answer) for row in ended]
            del ended  # and their caches, before those of the next prompts are made
            yield from answers

    def start(self, number: int) -> Row:
        """A row for one prompt, with an empty cache."""
        prompt, options = self.prompts[number], self.options[number]
        task = prepare_task(self.model, [prompt], options, 1)
        return Row(number, task, StopStringBuffer(self.tokenizer, options.strings, prompt), len(prompt))

    def prefill(self, rows: list[Row]) -> None:
        """Compute the logits after each prompt. Prompts of the same length share a call where that keeps the bits.

        With exact=False, prompts of similar length share a padded call.
        """
        for group in self.groups(rows):
            if len(group) == 1:
                (row,) = group
                row.logits = row.task.runner.next_logits(row.task.ids[:, : row.length])
            else:
                prefill_together(self.model, group)

    def groups(self, rows: list[Row]) -> list[list[Row]]:
        """The rows to prefill in one call."""
        if any(row.task.options.prefill_chunk_size is not None for row in rows):
            return [[row] for row in rows]
        if not self.options[0].exact:
            return [[rows[i] for i in group] for group in group_by_length([row.length for row in rows])]
        by_length: dict[int, list[Row]] = {}
        for row in rows:
            by_length.setdefault(row.length, []).append(row)
        groups = []
        for group in by_length.values():
            together = len(group) == 1 or group[0].task.runner.prefill_is_batch_invariant(len(group), 1)
            groups += [group] if together else [[row] for row in group]
        return groups

    def step(self, rows: list[Row]) -> None:
        """Process the newest token of each row, in one call for all rows that have space in their cache."""
        together = [row for row in rows if row.task.runner.has_space()]
        if len(together) < 2:
            together = []
        for row in rows:
            if row not in together:  # the only row, or one whose context has to shift
                row.logits = row.task.runner.next_logits(row.task.ids[:, : row.length])
        if not together:
            return
        if self.exact and not together[0].task.runner.is_batch_invariant(len(together), 1):
            self.exact = False
            warn(
                f"{len(together)} rows round differently from one row in this model, so a near tie may be decided "
                "differently than for the prompt alone; batch=1 keeps the bits, exact=False hides this warning"
            )
        caches = RowCaches([row.task.runner.cache for row in together])
        ids = torch.cat([row.task.ids[:, row.length - 1 : row.length] for row in together])  # (B, 1)
        with separate_rows(self.model):
            logits = self.model(ids, caches, mask=caches.mask(ids.device), last_only=True)  # (B, 1, V)
        for row, own in zip(together, logits, strict=True):
            row.logits = row.task.runner.checked(own)


@dataclass(eq=False)
class Row:
    """One answer while it is generated."""

    number: int  # of the prompt
    task: DecodingTask
    text: StopStringBuffer
    length: int  # tokens of prompt and answer
    answer: Generation = field(default_factory=Generation)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))  # (1, V): of the next token

    def append_token(self) -> bool:
        """Choose the next token. Returns True if it ends the answer."""
        (token,) = next_tokens(self.task, self.length, self.logits, [True], [self.text])
        self.answer.add(token)
        self.length += 1
        return token.finish_reason is not None


def prefill_together(model: Llama, rows: list[Row]) -> None:
    """Compute the logits after several prompts in one left-padded call, and give each row its part of the cache."""
    prompts = [row.task.ids[0, : row.length].tolist() for row in rows]
    ids, mask = pad_left(prompts, 0, rows[0].task.ids.device)
    B, N = ids.shape
    shared = model.new_cache(B, N)
    logits = model(ids.clamp(min=0), shared, mask=mask, last_only=True)  # (B, 1, V)
    for number, row in enumerate(rows):
        cache = row.task.runner.cache
        cache.reserve(1, row.length)
        for name, tensor in cache.tensors().items():
            tensor[:, :, : row.length] = shared.tensors()[name][number : number + 1, :, N - row.length : N]
        cache.length = row.length
        row.logits = row.task.runner.checked(logits[number])


class RowLayer:
    """The part of `RowCaches` that one layer uses."""

    def __init__(self, layers: Sequence[LayerCache]) -> None:
        self.layers = layers

    def append(self, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Append to each row; return all keys and values of each row: (B, K, 1, D) -> B tensors (1, K, S of row, D)."""
        pairs = [layer.append(*new) for layer, *new in zip(self.layers, k.split(1), v.split(1), strict=True)]
        return [keys for keys, _ in pairs], [values for _, values in pairs]


class RowCaches(Cache):
    """The caches of several rows, each with a length of its own, as the cache of one batch in one step."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self.caches = caches
        self.batch_size = len(caches)

    @property
    def length(self) -> int:
        """The length of the longest row."""
        return max(cache.length for cache in self.caches)

    @length.setter
    def length(self, length: int) -> None:
        new = length - self.length
        for cache in self.caches:
            cache.length += new

    def layer(self, index: int) -> Any:
        return RowLayer([cache.layer(index) for cache in self.caches])

    def reserve(self, batch_size: int, tokens: int) -> None:
        for cache in self.caches:
            cache.reserve(1, tokens)

    def mask(self, device: torch.device) -> Tensor:
        """The mask (B, S) for one new token per row, as if the rows were left-padded. It decides the positions."""
        own = torch.tensor([cache.length for cache in self.caches], device=device)[:, None] + 1  # (B, 1)
        index = torch.arange(self.length + 1, device=device)
        return (index >= self.length + 1 - own).long()


@contextmanager
def separate_rows(model: Llama) -> Iterator[None]:
    """Inside, rotation and attention run row by row, on the tensors of `RowCaches`.

    Each row gets the arguments of a call without other rows. So it has the same bits, an attention function of your own
    sees no padding, and a rope that depends on the longest position sees one row only.
    """
    changes: list[tuple[dict[str, Any], str, Any]] = [(vars(model), "rope", partial(rotate_rows, model.rope))]
    for module in model.modules():
        if isinstance(module, SelfAttention):
            changes.append((vars(module), "attend", partial(attend_rows, module.attend)))
    before = [attributes.get(name) for attributes, name, _ in changes]
    try:
        for attributes, name, function in changes:
            attributes[name] = function
        yield
    finally:
        for (attributes, name, _), function in zip(changes, before, strict=True):
            if function is None:  # it is a module, which the attribute has hidden
                attributes.pop(name, None)
            else:
                attributes[name] = function


def attend_rows(
    attend: Attention, q: Tensor, keys: list[Tensor], values: list[Tensor], mask: Tensor | None, *positions: Tensor
) -> Tensor:
    """Call `attend` for each row of q (B, H, 1, D) with the row's own keys and values (1, K, S of row, D)."""
    return torch.cat(
        [
            attend(own, k, v, None, *(torch.arange(k.shape[2], device=k.device)[None] for _ in positions))
            for own, k, v in zip(q.split(1), keys, values, strict=True)
        ]
    )


def rotate_rows(rope: Rope, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Call `rope` for each row of the positions (B or 1, 1): cos and sin, each (B or 1, 1, D)."""
    cos, sin = zip(*map(rope, positions.split(1)), strict=True)
    return torch.cat(cos), torch.cat(sin)


def seeds_of_rows(options: Options, rows: int) -> list[int | None]:
    """A seed for each row: those of a list; seed, seed + 1, … of an int; else the same from torch's generator."""
    if not options.do_sample:
        return [None] * rows
    seed = options.seed if options.seed is not None else int(torch.randint(2**62, ()))
    if isinstance(seed, int):
        return [seed + number for number in range(rows)]
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} prompts; give one for each prompt, or a single number")
    return list(seed)


def options_of_row(options: Options, number: int, seed: int | None, limit: int | None) -> Options:
    """The options of one row, which is row 0 of its own batch."""
    allowed = options.prefix_allowed_tokens_fn
    return replace(
        options,
        seed=None if seed is None else [seed],
        max_new_tokens=options.max_new_tokens if limit is None else limit,
        prefix_allowed_tokens_fn=None if allowed is None else lambda _, ids: allowed(number, ids),
    )


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
