"""Kernels for the product of activations and a weight: `F.linear`, and faster ones that only some machines have.

Operators internal to torch are called in this file only. Each kernel is first tested on weights of the shape that it
has to multiply. A kernel that fails there is not used: a warning says so, and `F.linear` computes the product.

The letters in the shapes:

    M rows of x, over all leading dimensions   K inputs   N outputs   G groups of K / G inputs that share a scale
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..numerics import same_bits
from . import zen
from .int4_packing import deinterleave_int4, dequantize_interleaved, interleave_int4
from .programs import compiled
from .weight import Weight, dequantize

BLOCK = 64  # numbers or bytes that the int8 and int4 kernels load at once

OUTPUTS_AT_ONCE = 512

RESULT_BYTES = 12 << 20  # of float32 at once: glibc gives larger memory back, and its pages cost time at the next use

SMALL_BATCH = 16  # rows up to which loading the weight takes longer than multiplying by it

INT4_ROWS = 64  # rows up to which multiplying packed int4 numbers is faster than converting them to floats first

PROMPT_ROWS = 256  # of the prompt for which kernels are tested and compared

ONE_ROW = (1,) * 6  # each of the special `probe_rows` by itself

SAMPLE_ROWS = (*ONE_ROW, *range(2, 18), 31, 32, 33, 63, 64, 65, PROMPT_ROWS)  # whole blocks, and partly filled ones

MANY_ROWS = (*ONE_ROW, *range(2, PROMPT_ROWS + 2), 511, 512, 513, 1025, 2048)  # for a test with few outputs

FEW_OUTPUTS = 64  # up to which MANY_ROWS take little time

SMALL_SHAPE = (FEW_OUTPUTS, 256)  # outputs and inputs of a test that takes a few milliseconds


class LinearKernel:
    """`F.linear`, as in a model without optimisation. Quantised weights are converted to floats in each call."""

    name: ClassVar[str] = "plain"
    kinds: ClassVar[tuple[str, ...]] = ("float", "int8", "int4")  # of weights
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.float32, torch.bfloat16, torch.float16)  # of x
    activations: ClassVar[str] = "float"  # "int8": each row of x is rounded to eight bits as well
    compiles: ClassVar[bool] = True  # whether torch.compile can trace it; it cannot trace operators internal to torch
    same_arithmetic: ClassVar[bool] = True  # False: sums in another order than the default, so the last bits differ
    packs_alone: ClassVar[bool] = False  # packing uses one core, so several weights may be packed at once

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        """Whether the operator supports this shape. Some load whole blocks, and would read past the end of others."""
        return True

    def __init__(self, weight: Weight):
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N), in the dtype of x."""
        # rounding: x as one matrix (M, K), as F.linear folds it for a weight with a gradient; for others it may copy
        y = F.linear(x.reshape(-1, x.shape[-1]), dequantize(self.weight, x.dtype))
        return y.view(*x.shape[:-1], -1)

    def split(self, x: Tensor, sizes: list[int]) -> list[Tensor]:
        """The product in parts of `sizes` outputs, which are N together: x (..., K) -> contiguous (..., size) each."""
        # rounding: contiguous, as if computed alone; operations on strided rows may round differently
        return [part.contiguous() for part in self(x).split(sizes, dim=-1)]

    def unpack(self) -> Weight:
        """The weight, bit-identical to the one that the kernel was made from."""
        return self.weight


class MatVecKernel(LinearKernel):
    """`torch.mv` for one row. Its kernels differ from those of `F.linear`."""

    name = "mv"
    kinds = ("float",)
    same_arithmetic = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[-1]:
            return super().__call__(x)
        return torch.mv(self.weight.values, x.flatten()).view(*x.shape[:-1], -1)


class CompiledDotKernel(LinearKernel):
    """Products and a float32 sum for one row. `torch.compile` fuses them into one loop over the weight."""

    name = "compiled dot"
    kinds = ("float",)
    same_arithmetic = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[-1]:
            return super().__call__(x)
        with torch.no_grad():  # the weight may be a parameter
            return compiled(sum_of_products)(self.weight.values, x.flatten()).view(*x.shape[:-1], -1)


def sum_of_products(weight: Tensor, x: Tensor) -> Tensor:
    """weight (N, K), x (K,) -> (N,), summed in float32."""
    return (weight.float() * x.float()).sum(-1).to(x.dtype)


class OneDNNKernel(LinearKernel):
    """oneDNN's product with a packed weight. In 16 bits, `F.linear` is the same product without packing."""

    name = "oneDNN, packed"
    kinds = ("float",)
    compiles = False
    dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.bfloat16, torch.float16)

    def __init__(self, weight: Weight):
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.values, SMALL_BATCH)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")

    def unpack(self) -> Weight:
        return Weight(self.packed.to_dense())


class OneDNNFloat32Kernel(OneDNNKernel):
    """The same product in float32, where `F.linear` is MKL's."""

    dtypes = (torch.float32,)
    same_arithmetic = False


class MKLKernel(LinearKernel):
    """MKL's product with a weight packed for `rows` rows. The plain weight stays for other numbers of rows."""

    name = "MKL, packed"
    kinds = ("float",)
    compiles = False
    dtypes = (torch.float32,)

    def __init__(self, weight: Weight, rows: int = 8):
        super().__init__(weight)
        self.rows = rows
        self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.values, rows)

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() != self.rows * x.shape[-1]:
            return super().__call__(x)
        return torch.ops.mkl._mkl_linear(x, self.packed, self.weight.values, None, self.rows)


class FBGEMMKernel(LinearKernel):
    """FBGEMM's product of a packed float16 weight and float32 rows.

    On a CPU without float16 arithmetic the other float16 kernels are slow.
    """

    name = "FBGEMM, packed"
    kinds = ("float",)
    compiles = False
    same_arithmetic = False
    packs_alone = True
    dtypes = (torch.float16,)

    def __init__(self, weight: Weight):
        with without_deprecation_warnings():
            self.packed = torch.ops.quantized.linear_prepack_fp16(weight.values.float(), None)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x.float(), self.packed).to(x.dtype)

    def unpack(self) -> Weight:
        return Weight(torch.ops.quantized.linear_unpack_fp16(self.packed)[0].to(torch.float16))


class ZenKernel(LinearKernel):
    """zentorch's product with a packed weight, on AMD processors the fastest in bfloat16. Not batch-invariant."""

    name = "zentorch, packed"
    kinds = ("float",)
    compiles = False
    same_arithmetic = False
    dtypes = (torch.bfloat16,)  # in float16 it may print from C, in float32 others are as fast

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        """Whole blocks, of which the order is known. Without zentorch no shape fits, so nothing warns of it."""
        return outputs % zen.BLOCK == 0 and inputs % 2 == 0 and zen.is_installed()

    def __init__(self, weight: Weight):
        self.packed = zen.pack(weight.values)
        if self.packed.shape != weight.values.shape:
            raise RuntimeError(f"it packs {tuple(weight.values.shape)} weights as {tuple(self.packed.shape)}")
        blocks = weight.values.split(zen.BLOCK)
        for block in (0, len(blocks) - 1):  # so that `undo` restores the weight, whatever was kept or measured
            if not same_bits(zen.unpack_block(self.packed, block), blocks[block]):
                raise RuntimeError(zen.UNKNOWN_ORDER)

    def __call__(self, x: Tensor) -> Tensor:
        return zen.multiply(x, self.packed)

    def unpack(self) -> Weight:
        blocks = range(len(self.packed) // zen.BLOCK)
        return Weight(torch.cat([zen.unpack_block(self.packed, block) for block in blocks]))


class Int8WeightKernel(LinearKernel):
    """int8 weights, as stored, times bfloat16 rows. For many rows, blocks of the weight are converted to floats."""

    name = "int8 weights"
    kinds = ("int8",)
    compiles = False
    dtypes = (torch.bfloat16,)

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        return inputs % BLOCK == 0

    def __init__(self, weight: Weight):
        super().__init__(weight._replace(values=aligned(weight.values)))
        self.scale = scale_of(weight).to(torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > SMALL_BATCH * x.shape[-1]:
            blocks = self.weight.values.split(OUTPUTS_AT_ONCE)  # small enough to stay in the CPU cache until used
            return torch.cat([F.linear(x, block.to(x.dtype)) for block in blocks], dim=-1).mul_(self.scale)
        y = torch.ops.aten._weight_int8pack_mm(aligned(x.reshape(-1, x.shape[-1])), self.weight.values, self.scale)
        return y.view(*x.shape[:-1], -1)


class Int4WeightKernel(LinearKernel):
    """int4 weights, packed for this CPU, times bfloat16 rows. For many rows, blocks of the weight become floats."""

    name = "int4 weights"
    kinds = ("int4",)
    compiles = False
    dtypes = (torch.bfloat16,)

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        return outputs % BLOCK == 0

    def __init__(self, weight: Weight):
        assert weight.scale is not None and weight.zero is not None
        self.group_size = weight.group_size
        self.packed = interleave_int4(weight.values, rows_in_int4_block() // 2)
        self.scale_and_zero = torch.stack((weight.scale.t(), weight.zero.t()), -1).contiguous()  # (G, N, 2)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        multiply = self.multiply_floats if len(rows) > INT4_ROWS and multiplies_bfloat16() else self.multiply_packed
        return multiply(rows).view(*x.shape[:-1], -1)

    def multiply_packed(self, x: Tensor) -> Tensor:
        """x (M, K) -> (M, N), faster for few rows: the operator converts every number again for each few of them."""
        multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
        return multiply(aligned(x), self.packed, self.group_size, self.scale_and_zero)

    def multiply_floats(self, x: Tensor) -> Tensor:
        """x (M, K) -> (M, N), faster for many rows. Each weight is rounded to bfloat16, as the layer is defined."""
        half, outputs = rows_in_int4_block() // 2, 2 * OUTPUTS_AT_ONCE  # small enough to stay in the CPU cache
        y = x.new_empty(len(x), len(self.packed))
        for begin in range(0, len(self.packed), outputs):
            block = slice(begin, begin + outputs)
            weights = dequantize_interleaved(self.packed[block], self.scale_and_zero[:, block], half)
            for part, weight in zip(y[:, block].view(len(x), -1, 2, half).unbind(2), weights, strict=True):
                part.copy_((x @ weight).view_as(part))
        return y

    def unpack(self) -> Weight:
        scale, zero = (part.t().contiguous() for part in self.scale_and_zero.unbind(-1))
        return Weight(deinterleave_int4(self.packed, rows_in_int4_block() // 2), scale, zero)


def multiplies_bfloat16() -> bool:
    """Whether oneDNN multiplies bfloat16 matrices on this CPU. Without it, torch's product of them is slow."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache  # no key: the packing depends on the CPU alone, which stays the same while the process runs
def rows_in_int4_block() -> int:
    """The number of outputs that this CPU's int4 packing interleaves, measured by packing one output of ones."""
    values = torch.zeros(128, 32, dtype=torch.int32, device="cpu")
    values[0] = 1
    filled = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1).flatten().nonzero()
    return 2 * int(filled[1] - filled[0])


class Int8FBGEMMKernel(LinearKernel):
    """FBGEMM's product of int8 weights and int8 rows with exact integer sums: the fastest int8 kernel for few rows.

    Each row is first scaled to [-1, 1]. So each row has its own 255 steps, and no row changes the result of another.
    """

    name = "int8 x int8, FBGEMM"
    kinds = ("int8",)
    compiles = False
    same_arithmetic = False
    packs_alone = True
    activations = "int8"

    def __init__(self, weight: Weight):
        scale = scale_of(weight)
        zeros = torch.zeros(len(scale), dtype=torch.long, device=scale.device)
        with without_deprecation_warnings():
            values = torch._make_per_channel_quantized_tensor(weight.values.contiguous(), scale.double(), zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(values, None)
        self.outputs = len(scale)

    def __call__(self, x: Tensor) -> Tensor:
        return self.split(x, [self.outputs])[0]

    def split(self, x: Tensor, sizes: list[int]) -> list[Tensor]:
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        rows = x.reshape(-1, x.shape[-1])
        parts = [x.new_empty(len(rows), size) for size in sizes]
        rows_at_once = max(SMALL_BATCH, RESULT_BYTES // (4 * self.outputs))
        for begin in range(0, len(rows), rows_at_once):
            block = slice(begin, begin + rows_at_once)
            scaled, largest = in_one_loop(scale_rows, rows[block])
            y = multiply(scaled, 1 / 127, 128, self.packed).split(sizes, dim=-1)
            for own, part in zip(y, parts, strict=True):
                in_one_loop(unscale_rows, own, largest[:, 0], part[block])
        return [part.view(*x.shape[:-1], -1) for part in parts]

    def unpack(self) -> Weight:
        values, _ = torch.ops.quantized.linear_unpack(self.packed)
        return Weight(values.int_repr(), values.q_per_channel_scales().float())


class Int8OneDNNKernel(LinearKernel):
    """oneDNN's product of int8 weights and int8 rows with exact integer sums.

    It is the fastest int8 kernel for many rows. On a CPU with matrix instructions it is also the fastest for few rows.
    """

    name = "int8 x int8, oneDNN"
    kinds = ("int8",)
    compiles = False
    same_arithmetic = False
    activations = "int8"

    def __init__(self, weight: Weight):
        self.packed = torch.ops.onednn.qlinear_prepack(weight.values.contiguous(), None)
        self.scale = scale_of(weight).float()
        self.zeros = torch.zeros(len(self.scale), dtype=torch.long, device=self.scale.device)

    def __call__(self, x: Tensor) -> Tensor:
        rounded, largest = self.round_rows(x)
        dtype = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32  # the output dtypes of the operator
        y = torch.ops.onednn.qlinear_pointwise(
            rounded, 1 / 127, 128, self.packed, self.scale, self.zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        return y.mul_(largest.to(dtype)).to(x.dtype)

    def round_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return quantize_rows(x)

    def unpack(self) -> Weight:
        return Weight(self.packed.to_dense().t().contiguous(), self.scale)


class Int8OneDNNFusedKernel(Int8OneDNNKernel):
    """The same product, with rows quantised in one compiled loop: it loads them once instead of five times."""

    name = "int8 x int8, fused"

    def round_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rounded, largest = compiled(quantize_rows)(x.flatten(0, -2).contiguous())
        return rounded.view(x.shape), largest.view(*x.shape[:-1], 1)


def largest_of_row(x: Tensor) -> Tensor:
    """The largest absolute value of each row, (..., 1) float32; at least 1e-30, so that it can be a divisor."""
    return x.abs().amax(-1, keepdim=True).float().clamp_(min=1e-30)


def scale_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row divided by its largest absolute value: (M, K) -> (M, K) float32 in [-1, 1], (M, 1) float32."""
    largest = largest_of_row(x)
    return x / largest, largest  # float32, the wider of the two dtypes


def unscale_rows(y: Tensor, largest: Tensor, result: Tensor) -> None:
    """Write rows multiplied by their largest values: y (M, N) float32, largest (M,), result (M, N) in its dtype."""
    result.copy_(y * largest[:, None])


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in eight bits, and the value of each row's largest byte: (..., K) -> (..., K) uint8, (..., 1) float32.

    The zero is 128: CPUs without matrix instructions have a fast product of unsigned and signed bytes only.
    """
    largest = largest_of_row(x)
    return (x.float() * (127 / largest)).round_().add_(128).to(torch.uint8), largest


def in_one_loop(function: Callable[..., Any], rows: Tensor, *arguments: Any) -> Any:
    """An elementwise function of rows (M, …), compiled for many rows. For few, to start the loop takes longer."""
    return (function if len(rows) <= SMALL_BATCH else compiled(function))(rows, *arguments)


def aligned(x: Tensor) -> Tensor:
    """x itself if it is contiguous from a multiple of BLOCK bytes on, else a copy.

    A memory-mapped tensor may start anywhere, and the last tokens of a batch have others between them.
    """
    return x if x.is_contiguous() and x.data_ptr() % BLOCK == 0 else x.clone(memory_format=torch.contiguous_format)


def scale_of(weight: Weight) -> Tensor:
    assert weight.scale is not None, "the kernels for int8 get int8 weights"
    return weight.scale


@contextlib.contextmanager
def without_deprecation_warnings() -> Iterator[None]:
    """Hide torch's deprecation warning for quantised tensors, which it repeats at each packing.

    When torch removes them, `why_unavailable` reports it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


KERNELS: tuple[type[LinearKernel], ...] = (
    LinearKernel, MatVecKernel, CompiledDotKernel, OneDNNKernel, OneDNNFloat32Kernel, MKLKernel, FBGEMMKernel,
    ZenKernel, Int8WeightKernel, Int4WeightKernel, Int8FBGEMMKernel, Int8OneDNNKernel, Int8OneDNNFusedKernel,
)  # fmt: skip


def default_kernel(weight: Weight, dtype: torch.dtype) -> LinearKernel:
    """The kernel of a quantised layer without optimisation: stored bytes times floats if available, else `F.linear`."""
    kernel: type[LinearKernel] = {"int8": Int8WeightKernel, "int4": Int4WeightKernel}[weight.kind]
    if dtype not in kernel.dtypes or not kernel.fits(len(weight.values), weight.inputs):
        return LinearKernel(weight)
    shape = min(len(weight.values), 2 * BLOCK), weight.inputs  # few outputs: a model waits for this test
    if reason := why_unavailable(kernel, weight.kind, dtype, shape):
        warnings.warn(
            f"the kernel for {kernel.name} is not available on this machine: {reason}; "
            "quantised layers convert their weights to floats instead, which is slow",
            stacklevel=2,
        )
        return LinearKernel(weight)
    return kernel(weight)


def kernels_for(
    kind: str, shape: tuple[int, int], dtype: torch.dtype, activations: str = "float", exact: bool = False
) -> list[type[LinearKernel]]:
    """The kernels whose operators support such a product. Not all of them work on every machine.

    kind         of the weight: "float", "int8" or "int4"
    shape        (N, K) of the weight
    dtype        of x
    activations  "int8" adds the kernels that round each row of x to eight bits
    exact        only kernels with the default's order of summation
    """
    return [
        kernel
        for kernel in KERNELS
        if kind in kernel.kinds
        and dtype in kernel.dtypes
        and kernel.activations in ("float", activations)
        and (kernel.same_arithmetic or not exact)
        and kernel.fits(*shape)
    ]


def available_kernels(
    kind: str, shape: tuple[int, int], dtype: torch.dtype, activations: str = "float", exact: bool = False
) -> tuple[list[type[LinearKernel]], list[str]]:
    """The kernels of `kernels_for` that work on this machine at this shape, and a sentence for each that does not."""
    available, unavailable = [], []
    few_outputs = min(FEW_OUTPUTS, shape[0]), shape[1]
    for kernel in kernels_for(kind, shape, dtype, activations, exact):
        reasons = (why_unavailable(kernel, kind, dtype, each) for each in (SMALL_SHAPE, few_outputs, shape))
        reason = next(filter(None, reasons), None)
        if reason is None:
            available.append(kernel)
        else:
            unavailable.append(f"{kernel.name} is not available on this machine: {reason}")
    return available, unavailable


def why_unavailable(
    kernel: type[LinearKernel], kind: str, dtype: torch.dtype, shape: tuple[int, int] = SMALL_SHAPE
) -> str | None:
    """The reason why this machine cannot use a kernel, or None if it can. The kernel is tried on weights of `shape`.

    A kernel may be right for small shapes and wrong for large ones, so the small test says only that it is there.
    """
    if kernel is LinearKernel:
        return None
    # mypy compares the __hash__ of the kernel's instances, not that of its type
    return try_kernel(kernel, kind, dtype, shape, torch.backends.quantized.engine)  # type: ignore[arg-type]


@functools.cache
def try_kernel(
    kernel: type[LinearKernel], kind: str, dtype: torch.dtype, shape: tuple[int, int], engine: str
) -> str | None:
    """`why_unavailable`, once per key.

    The key is complete. `engine` selects the implementation of torch's quantised operators. The example has a fixed
    device and fixed dtypes. The machine and the torch version do not change while the process runs.
    """
    before = torch_settings()
    try:
        weight = probe_weight(kind, shape, dtype)
        multiply = kernel(weight)
        if reason := why_wrong(multiply, weight, dtype, MANY_ROWS if shape[0] <= FEW_OUTPUTS else SAMPLE_ROWS):
            return f"{reason} and {shape[0]} x {shape[1]} weights"
        if reason := why_unsafe(multiply, weight.inputs, dtype):
            return reason
        if changed := [name for name, value in torch_settings().items() if value != before[name]]:
            return f"it changes {changed[0]} of torch"
        for part, original in zip(multiply.unpack(), weight, strict=True):
            if original is not None and (part is None or not same_bits(part, original)):
                return "its packing changes the weight"
        del multiply
        # Other numbers at the same address: a library that recognises weights by address multiplies by the old ones.
        weight.values.copy_(weight.values.flip(0))
        if reason := why_wrong(kernel(weight), weight, dtype, (1, SMALL_BATCH)):
            return f"{reason} and a weight at the address of an earlier one"
    except Exception as error:  # an internal operator that is missing or does not fit may raise any exception
        return reason_of(error)
    finally:
        for name, value in torch_settings().items():
            if value != before[name]:
                SETTINGS[name][1](before[name])
    return None


def reason_of(error: Exception) -> str:
    """The first line of an exception that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and line[-1] != ":"), type(error).__name__)


def why_wrong(
    multiply: LinearKernel, weight: Weight, dtype: torch.dtype, rows: Sequence[int], sample: bool = False
) -> str | None:
    """How a product differs from the weight's float32 product, or None if it is close to it at each number of rows.

    rows    of x, in the order of the calls; each call begins with another one of `probe_rows`
    sample  compare the first and the last outputs only, for a test while a person waits
    """
    N = len(weight.values)
    sizes = [min(OUTPUTS_AT_ONCE, N - begin) for begin in range(0, N, OUTPUTS_AT_ONCE)]
    blocks = list(zip(weight.split(sizes), torch.arange(N).split(sizes), strict=True))
    if sample:
        blocks = [blocks[0], blocks[-1]]
    outputs = torch.cat([numbers for _, numbers in blocks])
    distinct = max(SMALL_BATCH + 1, len(ONE_ROW))  # repeated for more rows, since the float32 product takes longest
    x = probe_rows(distinct, weight.inputs, dtype)
    seen = rounded_rows(x) if multiply.activations == "int8" else x.float()
    share = 1e-4 if weight.kind == "float" else 0.01  # int4 weights become bfloat16; a tie in eight bits has two ways
    expected = torch.cat([F.linear(seen, dequantize(block, torch.float32)) for block, _ in blocks], dim=-1)
    if not bool(expected.isfinite().all()):
        return None  # damaged weights have no right product; the logits show it
    for number, n in enumerate(rows):
        order = torch.arange(number, number + n, device="cpu") % distinct
        y = multiply(x[order])
        if y.dtype != dtype or y.shape != (n, N):
            return f"its result is {y.dtype} {tuple(y.shape)}"
        if not is_close(y[:, outputs] if sample else y, expected[order], share):
            return f"its result is wrong for {n} rows" if n > 1 else "its result is wrong for 1 row"
    return None


def is_close(y: Tensor, expected: Tensor, share: float = 1e-4) -> bool:
    """Whether rows (M, N) are the expected float32 rows, up to a few roundings of each number and of its weights.

    share  of the largest number of a row, by which every number of it may differ as well
    """
    eps = torch.finfo(y.dtype).eps
    tolerance = 2 * eps * expected.abs() + max(share, eps / 4) * expected.abs().amax(-1, keepdim=True)
    return bool(((y.float() - expected).abs() <= tolerance).all())


def why_unsafe(multiply: LinearKernel, inputs: int, dtype: torch.dtype) -> str | None:
    """What a right product does wrong beside its numbers, or None."""
    x = probe_rows(3, inputs, dtype)
    y = multiply(x)
    first = y.clone()
    multiply(x.flip(0))
    if not same_bits(y, first):
        return "a later product changes its result"
    if not same_bits(x, probe_rows(3, inputs, dtype)):
        return "it changes its input"
    gaps = torch.stack((x.flip(0), x), 1)[:, 1:]  # as the last tokens of a batch
    if not is_close(multiply(gaps)[:, 0], first.float()):
        return "its result is wrong for rows that are not contiguous"
    for number in (torch.nan, torch.inf):
        x[1, -1] = number
        y = multiply(x)
        if bool(y[1].isfinite().any()) or not bool(y[0].isfinite().all()):
            return f"its result for {number} is finite, or not finite in another row"
    return None


def probe_rows(count: int, inputs: int, dtype: torch.dtype) -> Tensor:
    """Random rows (count, inputs). Those from the second on are special, since an operator may fail for such numbers.

    All ones, with which sums in 16 bits overflow; one large number, as hidden states have; large; small; zeros.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(max(count, len(ONE_ROW)), inputs, generator=generator, dtype=torch.float32, device="cpu")
    x[1] = 1
    x[2, inputs // 2] = 1000
    x[3] *= 64
    x[4] /= 1000
    x[5] = 0
    return x[:count].to(dtype)


def rounded_rows(x: Tensor) -> Tensor:
    """Rows as kernels for int8 activations see them: rounded to eight bits, in float32."""
    rounded, largest = quantize_rows(x)
    return (rounded.float() - 128) * (largest / 127)


def flushes_denormals() -> bool:
    return not bool(torch.full((64,), 1e-40, dtype=torch.float32, device="cpu").mul(0.5).any())


# Settings of torch on which the results of other operations depend: how to get and to set each.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "the mode of gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the precision of products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "the flushing of denormal numbers": (flushes_denormals, torch.set_flush_denormal),
    "the random numbers": (
        lambda: torch.get_rng_state().tolist(),
        lambda state: torch.set_rng_state(torch.tensor(state, dtype=torch.uint8, device="cpu")),
    ),
}


def torch_settings() -> dict[str, Any]:
    return {name: get() for name, (get, _) in SETTINGS.items()}


def probe_weight(kind: str, shape: tuple[int, int], dtype: torch.dtype) -> Weight:
    """A random weight (N, K). Its first output has the largest bytes, with which sums in 16 bits overflow."""
    generator = torch.Generator().manual_seed(1)
    outputs, inputs = shape
    words = (outputs * inputs + 7) // 8  # of 64 random bits: eight times as fast as bytes one by one
    random = torch.randint(-(2**63), 2**63 - 1, (words,), generator=generator, dtype=torch.int64, device="cpu")
    numbers = random.view(torch.int8)[: outputs * inputs].view(outputs, inputs)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float32, device="cpu")

    if kind == "int4":
        group_size = next(size for size in (128, 64, 32, inputs) if inputs % size == 0)
        values = numbers.view(torch.uint8)[:, : inputs // 2].contiguous()
        scale, zero = uniform(2, outputs, inputs // group_size).to(torch.bfloat16)
        return Weight(values, scale, zero)
    numbers = numbers.clamp(min=-127)
    if kind == "float":
        return Weight(numbers.to(dtype) * -0.0123)  # all digits of the dtype are in use, and zeros are -0
    numbers[0] = 127
    return Weight(numbers, (uniform(outputs) + 0.5) * (16 / inputs))  # no product overflows in float16
