"""Packing int4 weights is a permutation of 4-bit numbers, the same as that of torch's operator."""

from __future__ import annotations

import pytest
import torch
from helpers.reference import SEED

from llama_jp.linear import int4_packing, kernels
from llama_jp.linear.int4_packing import deinterleave_int4, dequantize_interleaved, interleave_int4
from llama_jp.linear.kernels import INT4_ROWS, Int4WeightKernel, rows_in_int4_block, why_unavailable
from llama_jp.linear.weight import Weight, dequantize, unpack_int4

SHAPES = [(64, 32), (128, 704), (192, 96), (576, 4096), (128, 11008)]  # outputs, inputs


def stored(outputs: int, inputs: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 256, (outputs, inputs // 2), generator=generator, dtype=torch.uint8)


def int4_weight(outputs: int, inputs: int, group_size: int) -> Weight:
    generator = torch.Generator().manual_seed(SEED)
    scale, zero = torch.randn(2, outputs, inputs // group_size, generator=generator).to(torch.bfloat16)
    return Weight(stored(outputs, inputs), scale, zero)


@pytest.fixture
def half():
    if (cpu := torch.backends.cpu.get_cpu_capability()) not in ("AVX2", "AVX512"):
        pytest.skip(f"torch's int4 kernel has another layout on {cpu}")
    assert why_unavailable(Int4WeightKernel, "int4", torch.bfloat16) is None
    return rows_in_int4_block() // 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bytes_at_once", [1, int4_packing.BYTES_AT_ONCE])
def test_packing_equals_that_of_the_operator(half, monkeypatch, shape, bytes_at_once):
    """Guards against a number in another place, in one block of outputs or at the edges of several."""
    monkeypatch.setattr(int4_packing, "BYTES_AT_ONCE", bytes_at_once)
    values = stored(*shape)
    expected = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_int4(values).int(), 1).view_as(values)
    assert torch.equal(interleave_int4(values, half), expected)
    assert torch.equal(deinterleave_int4(expected, half), values)


@pytest.mark.parametrize("half", [8, 16, 32])
def test_packing_follows_its_definition(half):
    """For the blocks of other CPUs as well: packed[b, k, h] = q[2H b + h, k] | q[2H b + H + h, k] << 4."""
    values = stored(192, 96)
    q = unpack_int4(values).view(-1, 2, half, 96)
    expected = (q[:, 0] | q[:, 1] << 4).transpose(1, 2).reshape(192, 48)
    assert torch.equal(interleave_int4(values, half), expected)
    assert torch.equal(deinterleave_int4(expected, half), values)


@pytest.mark.parametrize("offset", [0, 1, 3, 8])
def test_a_weight_may_start_anywhere_and_stays_as_it_is(half, offset):
    """Guards against a memory-mapped weight that is no multiple of a word from the start of its file."""
    values = stored(64, 256)
    buffer = torch.zeros(offset + values.numel(), dtype=torch.uint8)
    view = buffer[offset:].view_as(values).copy_(values)
    assert torch.equal(interleave_int4(view, half), interleave_int4(values, half))
    assert torch.equal(view, values)


@pytest.mark.parametrize("group_size", [32, 64, 128])
@pytest.mark.parametrize("outputs", [64, 192])
def test_floats_from_packed_weights_are_those_of_the_definition(half, outputs, group_size):
    """Bit-identical to `dequantize`: guards against a sum that is rounded twice."""
    weight = int4_weight(outputs, 512, group_size)
    kernel = Int4WeightKernel(weight)
    halves = dequantize_interleaved(kernel.packed, kernel.scale_and_zero, half)  # (2, K, N / 2)
    values = halves.view(2, 512, -1, half).permute(2, 0, 3, 1).reshape(outputs, 512)
    assert torch.equal(values, dequantize(weight, torch.bfloat16))


@pytest.mark.parametrize("outputs", [64, 1024, 1984])
def test_many_rows_are_as_near_to_the_definition_as_few(half, outputs):
    """Guards against outputs in the wrong place where a weight becomes floats in several blocks."""
    weight = int4_weight(outputs, 256, 64)
    kernel = Int4WeightKernel(weight)
    x = torch.randn(INT4_ROWS + 1, 256, generator=torch.Generator().manual_seed(SEED)).to(torch.bfloat16)
    expected = x.float() @ dequantize(weight, torch.float32).T
    for rows in (INT4_ROWS, INT4_ROWS + 1):
        assert (kernel(x[:rows]).float() - expected[:rows]).norm() < 0.005 * expected.norm(), rows


def test_a_cpu_without_bfloat16_products_multiplies_packed_numbers(half, monkeypatch):
    """Guards against torch's slow product of bfloat16 matrices on other processors."""
    kernel = Int4WeightKernel(int4_weight(64, 256, 64))
    x = torch.ones(INT4_ROWS + 1, 256, dtype=torch.bfloat16)
    monkeypatch.setattr(kernels, "multiplies_bfloat16", lambda: False)
    monkeypatch.setattr(Int4WeightKernel, "multiply_floats", None)
    assert torch.equal(kernel(x), kernel.multiply_packed(x))
