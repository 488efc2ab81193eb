"""ULPs and differences of tensors: the numbers that reports show."""

from __future__ import annotations

import torch

from llama_jp.numerics import difference, ulps


def test_ulps_count_the_numbers_between():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        one = torch.ones(1, dtype=dtype)
        after = torch.nextafter(one, 2 * one)
        assert ulps(one, after).item() == 1
        assert ulps(-one, -after).item() == 1
        assert ulps(torch.zeros_like(one), -torch.zeros_like(one)).item() == 0
        info = torch.finfo(dtype)
        least = torch.tensor([info.smallest_normal * info.eps]).to(dtype)
        assert ulps(least, -least).item() == 2


def test_a_difference_names_the_first_token_and_leaves_padding_out():
    x = torch.zeros(2, 3, 4)
    y = x.clone()
    y[0, 0, 1], y[1, 2, 3] = 1, 1
    assert difference(x, y).token == (0, 0)
    assert difference(x, y).differing == 2
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]]).bool()
    assert difference(x, y, mask).token == (1, 2)
    assert difference(x, x.clone()).equal
