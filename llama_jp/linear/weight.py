"""The weight of a linear layer as stored: float, int8 or int4.

    float  weight (N, K)
    int8   weight int8 (N, K), -127 … 127; scale float32 (N,)
           value[n, k] = weight[n, k] * scale[n]
    int4   weight uint8 (N, K / 2), the even input in the low four bits; scale and zero bfloat16 (N, G)
           value[n, k] = (q[n, k] - 8) * scale[n, k // g] + zero[n, k // g]      q = 0 … 15

The letters in the shapes:

    N outputs   K inputs   g group size (inputs that share a scale and a zero)   G = K / g groups

The int4 numbers have the convention of torch's `_weight_int4pack_mm_for_cpu`. That kernel uses them without a
conversion, which would round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PARTS = ("weight", "scale", "zero")  # the names of a `Weight`'s tensors in layers and files


class Weight(NamedTuple):
    """One weight matrix: float values, int8 with a scale per output, or int4 with a scale and a zero per group."""

    values: Tensor  # float or int8: (N, K); int4: (N, K / 2) uint8, two numbers per byte
    scale: Tensor | None = None  # int8: (N,) float32; int4: (N, G) bfloat16
    zero: Tensor | None = None  # int4: (N, G) bfloat16

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Weight:
        """Collect the tensors that a layer or a file has under the names `weight`, `scale` and `zero`."""
        return cls(tensors["weight"], tensors.get("scale"), tensors.get("zero"))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by the names that layers and files use. Only int4 has a `zero`, and a float has no `scale`."""
        return {name: tensor for name, tensor in zip(PARTS, self, strict=True) if tensor is not None}

    @property
    def kind(self) -> str:
        """The storage format: "float", "int8" or "int4"."""
        return {torch.int8: "int8", torch.uint8: "int4"}.get(self.values.dtype, "float")

    @property
    def inputs(self) -> int:
        """K, the number of inputs."""
        return self.values.shape[1] * (2 if self.kind == "int4" else 1)

    @property
    def group_size(self) -> int:
        """g, the number of inputs that share a scale and a zero. ValueError for a weight other than int4."""
        if self.scale is None or self.zero is None:
            raise ValueError(f"the weight is {self.kind}, and only an int4 weight has groups")
        return self.inputs // self.scale.shape[1]

    def split(self, sizes: list[int]) -> list[Weight]:
        """Split the outputs of a joined weight into weights with `sizes` outputs each. Inverse of `join`."""
        values = self.values.split(sizes)
        scales = split_optional(self.scale, sizes)
        zeros = split_optional(self.zero, sizes)
        return [Weight(*each) for each in zip(values, scales, zeros, strict=True)]


def split_optional(tensor: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(sizes) if tensor is None else tensor.split(sizes)


def join(weights: list[Weight]) -> Weight:
    """Stack the outputs of weights with the same inputs and the same kind into one weight."""
    if len(weights) == 1:
        return weights[0]
    tensors = [weight.tensors() for weight in weights]
    return Weight.from_tensors({name: torch.cat([each[name] for each in tensors]) for name in tensors[0]})


def dequantize(weight: Weight, dtype: torch.dtype) -> Tensor:
    """The values (N, K) of a weight. rounding: int8 and int4 are computed in float32 and rounded once to `dtype`."""
    if weight.scale is None:
        return weight.values.to(dtype)
    if weight.zero is None:
        return (weight.values.float() * weight.scale[:, None]).to(dtype)
    return dequantize_int4(unpack_int4(weight.values), weight.scale, weight.zero).to(dtype)


def dequantize_int4(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The float32 values of int4 numbers. Shapes: q (…, K) or (…, G, g), scale and zero (…, G) -> (…, K)."""
    groups = q.reshape(*scale.shape, -1).float() - 8
    return (groups * scale[..., None].float() + zero[..., None].float()).flatten(-2)


def pack_int4(q: Tensor) -> Tensor:
    """Store two numbers in each byte: (N, K) uint8, 0 … 15 -> (N, K / 2) uint8."""
    return q[:, 0::2] | q[:, 1::2] << 4


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of `pack_int4`: (N, K / 2) uint8 -> (N, K) uint8, 0 … 15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
