"""int8 and int4 weights: which numbers stand in the files, and the module that computes with them.

    int8   weight int8 (N, K), -127 … 127; scale float32 (N,)
           value[n, k] = weight[n, k] * scale[n]
    int4   weight uint8 (N, K / 2), the even input in the low four bits; scale, zero bfloat16 (N, K / group)
           value[n, k] = (q[n, k] - 8) * scale[n, k // group] + zero[n, k // group]      q = 0 … 15

N is outputs, K is inputs. Embeddings, norms and biases are never quantised. The int4 numbers are the ones that torch's
`_weight_int4pack_mm_for_cpu` takes, so a product written for them needs no conversion that rounds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

PARTS = ("weight", "scale", "zero")  # what a layer and the files call the parts of a `Weight`


class Weight(NamedTuple):
    """A weight as it lies in memory: floats, int8 with a scale per output, or int4 with scale and zero per group."""

    values: Tensor  # (N, K); int4: two to a byte, (N, K / 2) uint8, the even input in the low half
    scale: Tensor | None = None  # int8: (N,); int4: (N, G)
    zero: Tensor | None = None  # int4: (N, G); a number is (stored - 8) * scale + zero

    @property
    def kind(self) -> str:
        return {torch.int8: "int8", torch.uint8: "int4"}.get(self.values.dtype, "float")

    @property
    def inputs(self) -> int:
        return self.values.shape[1] * (2 if self.kind == "int4" else 1)

    @property
    def group_size(self) -> int:
        return self.inputs // self.scale.shape[1]

    def split(self, sizes: list[int]) -> list[Weight]:
        """The weights of several layers from that of their common product; sizes: outputs of each."""
        parts = [[None] * len(sizes) if part is None else part.split(sizes) for part in self]
        return [Weight(*each) for each in zip(*parts, strict=True)]


def join(weights: list[Weight]) -> Weight:
    """One weight for layers that read the same input: their outputs one after the other."""
    if len(weights) == 1:
        return weights[0]
    return Weight(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*weights, strict=True)))


def dequantized(weight: Weight, dtype: torch.dtype) -> Tensor:
    """The numbers that a weight stands for, (N, K)."""
    if weight.kind == "float":
        return weight.values.to(dtype)
    return values_of(*weight).to(dtype)


def values_of(values: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """The numbers (N, K) that stored ones stand for, in float32."""
    return values.float() * scale[:, None] if zero is None else int4_values(unpack(values), scale, zero)


def int4_values(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What q stands for, in float32: q (…, K) or (…, G, g), scale and zero (…, G) -> (…, K)."""
    groups = q.reshape(*scale.shape, -1).float() - 8
    return (groups * scale[..., None].float() + zero[..., None].float()).flatten(-2)


def pack(q: Tensor) -> Tensor:
    """Two values a byte: (N, K) -> (N, K / 2)."""
    return q[:, 0::2] | q[:, 1::2] << 4


def unpack(packed: Tensor) -> Tensor:
    """(N, K / 2) -> (N, K) uint8, 0 … 15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
