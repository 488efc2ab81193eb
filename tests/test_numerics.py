"""ULPs and differences of tensors: the numbers that reports show."""

from __future__ import annotations

import json
import math

import torch

from llama_jp.numerics import all_finite, difference, json_values, non_finite, ulps


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


def test_nan_and_infinity_become_strings_in_json():
    """Guards against bare NaN, which is not JSON."""
    values = {"a": [1.5, float("nan"), (float("inf"), -float("inf"))], "b": {"c": None, "d": 3, "e": "NaN", "f": True}}
    expected = {"a": [1.5, "NaN", ["Infinity", "-Infinity"]], "b": {"c": None, "d": 3, "e": "NaN", "f": True}}
    assert json_values(values) == expected
    assert json.loads(json.dumps(json_values(values), allow_nan=False)) == expected
    assert float("NaN") != float("NaN") and float("Infinity") == math.inf


def test_nan_equals_only_nan():
    x = torch.tensor([[[1.0, math.nan, math.inf]]])
    assert difference(x, x.clone()).equal
    y = torch.tensor([[[1.0, math.nan, 3.0]]])
    assert difference(x, y).differing == 1 and difference(x, y).max_value == math.inf
    assert difference(x, torch.ones(1, 1, 3)).differing == 2
    assert non_finite(x).flatten().tolist() == [False, True, True]
    assert not all_finite(x) and not all_finite(-y) and all_finite(torch.ones(3)) and all_finite(torch.ones(0))
