"""Every kernel multiplies by the same weight, and one that a machine lacks is named and not used."""

from __future__ import annotations

from math import prod

import pytest
import torch
from helpers.reference import DTYPES, SEED

from llama_jp.linear import kernels
from llama_jp.linear.kernels import (
    KERNELS,
    SMALL_BATCH,
    LinearKernel,
    available_kernels,
    default_kernel,
    why_unavailable,
)
from llama_jp.linear.weight import Weight, dequantize, join

KINDS = ("float", "int8", "int4")


def random_weight(kind: str, dtype: torch.dtype, outputs: int = 96, inputs: int = 256, seed: int = SEED) -> Weight:
    generator = torch.Generator().manual_seed(seed)
    if kind == "float":
        return Weight(torch.randn(outputs, inputs, generator=generator).to(dtype))
    if kind == "int8":
        values = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
        return Weight(values, torch.rand(outputs, generator=generator) / 100)
    values = torch.randint(0, 256, (outputs, inputs // 2), generator=generator, dtype=torch.uint8)
    scale, zero = torch.rand(2, outputs, inputs // 64, generator=generator).to(torch.bfloat16)
    return Weight(values, scale, zero)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(128, 256), (96, 192), (61, 64), (64, 320), (61, 77)], ids=str)
def test_every_kernel_multiplies_by_the_same_weight(kind, dtype, shape):
    """Close to the float64 product for few and many rows at any address, and the unpacked weight is bit-identical.

    Guards against kernels that load past the end of a block or need an aligned address.
    """
    outputs, inputs = shape
    if kind == "int4" and inputs % 64:
        pytest.skip("groups of 64 do not divide it")
    weight = random_weight(kind, dtype, outputs, inputs)
    matrix = dequantize(weight, torch.float64)
    available, _ = available_kernels(kind, shape, dtype, "int8")
    assert LinearKernel in available
    for kernel in available:
        multiply = kernel(weight)
        for rows in ((1, 1), (2, 3), (1, 8), (1, SMALL_BATCH), (1, SMALL_BATCH + 1), (2, 40)):
            numbers = torch.randn(3 + inputs * prod(rows), generator=torch.Generator().manual_seed(SEED)).to(dtype)
            x = numbers[3:].view(*rows, inputs)  # not at the start of a block
            y = multiply(x)
            expected = x.double() @ matrix.T
            tolerance = 0.03 if "int8" in (kernel.activations, kind) else 0.01  # 8 bits of rows, or of results
            assert y.shape == expected.shape and y.dtype == dtype, kernel.name
            assert (y.double() - expected).norm() < tolerance * expected.norm(), (kernel.name, rows)
        for part, unpacked in zip(weight, multiply.unpack(), strict=True):
            assert part is None or torch.equal(part, unpacked), kernel.name


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.activations == "int8"], ids=lambda kernel: kernel.name)
def test_a_row_of_activations_has_its_own_scale(kernel):
    """Guards against one scale for all rows: a row gives the same result beside a row a thousand times as large."""
    if reason := why_unavailable(kernel, "int8", torch.float32):
        pytest.skip(reason)
    multiply = kernel(random_weight("int8", torch.float32))
    row, large = torch.randn(1, 256), torch.randn(1, 256) * 1000
    zeros = torch.zeros(1, 256)
    together = multiply(torch.cat([row, large, zeros]))
    assert torch.allclose(together[:1], multiply(row), rtol=1e-6, atol=0)
    assert torch.equal(together[2:], torch.zeros_like(together[2:]))


def test_int8_sums_are_exact():
    """Guards against sums that overflow or round: 4096 products of the largest bytes."""
    for kernel in (kernels.Int8FBGEMMKernel, kernels.Int8OneDNNKernel):
        if why_unavailable(kernel, "int8", torch.float32):
            continue
        values = torch.full((64, 4096), 127, dtype=torch.int8)
        y = kernel(Weight(values, torch.ones(64)))(torch.ones(2, 4096))
        assert torch.allclose(y, torch.full((2, 64), 127.0 * 4096), rtol=1e-6)


def test_a_missing_or_wrong_kernel_is_named(monkeypatch):
    """Guards against a kernel that is selected although its operator is missing, wrong or changes the weight."""

    class Missing(LinearKernel):
        name = "missing"

        def __init__(self, weight):
            raise RuntimeError("no such operator\nand a long story")

    class Wrong(LinearKernel):
        name = "wrong"

        def __call__(self, x):
            return super().__call__(x) * 1.1

    class Lossy(LinearKernel):
        name = "lossy"

        def unpack(self):
            return Weight(self.weight.values + 1)

    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, Missing, Wrong, Lossy))
    available, sentences = available_kernels("float", (64, 256), torch.float32)
    assert available == [LinearKernel]
    assert sentences == [
        "missing is not available on this machine: no such operator",
        "wrong is not available on this machine: its result is wrong",
        "lossy is not available on this machine: its packing changes the weight",
    ]


def test_a_default_kernel_that_is_missing_warns(monkeypatch):
    """Guards against a silent change to the slow kernel."""
    weight = random_weight("int8", torch.bfloat16)
    monkeypatch.setattr(kernels, "why_unavailable", lambda *_: "no such operator")
    with pytest.warns(UserWarning, match="int8 weights is not available on this machine: no such operator; quantised"):
        assert type(default_kernel(weight, torch.bfloat16)) is LinearKernel


@pytest.mark.parametrize("kind", KINDS)
def test_availability_depends_on_no_default_of_the_caller(kind):
    """Guards against a verdict that holds only under the first caller's default device and dtype, but is cached."""
    usual = [why_unavailable(kernel, kind, torch.bfloat16) for kernel in KERNELS if kind in kernel.kinds]
    kernels.try_kernel.cache_clear()
    kernels.rows_in_int4_block.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = [why_unavailable(kernel, kind, torch.bfloat16) for kernel in KERNELS if kind in kernel.kinds]
    finally:
        torch.set_default_dtype(torch.float32)
        kernels.try_kernel.cache_clear()
        kernels.rows_in_int4_block.cache_clear()
    assert found == usual


def test_availability_depends_on_the_engine_of_quantized_operators():
    """Guards against a cached verdict that belongs to another value of torch.backends.quantized.engine."""
    kernel, before = kernels.Int8FBGEMMKernel, torch.backends.quantized.engine
    if reason := why_unavailable(kernel, "int8", torch.float32):
        pytest.skip(reason)
    if "qnnpack" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no qnnpack, the engine without the operator")
    try:
        torch.backends.quantized.engine = "qnnpack"
        assert "is not implemented" in why_unavailable(kernel, "int8", torch.float32)
    finally:
        torch.backends.quantized.engine = before
    assert why_unavailable(kernel, "int8", torch.float32) is None


def test_join_and_split_are_inverse():
    weights = [random_weight("int4", torch.float32, outputs, seed=outputs) for outputs in (8, 24)]
    for weight, part in zip(weights, join(weights).split([8, 24]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weight, part, strict=True))
