"""Round to nearest: by hand, on constant groups, and against every other candidate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from llama_jp.linear.scheme import Scheme
from llama_jp.linear.weight import dequantize, dequantize_int4
from llama_jp.numerics import same_bits
from llama_jp.quantization import rounding
from llama_jp.quantization.rounding import fit_groups, nearest_int4, round_int4, round_int8, round_weight


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
    weight = torch.randn(70, 64, generator=torch.Generator().manual_seed(0))
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


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("scheme", [Scheme(8), Scheme(4, 32)], ids=["int8", "int4"])
def test_blocks_of_rows_are_rounded_as_one(scheme, mode, monkeypatch):
    """On several threads, in each mode of torch, for a parameter with a gradient."""
    weight = torch.nn.Parameter(torch.randn(70, 64, generator=torch.Generator().manual_seed(0)).bfloat16())
    rows = weight.detach().float()
    whole = round_int8(rows) if scheme.bits == 8 else round_int4(rows, 32)
    monkeypatch.setattr(rounding, "WEIGHTS_AT_ONCE", 3 * 64)  # the last block is smaller
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with mode():
            blocks = round_weight(scheme, "x", weight)
        with ThreadPoolExecutor(1) as pool:  # a thread that starts later has as many as this one
            assert (torch.get_num_threads(), pool.submit(torch.get_num_threads).result()) == (3, 3)
    finally:
        torch.set_num_threads(threads)
    for expected, made in zip(whole.tensors().values(), blocks.tensors().values(), strict=True):
        assert same_bits(expected, made) and not made.requires_grad


def test_not_finite_in_a_later_block_is_refused(monkeypatch):
    monkeypatch.setattr(rounding, "WEIGHTS_AT_ONCE", 64)
    weight = torch.ones(70, 64)
    weight[69, 0] = torch.inf
    with pytest.raises(ValueError, match=r"^x.weight has values that are not finite"):
        round_weight(Scheme(4, 32), "x", weight)
