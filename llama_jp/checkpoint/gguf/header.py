"""The header of a GGUF file: its keys, and its tensors without their data.

The format is specified in ggml's docs/gguf.md. This module needs neither the `gguf` package nor torch: `llama-jp info`
reads 100,000 strings in a tenth of a second.
"""

from __future__ import annotations

import math
import mmap
import re
import reprlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..recognise import OLD_GGML, check_file, shorten
from .key_types import needed_type

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

# The types of values of keys, as struct's codes; 8 is a string and 9 an array.
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MOST_DIMS = 4  # of a tensor of ggml


class TensorType(NamedTuple):
    """How a tensor is stored: `block` weights along a row share `nbytes` bytes.

    halves  where a block has 16-bit numbers, whose bytes a big-endian file has the other way round; None where the
            byte order of a block is not defined
    """

    name: str
    block: int
    nbytes: int
    halves: tuple[int, ...] | None = None


FLOATS = {0: TensorType("F32", 1, 4), 1: TensorType("F16", 1, 2), 30: TensorType("BF16", 1, 2)}
QUANTIZED = {
    2: TensorType("Q4_0", 32, 18, (0,)),
    3: TensorType("Q4_1", 32, 20, (0, 2)),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34, (0,)),
    10: TensorType("Q2_K", 256, 84, (80, 82)),
    11: TensorType("Q3_K", 256, 110, (108,)),
    12: TensorType("Q4_K", 256, 144, (0, 2)),
    13: TensorType("Q5_K", 256, 176, (0, 2)),
    14: TensorType("Q6_K", 256, 210, (208,)),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18, (0,)),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    29: TensorType("IQ1_M", 256, 56),
    34: TensorType("TQ1_0", 256, 54, (52,)),
    35: TensorType("TQ2_0", 256, 66, (64,)),
    39: TensorType("MXFP4", 32, 17, ()),
    40: TensorType("NVFP4", 64, 36, ()),
}
TYPES = FLOATS | QUANTIZED
# Types that llama.cpp has or had, and that hold no weights or can no longer be decoded.
OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 31: "Q4_0_4_4",
    32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 41: "Q1_0",
}  # fmt: skip


class GgufTensor(NamedTuple):
    """A tensor in a GGUF file, without its data."""

    file: Path
    name: str
    shape: tuple[int, ...]  # rows first, as in torch; the file has them the other way round
    type_name: str  # such as "Q4_K"
    start: int  # its first byte in the file
    nbytes: int
    big_endian: bool = False


@dataclass(frozen=True, eq=False)  # a key of caches by its identity
class GgufHeader:
    """The keys and tensors of a GGUF file, or of all parts of a split one. The keys are those of the first part."""

    file: Path
    keys: dict[str, Any]
    tensors: dict[str, GgufTensor]


def is_gguf(path: Path) -> bool:
    """Whether a path is a GGUF file, by its suffix or its first four bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    try:
        with path.open("rb") as opened:
            return opened.read(4) == MAGIC
    except OSError:
        return False


def read_header(file: Path) -> GgufHeader:
    """The header of a GGUF file. Any part of a split model gives the header of the whole.

    Raises FileNotFoundError for a missing part. Raises ValueError for a file that is damaged, incomplete or no GGUF
    file, and for a type of tensors that cannot be decoded.
    """
    match = PART.fullmatch(file.name)
    header = read_part(file)
    count = header.keys.get("split.count", 1)
    if count == 1:
        return header
    if match is None or int(match[3]) != count:
        raise ValueError(
            f"{file} is one of {count} parts of a model, and its name does not say which; name the parts "
            f"NAME-00001-of-{count:05}.gguf and so on, as they were published"
        )
    parts = [file.with_name(f"{match[1]}-{number:05}-of-{match[3]}.gguf") for number in range(1, count + 1)]
    if missing := [part.name for part in parts if not part.is_file()]:
        raise FileNotFoundError(
            f"{file} is one of {count} parts of a model, and {shorten(missing, 3)} is not beside it: download the "
            "missing parts"
        )
    headers = [read_part(part) for part in parts]
    tensors: dict[str, GgufTensor] = {}
    for each in headers:
        if twice := tensors.keys() & each.tensors.keys():
            raise ValueError(f"{each.file} and an earlier part both hold {shorten(sorted(twice), 3)}")
        tensors |= each.tensors
    return GgufHeader(parts[0], headers[0].keys, tensors)


def read_part(file: Path) -> GgufHeader:
    """The header of one file."""
    check_file(file)
    status = file.stat()
    return read_unchanged(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def read_unchanged(file: Path, modified: int, size: int) -> GgufHeader:
    """The header of a file with this time of change and this size, which are the key of the cache."""
    with file.open("rb") as opened:
        magic = opened.read(8)
        check_magic(file, magic)
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                keys, tensors = HeaderReader(file, data).read()
            except (struct.error, UnicodeDecodeError, OverflowError) as error:
                raise ValueError(
                    f"{file} is damaged or incomplete ({size:,} bytes): its header cannot be read"
                ) from error
    return GgufHeader(file, keys, tensors)


def check_magic(file: Path, start: bytes) -> None:
    """Raise ValueError for the first eight bytes of a file that is no GGUF file of a supported version."""
    if start[:4] in OLD_GGML:
        raise ValueError(f"{file} is a GGML file of before August 2023; use a GGUF file of the same model")
    if start[:4] != MAGIC or len(start) < 8:
        raise ValueError(f"{file} is not a GGUF file: it begins with {start[:4]!r} and not with {MAGIC!r}")
    version = int.from_bytes(start[4:], byte_order(start))
    if version not in VERSIONS:
        raise ValueError(f"{file} is GGUF version {version}; supported are {', '.join(map(str, VERSIONS))}")


def byte_order(start: bytes) -> Literal["little", "big"]:
    """The byte order of a GGUF file, by the version in its first eight bytes."""
    return "big" if start[4:6] == b"\0\0" else "little"


class HeaderReader:
    """Reads the values of a header one after the other."""

    def __init__(self, file: Path, data: mmap.mmap) -> None:
        self.file, self.data, self.at = file, data, 4
        self.big_endian = byte_order(data[:8]) == "big"
        self.order = ">" if self.big_endian else "<"
        version = self.scalar("I")
        self.size_code = "I" if version == 1 else "Q"  # of counts, lengths and dimensions

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        """The keys, and the tensors by name."""
        tensor_count, key_count = self.scalar(self.size_code), self.scalar(self.size_code)
        keys: dict[str, Any] = {}
        for _ in range(key_count):
            name = self.string()
            if name in keys:
                raise ValueError(f"{self.file} is damaged: the key {name} stands twice")
            keys[name] = value = self.value(self.scalar("I"))
            if (needed := needed_type(name, value)) is not None:
                raise ValueError(
                    f"{self.file} is damaged: the key {name} is {reprlib.repr(value)}, but it has to be {needed}"
                )
        entries = [self.tensor_entry() for _ in range(tensor_count)]
        alignment = keys.get("general.alignment", 32)
        if alignment < 1:
            raise ValueError(f"{self.file} is damaged: general.alignment is {alignment!r}")
        data_start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, type_id, offset in entries:
            if name in tensors:
                raise ValueError(f"{self.file} is damaged: the tensor {name} stands twice")
            tensors[name] = self.tensor(name, shape, type_id, data_start + offset)
        return keys, tensors

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"{self.order}{code}", self.data, self.at)
        self.at += struct.calcsize(f"{self.order}{code}")
        return value

    def string(self) -> str:
        return self.strings(1)[0]

    def strings(self, count: int) -> list[str]:
        length_at, data, at, found = struct.Struct(f"{self.order}{self.size_code}"), self.data, self.at, []
        for _ in range(count):
            (length,) = length_at.unpack_from(data, at)
            start = at + length_at.size
            at = start + length
            if at > len(data):
                raise struct.error  # the string ends after the file
            found.append(data[start:at].decode("utf-8"))
        self.at = at
        return found

    def value(self, type_id: int) -> Any:
        """The value of a key: a scalar, a string, or a list of either."""
        if type_id == STRING:
            return self.string()
        if type_id == ARRAY:
            element, count = self.scalar("I"), self.scalar(self.size_code)
            if element == STRING:
                return self.strings(count)
            if element in SCALARS:
                values = struct.unpack_from(f"{self.order}{count}{SCALARS[element]}", self.data, self.at)
                self.at += struct.calcsize(f"{self.order}{count}{SCALARS[element]}")
                return list(values)
        if type_id in SCALARS:
            return self.scalar(SCALARS[type_id])
        raise ValueError(f"{self.file} is damaged: a value at byte {self.at:,} has no known type")

    def tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, type, offset from the start of the data) of the next tensor."""
        name, dims = self.string(), self.scalar("I")
        if dims > MOST_DIMS:
            raise ValueError(f"{self.file} is damaged: {name} has {dims:,} dimensions, where at most {MOST_DIMS} are")
        shape = tuple(self.scalar(self.size_code) for _ in range(dims))[::-1]
        return name, shape, self.scalar("I"), self.scalar("Q")

    def tensor(self, name: str, shape: tuple[int, ...], type_id: int, start: int) -> GgufTensor:
        """A tensor of the file, after a check that the file holds all of it."""
        if type_id not in TYPES:
            type_name = OTHER_TYPES.get(type_id, f"an unknown type ({type_id})")
            raise ValueError(
                f"{self.file} stores {name} as {type_name}, which is not supported; use a file of the same model with "
                "another quantisation"
            )
        stored_as = TYPES[type_id]
        if not shape or 0 in shape or shape[-1] % stored_as.block:
            raise ValueError(
                f"{self.file} is damaged: the rows of {name} {shape} are no whole blocks of {stored_as.block} weights"
            )
        nbytes = math.prod(shape) // stored_as.block * stored_as.nbytes
        if start + nbytes > len(self.data):
            raise ValueError(
                f"{self.file} is incomplete: {name} ends at byte {start + nbytes:,}, and the file at "
                f"{len(self.data):,}; download it again"
            )
        if self.big_endian and type_id in QUANTIZED and stored_as.halves is None:
            raise ValueError(
                f"{self.file} is big-endian and stores {name} as {stored_as.name}, whose byte order is not defined "
                "there; use a little-endian file of the same model"
            )
        return GgufTensor(self.file, name, shape, stored_as.name, start, nbytes, self.big_endian)
