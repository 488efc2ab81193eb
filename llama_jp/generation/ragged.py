"""One call of the model for the new tokens of several rows, each with a cache and a length of its own, without padding.

The tokens of all rows stand one after the other in a batch of one, (1, T). Embedding, norms and matrix products work
on single tokens, so they run on all T at once. Rotation and attention run row by row, with the positions and the keys
of the row alone. A decoding row has one new token, a prompt has many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache, LayerCache
from ..model import Attention, Llama, SelfAttention, positions_and_mask
from ..rope import Rope


def logits_of_rows(model: Llama, caches: Sequence[Cache], new: Sequence[Tensor]) -> Tensor:
    """Process the new ids (T_i,) of each row i, and append them to its cache. Returns the logits (N, V) after each.

    Each row gets the arguments of a call without other rows. So it has the same bits where matrix products have, an
    attention function of your own sees no padding, and a rope that depends on the longest position sees one row.
    """
    counts = [len(ids) for ids in new]
    pairs = [
        positions_and_mask(None, count, cache.length + count, new[0].device)
        for cache, count in zip(caches, counts, strict=True)
    ]
    positions, visible = zip(*pairs, strict=True)
    with row_by_row(model, counts, positions, visible):
        return model(torch.cat(list(new))[None], RaggedCache(caches, counts))[0]


class RaggedLayer:
    """The part of a `RaggedCache` that one layer uses."""

    def __init__(self, layers: Sequence[LayerCache], counts: list[int]) -> None:
        self.layers, self.counts = layers, counts

    def append(self, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Append to each row; return all keys and values of each row: (1, K, T, D) -> N tensors (1, K, S_i, D)."""
        new = zip(self.layers, k.split(self.counts, 2), v.split(self.counts, 2), strict=True)
        pairs = [layer.append(*own) for layer, *own in new]
        return [keys for keys, _ in pairs], [values for _, values in pairs]


class RaggedCache(Cache):
    """The caches of several rows as the cache of one call. Its length is 0: positions and masks are the rows' own."""

    def __init__(self, caches: Sequence[Cache], counts: list[int]) -> None:
        self.caches, self.counts = caches, counts
        self.batch_size = 1

    @property
    def length(self) -> int:
        return 0

    @length.setter
    def length(self, length: int) -> None:
        for cache, count in zip(self.caches, self.counts, strict=True):
            cache.length += count

    def layer(self, index: int) -> Any:
        return RaggedLayer([cache.layer(index) for cache in self.caches], self.counts)

    def reserve(self, batch_size: int, tokens: int) -> None:
        for cache, count in zip(self.caches, self.counts, strict=True):
            cache.reserve(1, count)


@contextmanager
def row_by_row(
    model: Llama, counts: list[int], positions: Sequence[Tensor], visible: Sequence[Tensor | None]
) -> Iterator[None]:
    """Inside, the model rotates and attends row by row, and computes the logits of the last token of each row only.

    counts     new tokens of each row, T_i
    positions  of the new tokens, (1, T_i) for each row
    visible    the attention mask of each row, (1, 1, T_i, S_i), or None in the plain causal case
    """
    last = [end - 1 for end in accumulate(counts)]
    changes: list[tuple[dict[str, Any], str, Any]] = [
        (vars(model), "rope", partial(rotate_rows, model.rope, positions)),
        (vars(model), "lm_head", lambda x, head=model.lm_head: head(x[:, last])),
    ]
    for module in model.modules():
        if isinstance(module, SelfAttention):
            changes.append((vars(module), "attend", partial(attend_rows, module.attend, counts, visible)))
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


def rotate_rows(rope: Rope, positions: Sequence[Tensor], _: Tensor) -> tuple[Tensor, Tensor]:
    """Call `rope` for the positions (1, T_i) of each row: cos and sin, each (1, T, D)."""
    cos, sin = zip(*map(rope, positions), strict=True)
    return torch.cat(cos, 1), torch.cat(sin, 1)


def attend_rows(
    attend: Attention,
    counts: list[int],
    visible: Sequence[Tensor | None],
    q: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    _: Tensor | None,
    *positions: Tensor,
) -> Tensor:
    """Call `attend` for the queries of each row, q (1, H, T_i, D), with its own keys and values (1, K, S_i, D)."""
    rows = zip(q.split(counts, 2), keys, values, visible, strict=True)
    return torch.cat(
        [
            attend(own, k, v, mask, *(torch.arange(k.shape[2], device=k.device)[None] for _ in positions))
            for own, k, v, mask in rows
        ],
        2,
    )


def is_pointwise(rope: Rope, tokens: int, device: torch.device) -> bool:
    """Whether the angles of these positions are the same when the second half is not there yet.

    Only then can a prompt be processed in parts: the rope of a longer context may depend on the longest position.
    """
    positions = torch.arange(tokens, device=device)[None]
    half = (tokens + 1) // 2
    whole, first = rope(positions), rope(positions[:, :half])
    return all(torch.equal(a[:, :half], b) for a, b in zip(whole, first, strict=True))
