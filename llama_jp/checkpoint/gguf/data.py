"""The numbers of a GGUF file as stored: floats, and the blocks of quantised tensors as bytes."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .header import FLOATS, QUANTIZED, GgufTensor, read_part

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
assert DTYPES.keys() == {stored_as.name for stored_as in FLOATS.values()}
BLOCKS = {stored_as.name: stored_as for stored_as in QUANTIZED.values()}


def read_stored(file: Path, names: Iterable[str]) -> Iterator[Tensor]:
    """Load tensors of one file, memory-mapped: floats in their shape, and blocks as bytes (rows, bytes of a row).

    The tensors of a big-endian file are copies, with their bytes turned round.
    """
    tensors = read_part(file).tensors
    with file.open("rb") as opened:
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # writes to a tensor do not reach the file
    for name in names:
        yield from_bytes(data, tensors[name])


def from_bytes(data: mmap.mmap, tensor: GgufTensor) -> Tensor:
    """One tensor from the mapped bytes of its file."""
    import torch

    if tensor.type_name in DTYPES:
        dtype = getattr(torch, DTYPES[tensor.type_name])
        if not tensor.big_endian:
            count = tensor.nbytes // dtype.itemsize
            return torch.frombuffer(data, dtype=dtype, count=count, offset=tensor.start).view(tensor.shape)
        numbers = torch.frombuffer(data, dtype=torch.uint8, count=tensor.nbytes, offset=tensor.start)
        return numbers.view(-1, dtype.itemsize).flip(1).view(dtype).view(tensor.shape)
    stored = torch.frombuffer(data, dtype=torch.uint8, count=tensor.nbytes, offset=tensor.start)
    if tensor.big_endian:
        form = BLOCKS[tensor.type_name]
        stored = stored.view(-1, form.nbytes).clone()
        for start in form.halves or ():
            stored[:, start : start + 2] = stored[:, start : start + 2].flip(1)
    return stored.view(*tensor.shape[:-1], -1)
