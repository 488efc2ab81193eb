"""Ways to multiply by a weight: the plain product, and faster ones that not every machine has.

Operators that are internal to torch are called here and nowhere else. Each way is tried on a small example before it is
used, so on a machine or a torch without it one line says so and the plain product runs.

The letters in the shapes:

    M rows of x, over all leading dimensions   K inputs   N outputs   G groups of K / G inputs that share a scale
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .weight import Weight, dequantize

BLOCK = 64  # numbers, or bytes, that the kernels for few bits read at once

OUTPUTS_AT_ONCE = 512

FEW = 16  # rows up to which reading the weight takes longer than multiplying


class LinearKernel:
    """`F.linear`, what a model does by itself; quantised weights become floats first."""

    name = "plain"
    kinds = ("float", "int8", "int4")
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    activations = "float"  # "int8": each row of x is rounded to eight bits as well
    compiles = True  # may stand inside a function that torch.compile compiles; operators internal to torch may not
    same_arithmetic = True  # False: other sums than the product's that a model uses as loaded, so other last bits

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        """Does the operator take a weight of this shape? Some read in blocks, past the end of what is no whole one."""
        return True

    def __init__(self, weight: Weight):
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        """x (..., K) -> (..., N), in the dtype of x."""
        # rounding: as one matrix, which F.linear makes of x only where the weight has a gradient; others it may copy
        y = F.linear(x.reshape(-1, x.shape[-1]), dequantize(self.weight, x.dtype))
        return y.view(*x.shape[:-1], -1)

    def unpack(self) -> Weight:
        """The weight again, to the bit."""
        return self.weight


class MatVecKernel(LinearKernel):
    """One row as a matrix-vector product, whose kernels are others than those of `F.linear`."""

    name = "mv"
    kinds = ("float",)
    same_arithmetic = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[-1]:
            return super().__call__(x)
        return torch.mv(self.weight.values, x.flatten()).view(*x.shape[:-1], -1)


class CompiledDotKernel(LinearKernel):
    """One row written out as products and sums in float32; `torch.compile` makes one loop over the weight of it."""

    name = "compiled sum"
    kinds = ("float",)
    same_arithmetic = False

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > x.shape[-1]:
            return super().__call__(x)
        multiply = sum_of_products if torch.compiler.is_compiling() else compiled(sum_of_products)
        return multiply(self.weight.values, x.flatten()).view(*x.shape[:-1], -1)


def sum_of_products(weight: Tensor, x: Tensor) -> Tensor:
    return (weight.float() * x.float()).sum(-1).to(x.dtype)


class OneDNNKernel(LinearKernel):
    """oneDNN's product, which 16-bit `F.linear` is as well, the weight laid out in the blocks that its kernel reads."""

    name = "oneDNN, packed"
    kinds = ("float",)
    compiles = False
    dtypes = (torch.bfloat16, torch.float16)

    def __init__(self, weight: Weight):
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.values, FEW)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")

    def unpack(self) -> Weight:
        return Weight(self.packed.to_dense())


class OneDNNFloat32Kernel(OneDNNKernel):
    """The same in float32, where `F.linear` is MKL's."""

    dtypes = (torch.float32,)
    same_arithmetic = False


class MKLKernel(LinearKernel):
    """MKL's product, the weight laid out for a few rows. The plain one is kept beside it for other numbers of rows."""

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
    """FBGEMM's product of float16 weights and float32 rows, packed; others are slow without float16 arithmetic."""

    name = "FBGEMM, packed"
    kinds = ("float",)
    compiles = False
    same_arithmetic = False
    dtypes = (torch.float16,)

    def __init__(self, weight: Weight):
        with without_warnings():
            self.packed = torch.ops.quantized.linear_prepack_fp16(weight.values.float(), None)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(x.float(), self.packed).to(x.dtype)

    def unpack(self) -> Weight:
        return Weight(torch.ops.quantized.linear_unpack_fp16(self.packed)[0].to(torch.float16))


class Int8WeightKernel(LinearKernel):
    """int8 weights times rows of bfloat16, the weight as the file has it. Many rows: a block at a time as floats."""

    name = "int8 weights"
    kinds = ("int8",)
    compiles = False
    dtypes = (torch.bfloat16,)

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        return inputs % BLOCK == 0

    def __init__(self, weight: Weight):
        super().__init__(weight._replace(values=aligned(weight.values)))
        self.scale = weight.scale.to(torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() > FEW * x.shape[-1]:
            blocks = self.weight.values.split(OUTPUTS_AT_ONCE)  # small enough to be used before they leave the cache
            return torch.cat([F.linear(x, block.to(x.dtype)) for block in blocks], dim=-1).mul_(self.scale)
        y = torch.ops.aten._weight_int8pack_mm(aligned(x.reshape(-1, x.shape[-1])), self.weight.values, self.scale)
        return y.view(*x.shape[:-1], -1)


class Int4WeightKernel(LinearKernel):
    """int4 weights times rows of bfloat16, the weight in this machine's packing."""

    name = "int4 weights"
    kinds = ("int4",)
    compiles = False
    dtypes = (torch.bfloat16,)

    @classmethod
    def fits(cls, outputs: int, inputs: int) -> bool:
        return outputs % BLOCK == 0

    def __init__(self, weight: Weight):
        from .weight import unpack_int4

        self.group_size = weight.group_size
        self.packed = torch.empty_like(weight.values)
        blocks = zip(self.packed.split(OUTPUTS_AT_ONCE), weight.values.split(OUTPUTS_AT_ONCE), strict=True)
        for packed, values in blocks:  # the operator takes 32 bits a number
            packed.copy_(
                torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack_int4(values).int(), 1).view_as(packed)
            )
        self.scale_and_zero = torch.stack((weight.scale.t(), weight.zero.t()), -1).contiguous()  # (G, N, 2)

    def __call__(self, x: Tensor) -> Tensor:
        rows = aligned(x.reshape(-1, x.shape[-1]))
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self.group_size, self.scale_and_zero)
        return y.view(*x.shape[:-1], -1)

    def unpack(self) -> Weight:
        """Undo the packing: for each input, half of a block of outputs in the low halves of bytes, half in the high."""
        from .weight import pack_int4

        outputs, half = len(self.packed), rows_in_int4_block() // 2
        bytes_ = self.packed.view(-1, 2 * self.packed.shape[1], half)  # (blocks, K, half a block)
        values = torch.cat((bytes_ & 15, bytes_ >> 4), -1).transpose(1, 2).reshape(outputs, -1)
        scale, zero = (part.t().contiguous() for part in self.scale_and_zero.unbind(-1))
        return Weight(pack_int4(values), scale, zero)


@functools.cache
def rows_in_int4_block() -> int:
    """How many outputs this machine's packing keeps together: found out by packing one output of ones."""
    values = torch.zeros(128, 32, dtype=torch.int32)
    values[0] = 1
    filled = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values, 1).flatten().nonzero()
    return 2 * int(filled[1] - filled[0])


class Int8FBGEMMKernel(LinearKernel):
    """int8 times int8, summed exactly, by FBGEMM: the fastest for few rows.

    Rows are scaled to [-1, 1] first, so that each has its own 255 steps and none depends on its neighbours.
    """

    name = "int8 x int8, FBGEMM"
    kinds = ("int8",)
    compiles = False
    same_arithmetic = False
    activations = "int8"

    def __init__(self, weight: Weight):
        zeros = torch.zeros(len(weight.scale), dtype=torch.long)
        with without_warnings():
            values = torch._make_per_channel_quantized_tensor(
                weight.values.contiguous(), weight.scale.double(), zeros, 0
            )
            self.packed = torch.ops.quantized.linear_prepack(values, None)

    def __call__(self, x: Tensor) -> Tensor:
        largest = largest_of_row(x)
        multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return multiply(x.float() / largest, 1 / 127, 128, self.packed).mul_(largest).to(x.dtype)

    def unpack(self) -> Weight:
        values, _ = torch.ops.quantized.linear_unpack(self.packed)
        return Weight(values.int_repr(), values.q_per_channel_scales().float())


class Int8OneDNNKernel(LinearKernel):
    """int8 times int8, summed exactly, by oneDNN: the fastest for many rows, and with matrix instructions for few."""

    name = "int8 x int8, oneDNN"
    kinds = ("int8",)
    compiles = False
    same_arithmetic = False
    activations = "int8"

    def __init__(self, weight: Weight):
        self.packed = torch.ops.onednn.qlinear_prepack(weight.values.contiguous(), None)
        self.scale = weight.scale.float()
        self.zeros = torch.zeros(len(weight.scale), dtype=torch.long)

    def __call__(self, x: Tensor) -> Tensor:
        rounded, largest = self.round_rows(x)
        dtype = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32  # what the operator can write
        y = torch.ops.onednn.qlinear_pointwise(
            rounded, 1 / 127, 128, self.packed, self.scale, self.zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        return y.mul_(largest.to(dtype)).to(x.dtype)

    def round_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return rounded_rows(x)

    def unpack(self) -> Weight:
        return Weight(self.packed.to_dense().t().contiguous(), self.scale)


class Int8OneDNNFusedKernel(Int8OneDNNKernel):
    """The same, rows rounded in one compiled loop: they are read once instead of five times."""

    name = "int8 x int8, fused"

    def round_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bytes_, largest = compiled(rounded_rows)(x.flatten(0, -2))
        return bytes_.view(x.shape), largest.view(*x.shape[:-1], 1)


def largest_of_row(x: Tensor) -> Tensor:
    """The largest absolute value of each row, (..., 1) float32; of a row of zeros something that can be divided by."""
    return x.abs().amax(-1, keepdim=True).float().clamp_(min=1e-30)


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as bytes and what their 127 stands for: (..., K) -> (..., K) uint8, (..., 1) float32.

    128 is the zero: CPUs without matrix instructions multiply unsigned by signed bytes, and no others fast.
    """
    largest = largest_of_row(x)
    return (x.float() * (127 / largest)).round_().add_(128).to(torch.uint8), largest


@functools.cache
def compiled(function: Callable) -> Callable:
    return torch.compile(function, dynamic=True)


def aligned(x: Tensor) -> Tensor:
    """The same numbers from where a block may begin; a tensor mapped from a file may lie anywhere."""
    return x if x.data_ptr() % BLOCK == 0 else x.clone()


@contextlib.contextmanager
def without_warnings():
    """torch says at every packing that its quantised tensors will go some day; `why_unavailable` will notice when they have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


KERNELS: tuple[type[LinearKernel], ...] = (
    LinearKernel, MatVecKernel, CompiledDotKernel, OneDNNKernel, OneDNNFloat32Kernel, MKLKernel, FBGEMMKernel,
    Int8WeightKernel, Int4WeightKernel, Int8FBGEMMKernel, Int8OneDNNKernel, Int8OneDNNFusedKernel,
)  # fmt: skip


def default_kernel(weight: Weight, dtype: torch.dtype) -> LinearKernel:
    """What a quantised layer multiplies by when nothing was optimised: bytes times floats where torch can do that."""
    way = {"int8": Int8WeightKernel, "int4": Int4WeightKernel}[weight.kind]
    if dtype not in way.dtypes or not way.fits(len(weight.values), weight.inputs):
        return LinearKernel(weight)
    if reason := why_unavailable(way, weight.kind, dtype):
        warnings.warn(f"{way.name} have no operator here, and are slow without: {reason}", stacklevel=2)
        return LinearKernel(weight)
    return way(weight)


def available_kernels(
    kind: str, shape: tuple[int, int], dtype: torch.dtype, activations: str = "float"
) -> tuple[list[type[LinearKernel]], list[str]]:
    """The ways that work here for weights (N, K) and rows of this dtype, and a sentence for each that does not."""
    working, failing = [], []
    for way in KERNELS:
        if kind not in way.kinds or dtype not in way.dtypes or way.activations not in ("float", activations):
            continue
        if not way.fits(*shape):
            continue
        reason = why_unavailable(way, kind, dtype)
        if reason is None:
            working.append(way)
        else:
            failing.append(f"{way.name} is not to be had here: {reason}")
    return working, failing


@functools.cache
def why_unavailable(way: type[LinearKernel], kind: str, dtype: torch.dtype) -> str | None:
    """Why a way cannot be used on this machine, found out on a small kernel_test_case; None: it can."""
    if way is LinearKernel:
        return None
    weight, x = kernel_test_case(kind, dtype)
    try:
        right = F.linear(x.float(), dequantize(weight, torch.float32))
        made = way(weight)
        for rows in (x[:1], x[:8], x):
            y = made(rows)
            if y.dtype != dtype or not torch.allclose(y.float(), right[: len(rows)], rtol=0, atol=tolerance(right)):
                return "its result is wrong"
        if not all(torch.equal(a, b) for a, b in zip(made.unpack(), weight, strict=True) if b is not None):
            return "it does not give the weight back"
    except Exception as error:  # whatever an internal operator raises where it is missing or does not fit
        lines = [line.strip() for line in str(error).splitlines()]
        return next((line for line in lines if line and line[-1] != ":"), type(error).__name__)
    return None


def tolerance(right: Tensor) -> float:
    """Eight bits of rows and results, summed up."""
    return 0.02 * right.abs().max().item()


def kernel_test_case(kind: str, dtype: torch.dtype) -> tuple[Weight, Tensor]:
    """A small weight and rows for it, with the largest bytes there are: sums of 16 bits would overflow."""
    generator = torch.Generator().manual_seed(0)
    outputs, inputs, groups = 64, 256, 2
    x = torch.randn(FEW + 1, inputs, generator=generator).to(dtype)
    x[0] = 1
    if kind == "float":
        return Weight(torch.randn(outputs, inputs, generator=generator).to(dtype)), x
    if kind == "int8":
        values = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
        values[0] = 127
        return Weight(values, torch.rand(outputs, generator=generator) + 0.5), x
    values = torch.randint(0, 256, (outputs, inputs // 2), generator=generator, dtype=torch.uint8)
    scale, zero = torch.rand(2, outputs, groups, generator=generator).to(torch.bfloat16)
    return Weight(values, scale, zero), x
