"""How ggml rounds the inputs of a product on a CPU: to the type that goes with the type of the weights.

| weights                                        | activations | how |
|------------------------------------------------|-------------|-----|
| F32                                            | F32         | not rounded |
| F16, BF16                                      | the same    | to nearest |
| Q4_0, Q5_0, Q8_0, IQ4_NL, MXFP4                | Q8_0        | 32 numbers share a float16 scale |
| Q4_1, Q5_1                                     | Q8_1        | the same, and the sum of the 32 numbers is a float16 |
| Q2_K to Q6_K, the other IQ types, TQ1_0, TQ2_0 | Q8_K        | 256 numbers share a float32 scale |

Reference: quantize_row_q8_0 and the like in ggml-cpu/arch and ggml-quants.c, `type_traits_cpu` in ggml-cpu.c.
"""

from __future__ import annotations

import mmap
import platform
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...checkpoint.gguf.header import GgufTensor
from ...checkpoint.permutation import unpermute
from ..judge.arithmetic import join_heads, split_heads

BLOCK, LARGE_BLOCK = 32, 256
INPUT_TYPES = {
    "F32": "F32", "F16": "F16", "BF16": "BF16", "Q4_0": "Q8_0", "Q5_0": "Q8_0", "Q8_0": "Q8_0", "IQ4_NL": "Q8_0",
    "MXFP4": "Q8_0", "Q4_1": "Q8_1", "Q5_1": "Q8_1",
} | dict.fromkeys(
    ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
     "IQ4_XS", "TQ1_0", "TQ2_0"), "Q8_K",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class InputRounding:
    """The rounding of the inputs of one operation.

    input_type  a value of INPUT_TYPES
    offsets     of Q4_1 and Q5_1 weights, (out, in / 32): each block of weights is whole numbers times a scale, plus an
                offset, which is multiplied by the rounded sum of the inputs
    """

    input_type: str
    offsets: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The inputs (B, T, in) or (B, H, T, D) as the operation uses them."""
        if self.input_type in ("F16", "BF16"):
            return x.to(torch.float16 if self.input_type == "F16" else torch.bfloat16).to(x.dtype)
        if self.input_type == "F32":
            return x
        joined = join_heads(x)
        rounded = round_to_q8_k(joined) if self.input_type == "Q8_K" else round_to_q8_0(joined)
        return split_heads(rounded, x.shape[3]) if x.dim() == 4 else rounded

    def remainder(self, x: Tensor, columns: Tensor) -> tuple[Tensor, Tensor] | None:
        """The product's result beyond rounded inputs times weights, and the terms of its sum beyond those; or None.

        The sum adds each block's offset part and its other part, which may cancel where the weights are near zero.

        Shapes: x (N, in), columns (M,) -> the result (N, M) and the terms' absolute values (N, M), in float64.
        """
        if self.offsets is None:
            return None
        scale, whole = q8_0_blocks(x)
        sums = whole.sum(-1)  # (N, in / 32)
        rounded_sums = (scale * sums).half().double()
        errors = rounded_sums - scale.half().double() * sums.double()
        offsets = self.offsets[columns].double()
        return errors @ offsets.T, 2 * rounded_sums.abs() @ offsets.abs().T


def input_rounding(weight: GgufTensor, heads: int | None) -> InputRounding | None:
    """The rounding of the inputs of a product with this weight; None for weights of F32.

    heads  of q and k, whose rows are in another order in the file

    Raises ValueError for a type whose product is not known here.
    """
    if weight.type_name not in INPUT_TYPES:
        raise ValueError(
            f"{weight.file} stores {weight.name} as {weight.type_name}, and how llama.cpp rounds the inputs of its "
            "product is not known here; compare a file of another type"
        )
    input_type = INPUT_TYPES[weight.type_name]
    offsets = read_offsets(weight, heads) if input_type == "Q8_1" else None
    return None if input_type == "F32" else InputRounding(input_type, offsets)


def read_offsets(weight: GgufTensor, heads: int | None) -> Tensor:
    """The offset of each block, its second float16, (out, in / 32)."""
    with weight.file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        content = np.frombuffer(data, np.uint8, weight.nbytes, weight.start).copy()
    rows, blocks = weight.shape[0], weight.shape[1] // BLOCK
    offsets = content.reshape(rows, blocks, -1)[:, :, 2:4].copy().view(np.float16)[..., 0]
    in_file_order = torch.from_numpy(offsets.astype(np.float32))
    return in_file_order if heads is None else unpermute(in_file_order, heads)


def q8_0_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """The scale of each block before it is a float16, (…, in / 32), and the whole numbers (…, in / 32, 32).

    rounding: x86 multiplies by 127 / largest, other processors by the reciprocal of the scale. Both are halves to even.
    """
    blocks = x.unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1)
    most = torch.full_like(largest, 127)  # a number divided by a tensor would be its reciprocal times the number
    scale = largest / most
    factor = most / largest if platform.machine().lower() in ("x86_64", "amd64") else 1 / scale
    factor = torch.where(largest > 0, factor, 0.0)
    return scale, (blocks * factor[..., None]).round()


def round_to_q8_0(x: Tensor) -> Tensor:
    """Round x (…, in) to multiples of a float16 scale for 32 numbers each."""
    scale, whole = q8_0_blocks(x)
    return (scale.half().float()[..., None] * whole).flatten(-2)


def round_to_q8_k(x: Tensor) -> Tensor:
    """Round x (…, in) to multiples of a float32 scale for 256 numbers each. The largest becomes -127."""
    blocks = x.unflatten(-1, (-1, LARGE_BLOCK))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    factor = torch.where(largest != 0, torch.full_like(largest, -127) / largest, 0.0)
    whole = (blocks * factor).round().clamp(max=127)
    return torch.where(largest != 0, whole / factor, 0.0).flatten(-2)
