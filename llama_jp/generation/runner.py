"""Prefill (optionally chunked) and decoding steps for a batch. Finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..cache import Cache
from ..environment import available_memory
from ..model import Llama
from ..tracing import paused

FEW_TOKENS = 64  # up to this many tokens, a prefill takes about as long as loading the weights for one token
FEW_BYTES = 1 << 28  # that surely fit into the memory
VECTOR_WIDTH = 64  # the most numbers that a CPU's silu processes at once


class ModelRunner:
    """A model with the cache of one batch. Each call of `next_logits` continues where the last one stopped.

    All results keep the bits of the reference. The reference prefills a prompt once for each of its answers and keeps
    every row until the longest one ends. Where the model is batch-invariant, prompts are prefilled once for all their
    answers and finished rows leave the batch. With `exact=False` both always happen, and prompts are grouped by length.
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
        finite: bool = True,
    ) -> None:
        B, capacity = mask.shape
        self.model, self.chunk, self.exact, self.finite = model, chunk, exact, finite
        self.mask = None if bool(mask.all()) else mask  # (B, capacity); None: no padding
        self.context, self.sinks = context, sinks  # context None: never shift
        self.dropped_tokens = 0  # tokens of the text that shifts removed from the cache
        self.rows = list(range(B))  # rows of the batch, in the order of the cache
        self.may_drop = cache is None
        self.shared = 1  # answers that share one row until the prompt is prefilled
        if copies > 1 and cache is None and (not exact or self.prefill_is_batch_invariant(B, B // copies)):
            self.shared = copies
            self.rows = self.rows[::copies]
        if cache is not None and cache.batch_size != B:
            cache = cache.fork([row // copies for row in range(B)])
        self.cache = cache or model.new_cache(len(self.rows), min(capacity, context or capacity))
        self.logits = torch.zeros(B, model.config.vocab_size, device=mask.device)  # finished rows keep their last ones

    def next_logits(self, ids: Tensor) -> Tensor:
        """Process the new tokens of `ids` (B, N). Returns the float32 logits of the next token (B, V)."""
        new = ids[self.rows, self.cache.length + self.dropped_tokens :]
        new = new.clamp(min=0)  # padding may have any id, since the mask hides it
        if self.context is not None and self.cache.length + new.shape[1] > self.context:
            new = self.shift(ids, self.context)
        if not self.exact and self.mask is not None and not self.cache.length and self.chunk is None:
            logits = self.prefill_by_length(new, self.mask)
        else:
            for part in new.split(self.chunk or new.shape[1], dim=1):
                end = self.cache.length + part.shape[1]
                mask = None if self.mask is None else self.mask[self.rows, :end]
                logits = self.model(part, self.cache, mask=mask, last_only=True)
        self.logits = self.logits.clone()
        self.logits[self.rows] = self.checked(logits[:, -1])
        if self.shared > 1:
            self.expand_rows()
        return self.logits

    def checked(self, logits: Tensor) -> Tensor:
        """Logits (N, V) in float32. Raises ValueError for NaN or infinity, unless `finite` is False."""
        # a sum is finite only if every number is, and takes a tenth of the time
        if self.finite and not logits.sum().isfinite() and not logits.isfinite().all():
            dtype = str(logits.dtype).removeprefix("torch.")
            raise ValueError(
                f"the model's logits are not finite after {self.cache.length + self.dropped_tokens} tokens in {dtype}; "
                "float16 overflows where bfloat16 and float32 do not, so load with another dtype; "
                "if that does not help, the weights hold NaN or infinity"
            )
        return logits.float()

    def prefill_by_length(self, new: Tensor, mask: Tensor) -> Tensor:
        """Prefill prompts (B, N) in groups of similar length, so padding costs little: logits (B, 1, V)."""
        N = new.shape[1]
        mask = mask[self.rows, :N]
        by_row: dict[int, Tensor] = {}
        self.cache.reserve(len(self.rows), N)
        for tensor in self.cache.tensors().values():
            tensor[:, :, :N] = 0  # padding positions are not computed, but must hold finite numbers
        for rows in group_by_length(mask.sum(-1).tolist()):
            begin = N - int(mask[rows[0]].sum())
            group = self.model.new_cache(len(rows), N - begin)
            scores = self.model(new[rows, begin:], group, mask=mask[rows, begin:], last_only=True)
            parts = group.tensors()
            for name, tensor in self.cache.tensors().items():
                tensor[rows, :, begin:N] = parts[name]
            by_row |= dict(zip(rows, scores, strict=True))
        self.cache.length = N
        return torch.stack([by_row[row] for row in range(len(new))])

    def expand_rows(self) -> None:
        """After the prefill, give each answer of a prompt its own row."""
        rows = range(len(self.logits))
        self.cache.select_rows([row // self.shared for row in rows])
        self.logits = self.logits[[row - row % self.shared for row in rows]]
        self.rows, self.shared = list(rows), 1

    def shift(self, ids: Tensor, context: int) -> Tensor:
        """Empty the full cache; return the first tokens and the newer half of the others, to be processed again.

        The first tokens receive the attention that no other token needs; without them the text degenerates. The kept
        tokens get new positions, so they are computed again. See: "Attention Sinks", arXiv:2309.17453.
        """
        newest = max(1, (context - self.sinks) // 2)
        texts = [[token for token in row if token >= 0] for row in ids.tolist()]
        kept = [text if len(text) <= self.sinks + newest else text[: self.sinks] + text[-newest:] for text in texts]
        N = max(map(len, kept))
        window, mask = pad_left(kept, context - N, ids.device)
        self.mask = None if bool(mask.all()) else mask
        self.cache.crop(0)
        self.dropped_tokens = ids.shape[1] - N
        return window[self.rows, :N].clamp(min=0)

    def reorder_rows(self, parents: Sequence[int]) -> None:
        """Row i continues from the cache of row parents[i]."""
        if list(parents) != self.rows:
            self.cache.select_rows(parents)

    def drop_finished(self, running: Sequence[bool]) -> None:
        """Remove finished rows from the batch, as far as the running rows keep their bits."""
        active = [row for row in self.rows if running[row]]
        if not self.may_drop or not active or len(active) == len(self.rows):
            return
        finished = sorted((row for row in self.rows if not running[row]), key=lambda row: not self.is_padded(row))
        sizes = range(len(active), min(len(active) + 4, len(self.rows))) if self.exact else [len(active)]
        for size in sizes:
            kept = sorted(active + finished[: size - len(active)])  # finished rows may stay to make up the size
            if self.exact and not (self.keeps_mask(kept) and self.is_batch_invariant(len(self.rows), size)):
                continue
            self.cache.select_rows([self.rows.index(row) for row in kept])
            self.rows = kept
            return

    def is_padded(self, row: int) -> bool:
        """Whether a row has padding."""
        return self.mask is not None and not bool(self.mask[row].all())

    def keeps_mask(self, kept: Sequence[int]) -> bool:
        """Whether the batch still needs a mask if it needs one now: attention without a mask can round differently."""
        return self.mask is None or any(map(self.is_padded, kept)) or not any(map(self.is_padded, self.rows))

    def prefill_is_batch_invariant(self, large: int, small: int) -> bool:
        """Whether prefill gives bit-identical results at batch sizes `large` and `small`.

        Only in 16 bits: in float32 the order of summation may also depend on the length of the prompt.
        """
        is_16_bit = self.model.embed_tokens.weight.dtype in (torch.bfloat16, torch.float16)
        return is_16_bit and self.is_batch_invariant(large, small) and self.is_batch_invariant(large, small, tokens=8)

    @torch.no_grad()
    def is_batch_invariant(self, large: int, small: int, tokens: int = 1) -> bool:
        """Whether calls for some tokens give bit-identical rows at batch sizes `large` and `small`, at every row.

        Matrix products of different heights may sum in a different order: on many CPUs they do in float32, but not in
        16 bits. So the model runs on the same tokens at every row of both batches. Two causes escape this measurement:

        - silu processes vectors of the CPU, and the remainder at the end of a batch may round differently. The
          answer is False unless intermediate_size is a multiple of the vector width. Several threads may still split a
          large batch with a remainder.
        - In bfloat16, and in float16 on a CPU that multiplies it, narrow products of different heights differ in one
          element of thousands.

        The answer is measured once for each pair of sizes, and again when the model's code changes.
        """
        if self.model.config.intermediate_size % VECTOR_WIDTH:
            return False
        measured = measured_invariance(self.model)
        weight, V = self.model.embed_tokens.weight, self.model.config.vocab_size
        key = (large, small, tokens, weight.device, torch.get_num_threads(), torch.is_autocast_enabled())
        if key not in measured:
            with paused():  # these calls are not part of the text
                logits = [
                    self.model(torch.full((size, tokens), token, device=weight.device))
                    for token in (0, V // 2)
                    for size in (large, small)
                ]
            measured[key] = all(
                torch.equal(of_large[:1].expand_as(batch), batch)
                for of_large, of_small in zip(logits[::2], logits[1::2], strict=True)
                for batch in (of_large, of_small)
            )
        return measured[key]


def measured_invariance(model: Llama) -> dict[tuple[object, ...], bool]:
    """The measurements of `is_batch_invariant` for the code that this model runs now.

    They lie on the model, beside the list of its code: a replaced function, hook, layer or dtype starts a new dict.
    """
    code = code_of(model)
    known: tuple[list[object], dict[tuple[object, ...], bool]] | None = vars(model).get("_batch_invariance")
    if known is None or len(known[0]) != len(code) or not all(map(is_same_code, known[0], code)):
        known = (code, {})
        vars(model)["_batch_invariance"] = known
    return known[1]


def code_of(model: nn.Module) -> list[object]:
    """All that decides which kernels a model calls: classes, functions, hooks, and the layout of each tensor."""
    code: list[object] = []
    for module in model.modules():
        code.append(type(module))
        code += [value for value in vars(module).values() if callable(value)]
        code += [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        code += [(tensor.dtype, tensor.shape, tensor.stride()) for tensor in tensors]
    return code


def is_same_code(old: object, new: object) -> bool:
    """The same object, or an equal description of a tensor."""
    return old is new or (isinstance(old, tuple) and old == new)


def group_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Groups of rows to prefill together, the longest first. Padding adds at most a third to the tokens of a group.

    Groups of few tokens may have more padding: there the weights cost more time than the tokens.
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
    """A left-padded batch with room for the answers: ids and mask, both (B, N + new_tokens).

    Padding is -1 in the ids and 0 in the mask; room for new tokens is -1 and 1.

    Raises MemoryError for more numbers than fit into the memory. Where the system promises more memory than it has,
    torch would fill it until the process is killed.
    """
    N = max(map(len, prompts))
    nbytes = 2 * torch.long.itemsize * len(prompts) * (N + new_tokens)
    available = available_memory(torch.device("cpu")) if nbytes > FEW_BYTES else None
    if available is not None and nbytes > available:
        raise MemoryError(f"{N + new_tokens} tokens for each answer: tried to allocate {nbytes} bytes")
    ids = torch.full((len(prompts), N + new_tokens), -1)
    mask = torch.ones_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, N - len(prompt) : N] = torch.tensor(prompt)
        mask[row, : N - len(prompt)] = 0
    return ids.to(device), mask.to(device)
