"""The numbers of a tensor as the bytes of a type of GGUF."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .data import DTYPES

SLICE = 1 << 22  # numbers that are encoded at once, so that a float32 copy of a large matrix is not needed
BLOCK = 32  # weights that share a scale, in both types


def encode(name: str, numbers: Tensor, type_name: str) -> Iterator[memoryview]:
    """The bytes of a tensor, a few rows at a time.

    name       of the tensor, for messages
    type_name  "F32", "F16", "BF16", "Q8_0" or "Q4_0". rounding: floats to the nearest, halves to even; quantised
               numbers by the `gguf` package, with the bytes of llama.cpp's own quantiser

    Raises ValueError for numbers that are finite and too large for the type, and for a missing package.
    """
    rows = max(1, SLICE * len(numbers) // max(1, numbers.numel()))
    for part in numbers.split(rows):
        part = part.cpu()
        encoded = part.to(getattr(torch, DTYPES[type_name])) if type_name in DTYPES else quantize(part, type_name)
        rounded = encoded if type_name in DTYPES else encoded[:, :2].contiguous().view(torch.float16)  # the scales
        if encoded.dtype != part.dtype and not rounded.isfinite().all() and part.isfinite().all():
            raise ValueError(
                f"{name} has numbers of up to {part.abs().max():.3g}, which {type_name} cannot hold; choose the type "
                "bf16 or f32"
            )
        yield encoded.contiguous().view(torch.uint8).numpy().data.cast("B")


def quantize(numbers: Tensor, type_name: str) -> Tensor:
    """Quantised blocks as bytes: (…, K) -> (blocks, bytes of a block), by the `gguf` package."""
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise ValueError(
            f"{type_name} weights are made by the package gguf, which is not installed: pip install 'llama-jp[gguf]'"
        ) from None
    blocks = quants.quantize(numbers.float().numpy(), GGMLQuantizationType[type_name])
    return torch.from_numpy(blocks).view(numbers.numel() // BLOCK, -1)
