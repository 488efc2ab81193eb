"""Prefill and decoding steps for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..cache import Cache
from ..model import Llama

FEW_TOKENS = 64  # reading so many takes about as long as reading the weights for one

VECTORS = 64  # the most numbers that a CPU's silu takes at once

BATCH_INVARIANT: WeakKeyDictionary[Llama, dict[tuple, bool]] = (
    WeakKeyDictionary()
)  # what `ModelRunner.is_batch_invariant` has found out


class ModelRunner:
    """A model and what it has read so far. `read` goes on where it stopped and says what may come next.

    Everything keeps the bits of the reference, which reads a prompt once for each of its answers, and every row to the
    end of the longest. Where products of a smaller batch round as those of a larger, a prompt is read once for all its
    answers, and a row that has ended leaves; with `exact=False` always, and prompts are read by their lengths.
    """

    def __init__(
        self,
        model: Llama,
        mask: Tensor,
        cache: Cache | None,
        *,
        copies: int = 1,
        chunk: int | None = None,
        context: int | None = None,
        sinks: int = 0,
        exact: bool = True,
    ):
        B, capacity = mask.shape
        self.model, self.chunk, self.exact = model, chunk, exact
        self.mask = None if bool(mask.all()) else mask  # (B, capacity) or None: no padding
        self.context, self.sinks = context, sinks  # context None: never shift
        self.dropped = 0  # tokens that are no longer in the cache
        self.rows = list(range(B))  # of the batch, as they stand in the cache
        self.may_drop = cache is None
        self.shared = 1  # so many answers share a row until the prompt is read
        if copies > 1 and cache is None and (not exact or self.prefill_is_batch_invariant(B, B // copies)):
            self.shared = copies
            self.rows = self.rows[::copies]
        if cache is not None and cache.batch_size != B:
            cache = cache.fork([row // copies for row in range(B)])
        self.cache = cache or model.new_cache(len(self.rows), min(capacity, context or capacity))
        self.logits = torch.zeros(B, model.config.vocab_size, device=mask.device)  # an ended row keeps its last ones

    def next_logits(self, ids: Tensor) -> Tensor:
        """Read what is new in `ids` (B, N): float32 logits of what comes next (B, V)."""
        new = ids[self.rows, self.cache.length + self.dropped :]
        new = new.clamp(min=0)  # padding may be any id: the mask hides it
        if self.context is not None and self.cache.length + new.shape[1] > self.context:
            new = self.shift(ids)
        if not self.exact and self.mask is not None and not self.cache.length and self.chunk is None:
            logits = self.prefill_by_length(new)
        else:
            for part in new.split(self.chunk or new.shape[1], dim=1):
                end = self.cache.length + part.shape[1]
                mask = None if self.mask is None else self.mask[self.rows, :end]
                logits = self.model(part, self.cache, mask=mask, last_only=True)
        self.logits = self.logits.clone()
        self.logits[self.rows] = logits[:, -1].float()
        if self.shared > 1:
            self.expand_rows()
        return self.logits

    def prefill_by_length(self, new: Tensor) -> Tensor:
        """Read prompts (B, N) of about the same length at a time, so that padding costs little: logits (B, 1, V)."""
        N = new.shape[1]
        mask = self.mask[self.rows, :N]
        logits: list[Tensor | None] = [None] * len(new)
        for layer in self.cache.keys + self.cache.values:
            layer[:, :, :N] = 0  # padding is not read, and hidden or not, it must be numbers
        for rows in group_by_length(mask.sum(-1).tolist()):
            begin = N - int(mask[rows[0]].sum())
            read = self.model.new_cache(len(rows), N - begin)
            scores = self.model(new[rows, begin:], read, mask=mask[rows, begin:], last_only=True)
            for layer, part in zip(self.cache.keys + self.cache.values, read.keys + read.values, strict=True):
                layer[rows, :, begin:N] = part
            for row, score in zip(rows, scores, strict=True):
                logits[row] = score
        self.cache.length = N
        return torch.stack(logits)

    def expand_rows(self) -> None:
        """The prompts have been read; from here each of their answers has a row of its own."""
        rows = range(len(self.logits))
        self.cache.select_rows([row // self.shared for row in rows])
        self.logits = self.logits[[row - row % self.shared for row in rows]]
        self.rows, self.shared = list(rows), 1

    def shift(self, ids: Tensor) -> Tensor:
        """The context is full: forget all but the first tokens and the newer half of the others, and read those anew.

        The first tokens take the attention that has nowhere else to go; without them the text falls apart. What stays
        gets new positions, which is why it is read again. See: "Attention Sinks", arXiv:2309.17453.
        """
        newest = max(1, (self.context - self.sinks) // 2)
        texts = [[token for token in row if token >= 0] for row in ids.tolist()]
        kept = [text if len(text) <= self.sinks + newest else text[: self.sinks] + text[-newest:] for text in texts]
        N = max(map(len, kept))
        window, mask = pad_left(kept, self.context - N, ids.device)
        self.mask = None if bool(mask.all()) else mask
        self.cache.crop(0)
        self.dropped = ids.shape[1] - N
        return window[self.rows, :N].clamp(min=0)

    def reorder_rows(self, parents: Sequence[int]) -> None:
        """Row i goes on from what row parents[i] has read."""
        if list(parents) != self.rows:
            self.cache.select_rows(parents)

    def drop_finished(self, running: Sequence[bool]) -> None:
        """Rows that have ended leave the batch, as far as that keeps the bits of those that go on."""
        going = [row for row in self.rows if running[row]]
        if not self.may_drop or not going or len(going) == len(self.rows):
            return
        ended = sorted((row for row in self.rows if not running[row]), key=lambda row: not self.padded(row))
        for size in range(len(going), min(len(going) + 4, len(self.rows))) if self.exact else [len(going)]:
            kept = sorted(going + ended[: size - len(going)])  # an ended row may stay, to keep the size
            if self.exact and not (self.keeps_mask(kept) and self.is_batch_invariant(len(self.rows), size)):
                continue
            self.cache.select_rows([self.rows.index(row) for row in kept])
            self.rows = kept
            return

    def padded(self, row: int) -> bool:
        return self.mask is not None and not bool(self.mask[row].all())

    def keeps_mask(self, kept: Sequence[int]) -> bool:
        """Attention with and without a mask can round differently, so a batch with padding keeps a row that has it."""
        return self.mask is None or any(map(self.padded, kept)) or not any(map(self.padded, self.rows))

    def prefill_is_batch_invariant(self, large: int, small: int) -> bool:
        """Has a prompt the bits of a batch of `large` when `small` rows read it?

        Only in 16 bits: in float32, how products sum may depend on the prompt's length as well.
        """
        sixteen = self.model.embed_tokens.weight.dtype in (torch.bfloat16, torch.float16)
        return sixteen and self.is_batch_invariant(large, small) and self.is_batch_invariant(large, small, tokens=8)

    @torch.no_grad()
    def is_batch_invariant(self, large: int, small: int, tokens: int = 1) -> bool:
        """Do calls for a token (or some) of `small` rows have the bits of those of `large`, wherever a row stands?

        Asked once for each model and pair of sizes.

        Matrix products of different heights may sum in a different order: on many CPUs they do in float32, but not in
        bfloat16 and float16. So the model is asked about the same few tokens in every place of both batches. That does
        not show a silu that runs in vectors of the CPU: where rows do not fill them, what is left over at the end of a
        batch may have another last bit. (So may what several threads leave over when they divide a large one; and in
        bfloat16, narrow products of different heights differ in one element of thousands, which two tokens can miss.)
        """
        if self.model.config.intermediate_size % VECTORS:
            return False
        known = BATCH_INVARIANT.setdefault(self.model, {})
        weight, V = self.model.embed_tokens.weight, self.model.config.vocab_size
        key = (large, small, tokens, weight.dtype, torch.get_num_threads())
        if key not in known:
            every = [
                self.model(torch.full((size, tokens), token, device=weight.device))
                for token in (0, V // 2)
                for size in (large, small)
            ]
            known[key] = all(
                torch.equal(of_large[:1].expand_as(batch), batch)
                for of_large, of_small in zip(every[::2], every[1::2], strict=True)
                for batch in (of_large, of_small)
            )
        return known[key]


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Which rows to read together, the longest first: what is padding costs no more than a third of what is not.

    Unless there is so little to read that the weights cost more than the tokens.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        longest = lengths[groups[-1][0]] if groups else 0
        if longest and (4 * lengths[row] >= 3 * longest or (len(groups[-1]) + 1) * longest <= FEW_TOKENS):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


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
