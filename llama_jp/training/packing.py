"""Several documents in one row, so that no token of a batch is wasted on padding."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .losses import IGNORE

Document = tuple[Sequence[int], Sequence[int]]  # ids and labels, as `example` returns them


def pack(examples: Iterable[Document], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pack documents into rows of `length` tokens.

    Shapes: ids, labels and mask, each (B, length) int64; B follows from the documents.

    examples  (ids, labels) pairs, as `example` returns them
    mask      0 padding; 1, 2, 3 … the number of the token's document in its row: the mask of `Llama`

    The first token of a document has no label, because it does not follow from the document before it. Each document is
    whole, in one row: the one with the least room that is enough, so equal documents give equal rows. Padding has the
    id 0, which no token sees, and no label.

    Raises ValueError for a document that is longer than a row, and for one whose ids and labels differ in length.
    """
    documents = list(examples)
    for number, (ids, labels) in enumerate(documents):
        if len(ids) != len(labels):
            raise ValueError(f"example {number} has {len(ids)} ids and {len(labels)} labels; each id has one label")
    rows = plan_rows([len(ids) for ids, _ in documents], length)
    return fill_rows([[documents[i] for i in row] for row in rows], length)


def plan_rows(lengths: Iterable[int], length: int) -> list[list[int]]:
    """Which documents stand in which row, by their numbers. A row has room for `length` tokens.

    Raises ValueError for a document that is longer than a row.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (room, row), sorted
    for number, size in enumerate(lengths):
        if size > length:
            raise ValueError(f"example {number} has {size} tokens and a row {length}; cut it, or take longer rows")
        best = bisect_left(rooms, (size, 0))
        if best < len(rooms):
            room, row = rooms.pop(best)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(number)
        insort(rooms, (room - size, row))
    return rows


def fill_rows(rows: Sequence[Sequence[Document]], length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ids, labels and mask of rows of documents that fit: each (B, length) int64."""
    shape = len(rows), length
    ids, labels, mask = torch.zeros(shape).long(), torch.full(shape, IGNORE), torch.zeros(shape).long()
    for row, documents in enumerate(rows):
        start = 0
        for number, (document_ids, document_labels) in enumerate(documents, 1):
            at = slice(start, start + len(document_ids))
            ids[row, at] = torch.tensor(document_ids)
            labels[row, at] = torch.tensor(document_labels)
            labels[row, start : start + 1] = IGNORE
            mask[row, at] = number
            start += len(document_ids)
    return ids, labels, mask
