"""Attention for one query: the numbers of the written-out attention, compiled once, and only where it fits."""

from __future__ import annotations

import pytest
import torch
from helpers.reference import DTYPES

from llama_jp.linear import one_query, programs
from llama_jp.linear.one_query import OneQueryAttention, is_right, random_query, why_one_query_is_unavailable
from llama_jp.model import attend_eager, attend_sdpa


@pytest.fixture
def in_python(monkeypatch):
    """The same arithmetic without a compiler."""
    monkeypatch.setattr(one_query, "compiled", lambda function: function)


def padding_mask(B: int, S: int) -> torch.Tensor:
    """Row i has i tokens of padding: (B, 1, 1, S)."""
    return (torch.arange(S) >= torch.arange(B)[:, None])[:, None, None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("B", "H", "K", "S"), [(1, 4, 4, 7), (1, 6, 2, 33), (3, 6, 2, 33), (5, 4, 1, 4)])
def test_the_result_of_the_written_out_attention(in_python, dtype, B, H, K, S):
    """Guards against query heads that share another head's keys, a mask of another row, and a missing scale."""
    q, k, v = random_query(B, H, K, S, 20, dtype)
    for mask in (None, padding_mask(B, S)):
        assert is_right(OneQueryAttention(attend_sdpa), q, k, v, mask)


def test_compiled_once_for_all_lengths_and_rows(monkeypatch):
    """Guards against a compilation in the middle of an answer, which takes seconds."""
    if reason := why_one_query_is_unavailable(torch.float32, True):
        pytest.skip(f"torch.compile has no compiler here: {reason}")
    monkeypatch.setattr(programs, "load_or_make", lambda *_: pytest.fail("another program"))
    attend = OneQueryAttention(attend_sdpa)
    for B, H, K, S, D in ((1, 4, 2, 2, 16), (8, 4, 2, 16, 16), (2, 16, 8, 128, 32), (1, 12, 2, 300, 24)):
        assert is_right(attend, *random_query(B, H, K, S, D, torch.float32))


def test_other_calls_go_to_the_attention_function(in_python, monkeypatch):
    """Several queries, one key, gradients: guards against lost gradients and a causal mask that is ignored."""
    monkeypatch.setattr(one_query, "weigh_values", lambda *_: pytest.fail("not a call for this kernel"))
    attend = OneQueryAttention(attend_eager)
    q, k, v = random_query(2, 4, 2, 5, 16, torch.float32)
    several = torch.randn(2, 4, 5, 16)
    assert torch.equal(attend(several, k, v, None), attend_eager(several, k, v, None))
    assert torch.equal(attend(q, k[:, :, :1], v[:, :, :1], None), attend_eager(q, k[:, :, :1], v[:, :, :1], None))
    q.requires_grad_()
    attend(q, k, v, None).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize(
    ("compiled", "reason"),
    [
        (lambda function: lambda *args: function(*args) * 1.1, "its result is wrong"),
        (lambda function: lambda *args: function(*args).double(), "its result is wrong"),
        (lambda function: lambda *args: 1 / 0, "division by zero"),
    ],
)
def test_a_kernel_that_is_wrong_or_missing_is_unavailable(monkeypatch, compiled, reason):
    monkeypatch.setattr(one_query, "compiled", compiled)
    assert why_one_query_is_unavailable.__wrapped__(torch.float32, True) == reason
