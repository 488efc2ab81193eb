"""Packing: nothing is lost, nothing is split, and no document learns from the one before it."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llama_jp
from llama_jp.training import loss, pack
from llama_jp.training.losses import IGNORE


def test_by_hand():
    examples = [([5, 6, 7], [IGNORE, 6, 7]), ([8, 9], [8, 9]), ([1, 2, 3], [1, 2, 3]), ([4], [4])]
    ids, labels, mask = pack(examples, 6)
    assert ids.tolist() == [[5, 6, 7, 8, 9, 4], [1, 2, 3, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 2, 2, 3], [1, 1, 1, 0, 0, 0]]
    x = IGNORE
    assert labels.tolist() == [[x, 6, 7, x, 9, x], [x, 2, 3, x, x, x]], "the first token of a document has no label"
    assert {ids.dtype, labels.dtype, mask.dtype} == {torch.int64}


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(0, 10**6))
def test_every_document_is_whole_and_none_is_lost(sizes, seed):
    rng = random.Random(seed)
    documents = [[rng.randrange(1, 1000) for _ in range(size)] for size in sizes]
    ids, labels, mask = pack([(document, document) for document in documents], 20)
    found = []
    for row_ids, row_labels, row_mask in zip(ids, labels, mask, strict=True):
        for number in range(1, int(row_mask.max()) + 1):
            at = row_mask == number
            found.append(row_ids[at].tolist())
            assert row_labels[at].tolist() == [IGNORE, *found[-1][1:]]
            where = at.nonzero().flatten()
            assert where[-1] - where[0] + 1 == len(found[-1]), "a document is one piece"
        assert bool((row_labels[row_mask == 0] == IGNORE).all())
    assert sorted(found) == sorted(documents)
    assert len(ids) <= max(1, 2 * sum(sizes) / 20 + 1), "rows are filled"
    again = pack([(document, document) for document in documents], 20)
    assert all(torch.equal(one, other) for one, other in zip((ids, labels, mask), again, strict=True))


def test_a_packed_loss_is_that_of_the_documents_alone(small):
    """Against: attention, positions or targets that cross from one document into the next."""
    model = llama_jp.Llama.from_pretrained(small, dtype="float32", device="cpu")
    documents = [torch.randint(0, 96, (size,)).tolist() for size in (7, 12, 5, 9)]
    ids, labels, mask = pack([(document, document) for document in documents], 20)
    packed = loss(model(ids, mask=mask), labels, 1)
    alone = [loss(model(torch.tensor([each])), torch.tensor([each]), 1) for each in documents]
    torch.testing.assert_close(packed, sum(alone), rtol=1e-6, atol=0)  # another order of summation: 2e-7
    assert abs(loss(model(ids), labels, 1) - packed) > 0.01, "without the mask, documents see each other"


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="example 1 has 7 tokens and a row 6"):
        pack([([1], [1]), ([1] * 7, [1] * 7)], 6)
    with pytest.raises(ValueError, match="example 0 has 2 ids and 1 labels"):
        pack([([1, 2], [1])], 6)
