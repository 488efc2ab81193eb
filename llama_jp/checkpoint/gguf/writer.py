"""Write a GGUF file: its header, then the data of one tensor after the other. The format is that of header.py."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from .header import ARRAY, MAGIC, STRING, TYPES

VERSION = 3
ALIGNMENT = 32
TYPE_IDS = {stored_as.name: type_id for type_id, stored_as in TYPES.items()}


class TensorToWrite(NamedTuple):
    """A tensor of a new file. Its bytes are made when they are written, a part at a time."""

    name: str
    shape: tuple[int, ...]  # rows first, as in torch
    type_name: str  # such as "Q8_0"
    data: Callable[[], Iterable[memoryview]]

    @property
    def nbytes(self) -> int:
        stored_as = TYPES[TYPE_IDS[self.type_name]]
        return math.prod(self.shape) // stored_as.block * stored_as.nbytes


def write_gguf(file: Path, keys: dict[str, Any], tensors: Sequence[TensorToWrite]) -> None:
    """Write a little-endian file of version 3.

    keys  a bool, str, int (as u32), float (as f32), or a list of str, float or int (as i32)
    """
    header = MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(keys))
    header += b"".join(string(key) + value(content) for key, content in keys.items())
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]
        header += string(tensor.name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        header += struct.pack("<IQ", TYPE_IDS[tensor.type_name], offset)
        offset += padded(tensor.nbytes)
    with file.open("wb") as opened:
        opened.write(header.ljust(padded(len(header)), b"\0"))
        shown = tqdm(tensors, desc="writing", unit=" tensors", disable=None if tensors else True, leave=False)
        for tensor in shown:
            written = sum(opened.write(part) for part in tensor.data())
            assert written == tensor.nbytes, (tensor.name, written, tensor.nbytes)
            opened.write(bytes(padded(written) - written))


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def string(text: str) -> bytes:
    content = text.encode("utf-8")
    return struct.pack("<Q", len(content)) + content


def value(content: Any) -> bytes:
    """The type and the bytes of the value of a key."""
    if isinstance(content, bool):
        return struct.pack("<I?", 7, content)
    if isinstance(content, str):
        return struct.pack("<I", STRING) + string(content)
    if isinstance(content, int):
        return struct.pack("<II", 4, content)
    if isinstance(content, float):
        return struct.pack("<If", 6, content)
    start, count = struct.pack("<I", ARRAY), len(content)
    if isinstance(content[0], str):
        return start + struct.pack("<IQ", STRING, count) + b"".join(map(string, content))
    type_id, code = (6, "f") if isinstance(content[0], float) else (5, "i")
    return start + struct.pack(f"<IQ{count}{code}", type_id, count, *content)
