"""Logits of many windows, computed in batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..generation.runner import group_by_length
from ..model import Llama, LlamaConfig

LOGITS_AT_ONCE = (
    2**26
)  # numbers in the logits of one batch (B, T, V): 256 MiB in float32; a single window may have more


def batch_by_length(lengths: Sequence[int], config: LlamaConfig) -> list[list[int]]:
    """Batches of rows by their numbers, the longest first, each within LOGITS_AT_ONCE.

    Rows beyond the trained context have no padding: the angles of dynamic rope depend on the longest row of a batch.
    """
    batches = []
    for group in group_by_length(lengths):
        longest = lengths[group[0]]
        size = max(1, LOGITS_AT_ONCE // (longest * config.vocab_size))
        if longest > config.max_position_embeddings and lengths[group[-1]] < longest:
            size = 1
        batches += [group[start : start + size] for start in range(0, len(group), size)]
    return batches


@torch.inference_mode()
def batched_logits(model: Llama, rows: Sequence[Sequence[int]], batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """The logits (T, V) of each row of T ids, in the order of `batches`, which hold the numbers of the rows.

    A batch is padded on the right, without a mask: no token sees a later one. Rounding may depend on the batch.
    """
    device = model.embed_tokens.weight.device
    for batch in batches:
        longest = max(len(rows[number]) for number in batch)
        ids = torch.tensor([[*rows[number], *[0] * (longest - len(rows[number]))] for number in batch])  # (B, T)
        for number, logits in zip(batch, model(ids.to(device)), strict=True):
            yield logits[: len(rows[number])]
