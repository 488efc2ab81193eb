"""Round to nearest: by hand, on constant groups, and against every other candidate."""

from __future__ import annotations

import pytest
import torch

from llama_jp.linear.scheme import Scheme
from llama_jp.linear.weight import dequantize, dequantize_int4
from llama_jp.quantization.rounding import fit_groups, nearest_int4, round_weight


def test_int8_by_hand():
    rounded = round_weight(Scheme(8), "x", torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    assert rounded.values.tolist() == [[64, -127, 32], [0, 0, 0]]  # 63.5 and 31.75, to nearest (even)
    assert rounded.scale.tolist() == [pytest.approx(2 / 127), 1.0]


def test_int4_by_hand():
    """Sixteen equal steps from -1.75 are exact: the first is 0, the last 15. The even input is in the low four bits."""
    row = torch.arange(16).repeat(2) * 0.25 - 1.75
    rounded = round_weight(Scheme(4, 32), "x", row[None])
    assert rounded.scale.tolist() == [[0.25]] and rounded.zero.tolist() == [[0.25]]  # (8 - 8) * scale + zero
    assert rounded.values[0, :8].tolist() == [low + 16 * (low + 1) for low in range(0, 16, 2)]
    assert torch.equal(dequantize(rounded, torch.float32)[0], row)


def test_a_constant_group_keeps_its_value():
    values = torch.tensor([0.0, 0.375, -3.0]).repeat_interleave(32)[None]
    assert torch.equal(dequantize(round_weight(Scheme(4, 32), "x", values), torch.float32), values)


def test_every_value_is_rounded_to_the_nearest():
    weight = torch.randn(70, 64, generator=torch.Generator().manual_seed(0))  # more than one block of rows
    rounded = round_weight(Scheme(8), "x", weight)
    error = (rounded.values.float() * rounded.scale[:, None] - weight).abs()
    assert bool((error <= 0.5001 * rounded.scale[:, None]).all())

    groups = weight.unflatten(1, (-1, 32))
    scale, zero = fit_groups(groups)
    values = [dequantize_int4(torch.full_like(groups, q), scale, zero) for q in range(16)]
    nearest = torch.stack([(value - weight).abs() for value in values]).amin(0)
    error = (dequantize_int4(nearest_int4(groups, scale, zero), scale, zero) - weight).abs()
    assert torch.allclose(error, nearest, atol=1e-6)


def test_a_smaller_range_lowers_the_error():
    groups = torch.randn(64, 4, 128, generator=torch.Generator().manual_seed(0))

    def error(scale, zero):
        return (dequantize_int4(nearest_int4(groups, scale, zero), scale, zero) - groups.flatten(1)).square().sum()

    assert error(*fit_groups(groups)) < 0.95 * error(*fit_groups(groups, shrinks=(1.0,)))


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.weight has values that are not finite"):
        round_weight(Scheme(8), "layers.1.mlp.up_proj", torch.tensor([[1.0, float("nan")]]))
