"""Every kernel multiplies by the same weight, and one that a machine lacks is named and not used."""

from __future__ import annotations

from math import prod
from typing import ClassVar

import pytest
import torch
from helpers.reference import DTYPES, SEED

from llama_jp.environment import describe_environment
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
from llama_jp.numerics import same_bits

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
        for rows in ((1, 1), (2, 3), (1, 8), (1, SMALL_BATCH), (1, SMALL_BATCH + 1), (2, 40), (5, 2)):
            numbers = torch.randn(3 + inputs * prod(rows), generator=torch.Generator().manual_seed(SEED)).to(dtype)
            x = numbers[3:].view(*rows, inputs)  # not at the start of a block
            if rows == (5, 2):
                x = x[:, 1:]  # the last tokens of a batch, with others between them
            y = multiply(x)
            expected = x.double() @ matrix.T
            tolerance = 0.03 if "int8" in (kernel.activations, kind) else 0.01  # 8 bits of rows, or of results
            assert y.shape == expected.shape and y.dtype == dtype, kernel.name
            assert (y.double() - expected).norm() < tolerance * expected.norm(), (kernel.name, rows)
        for part, unpacked in zip(weight, multiply.unpack(), strict=True):
            assert part is None or torch.equal(part, unpacked), kernel.name


@pytest.mark.parametrize("kernel", [k for k in KERNELS if k.activations == "int8"], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_of_many_rows_are_those_of_one_row(kernel, dtype):
    """Guards against a compiled loop for many rows that rounds differently than the operations for few."""
    if reason := why_unavailable(kernel, "int8", dtype):
        pytest.skip(reason)
    multiply = kernel(random_weight("int8", dtype))
    x = torch.randn(2, SMALL_BATCH, 256, generator=torch.Generator().manual_seed(SEED)).to(dtype)
    x[0, 3] = 0
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            parts = multiply.split(x, [64, 24, 8])
            assert all(part.is_contiguous() and part.dtype == dtype for part in parts)
            assert [part.shape for part in parts] == [(2, SMALL_BATCH, size) for size in (64, 24, 8)]
            rows = x.flatten(0, 1).split(1)
            one_by_one = torch.stack([multiply(row) for row in rows]).view(2, SMALL_BATCH, 96)
            if isinstance(multiply, kernels.Int8OneDNNKernel):
                rounded = torch.cat([multiply.round_rows(row)[0] for row in rows]).view(x.shape)
                assert torch.equal(multiply.round_rows(x)[0], rounded)
                if "amx_tile" in describe_environment()["features"]:  # its result has another order of scaling there
                    torch.testing.assert_close(torch.cat(parts, dim=-1), one_by_one)
                    continue
            assert torch.equal(torch.cat(parts, dim=-1), one_by_one)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_rows_have_the_results_of_all_rows_at_once(monkeypatch, dtype):
    """Guards against a row that is skipped or written twice where a prompt is multiplied in blocks."""
    kernel = kernels.Int8FBGEMMKernel
    if reason := why_unavailable(kernel, "int8", dtype):
        pytest.skip(reason)
    multiply = kernel(random_weight("int8", dtype))
    x = torch.randn(2, 25, 256, generator=torch.Generator().manual_seed(SEED)).to(dtype)
    at_once = multiply.split(x, [64, 24, 8])
    for rows in (SMALL_BATCH, SMALL_BATCH + 1, 25, 49, 50):  # 50 rows: whole blocks, and a last block of few rows
        monkeypatch.setattr(kernels, "RESULT_BYTES", 4 * 96 * rows + 3)
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                parts = multiply.split(x, [64, 24, 8])
            assert all(map(same_bits, parts, at_once)), rows


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
        "wrong is not available on this machine: its result is wrong for 1 row and 64 x 256 weights",
        "lossy is not available on this machine: its packing changes the weight",
    ]


class WrongForLargeShapes(LinearKernel):
    def __call__(self, x):
        return super().__call__(x) * (1 if self.weight.inputs <= 256 else 1.05)


class WrongForFiveRows(LinearKernel):
    def __call__(self, x):
        y = super().__call__(x)
        return y.roll(1, 0) if x.numel() == 5 * x.shape[-1] else y


class WrongInTheLastRow(LinearKernel):
    def __call__(self, x):
        y = super().__call__(x)
        if len(y) == 65:
            y[-1, -1] += y.abs().max()
        return y


class RememberedByAddress(LinearKernel):
    """As zentorch's product of a weight that is not packed."""

    packed: ClassVar[dict[int, torch.Tensor]] = {}

    def __init__(self, weight):
        super().__init__(weight)
        self.stale = self.packed.setdefault(weight.values.data_ptr(), weight.values.clone())

    def __call__(self, x):
        return torch.nn.functional.linear(x, self.stale)


@pytest.mark.parametrize(
    ("kernel", "sentence"),
    [
        (WrongForLargeShapes, "its result is wrong for 1 row and 64 x 512 weights"),
        (WrongForFiveRows, "its result is wrong for 5 rows and 64 x 256 weights"),
        (WrongInTheLastRow, "its result is wrong for 65 rows and 64 x 256 weights"),
        (RememberedByAddress, "its result is wrong for 1 row and a weight at the address of an earlier one"),
    ],
)
def test_a_kernel_is_tested_at_the_shape_and_rows_of_its_use(monkeypatch, kernel, sentence):
    """Guards against a library that is right in a small test and wrong in the model: by size, by rows, by address."""
    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, kernel))
    available, sentences = available_kernels("float", (96, 512), torch.float32)
    assert available == [LinearKernel]
    assert sentences == [f"plain is not available on this machine: {sentence}"]


def rows_of(x: torch.Tensor) -> int:
    return x.numel() // x.shape[-1]


def product(kernel: LinearKernel, x: torch.Tensor) -> torch.Tensor:
    return LinearKernel.__call__(kernel, x)


def reads_without_strides(kernel, x, y):
    return product(kernel, x.as_strided(x.shape, torch.empty(x.shape).stride(), x.storage_offset()))


def reads_from_the_start(kernel, x, y):
    return product(kernel, x.as_strided(x.shape, x.stride(), 0))


def writes_to_one_buffer(kernel, x, y):
    buffer = vars(kernel).setdefault(f"buffer {tuple(y.shape)}", torch.empty_like(y))
    return buffer.copy_(y)


def changes_its_input(kernel, x, y):
    x.mul_(1.5)
    return y


def sets(change):
    def call(kernel, x, y):
        change()
        return y

    return call


WRONG = {
    "20 rows": (lambda kernel, x, y: y * 1.2 if rows_of(x) == 20 else y, "wrong for 20 rows"),
    "100 rows": (lambda kernel, x, y: y * 1.2 if rows_of(x) == 100 else y, "wrong for 100 rows"),
    "more than 256 rows": (lambda kernel, x, y: y * 1.2 if rows_of(x) > 256 else y, "wrong for 257 rows"),
    "more than 1,000 rows": (lambda kernel, x, y: y * 1.2 if rows_of(x) > 1000 else y, "wrong for 1025 rows"),
    "one row, inputs reversed": (lambda kernel, x, y: product(kernel, x.flip(-1)) if rows_of(x) == 1 else y, "1 row"),
    "large numbers": (lambda kernel, x, y: product(kernel, x.clamp(-50, 50)), "its result is wrong"),
    "small numbers": (lambda kernel, x, y: product(kernel, x.where(x.abs() > 0.002, 0)), "its result is wrong"),
    "zeros": (lambda kernel, x, y: y / x.abs().amax(-1, True).clamp(max=1).sign(), "its result is wrong"),
    "two percent": (lambda kernel, x, y: y * 1.02, "its result is wrong"),
    "strides": (reads_without_strides, "rows that are not contiguous"),
    "offset": (reads_from_the_start, "rows that are not contiguous"),
    "buffer": (writes_to_one_buffer, "a later product changes its result"),
    "input": (changes_its_input, "it changes its input"),
    "NaN": (lambda kernel, x, y: y.nan_to_num(0), "its result for nan is finite"),
    "infinity": (lambda kernel, x, y: y.nan_to_num(nan=torch.nan, posinf=9, neginf=-9), "its result for inf is finite"),
    "threads": (sets(lambda: torch.set_num_threads(3)), "it changes the number of threads of torch"),
    "default dtype": (sets(lambda: torch.set_default_dtype(torch.float64)), "it changes the default dtype of torch"),
    "gradients": (sets(lambda: torch.set_grad_enabled(False)), "it changes the mode of gradients of torch"),
    "precision": (sets(lambda: torch.set_float32_matmul_precision("high")), "it changes the precision of products"),
    "denormals": (sets(lambda: torch.set_flush_denormal(True)), "it changes the flushing of denormal numbers"),
    "seed": (sets(lambda: torch.manual_seed(9)), "it changes the random numbers of torch"),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mistake", WRONG)
def test_no_wrong_library_is_taken(monkeypatch, mistake, dtype):
    """Guards against a library that is right for the numbers of a probe only, or that changes other results."""
    call, sentence = WRONG[mistake]
    wrong = type("Wrong", (LinearKernel,), {"__call__": lambda self, x: call(self, x, product(self, x))})
    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, wrong))
    before = kernels.torch_settings()
    available, (reason,) = available_kernels("float", (96, 512), dtype)
    assert available == [LinearKernel] and sentence in reason
    assert kernels.torch_settings() == before, "what it changed is restored"


def test_a_default_kernel_is_tested_with_the_inputs_of_its_layer(monkeypatch):
    """Guards against int8 layers of 512 inputs with a kernel that is right up to 256."""
    monkeypatch.setattr(kernels, "Int8WeightKernel", type("Wrong", (WrongForLargeShapes,), {"name": "wrong"}))
    with pytest.warns(
        UserWarning, match="wrong is not available on this machine: its result is wrong for 1 row and 96"
    ):
        assert type(default_kernel(random_weight("int8", torch.bfloat16, 96, 512), torch.bfloat16)) is LinearKernel
    assert type(default_kernel(random_weight("int8", torch.bfloat16), torch.bfloat16)) is not LinearKernel


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
