"""The package llama-cpp-python, and the parts of ggml that it does not declare.

`llama_cpp.Llama` has no callback for single operations, so this project uses the functions of llama.h. The structure of
a tensor is ggml's own and may change with a version; `load_library` checks its size before it is used.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

DTYPES = {0: np.float32, 1: np.float16, 26: np.int32}  # ggml's number of a type -> numpy's
OBJECT_HEADER = 32  # bytes that ggml_tensor_overhead counts beyond the structure of a tensor
LOG_ERROR = 3  # ggml's number of the level


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor of ggml.h. Sizes and strides begin with the dimension that is contiguous."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 4),
        ("strides", ctypes.c_size_t * 4),
        ("operation", ctypes.c_int),
        ("parameters", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("sources", ctypes.c_void_p * 10),
        ("view_source", ctypes.c_void_p),
        ("view_offset", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class Library(NamedTuple):
    """llama.h, as the package declares it, and ggml.h, as this file does."""

    llama: Any
    ggml: Any
    version: str


@lru_cache(maxsize=1)
def load_library() -> Library:
    """The package llama-cpp-python. Raises ValueError where it is missing, or where its ggml has another structure."""
    try:
        import llama_cpp
        from llama_cpp import _ggml
        from llama_cpp import llama_cpp as llama
    except ImportError as error:
        raise ValueError(
            f"llama.cpp is run by the package llama-cpp-python, which cannot be imported ({error}): "
            "pip install 'llama-jp[peers]'"
        ) from None
    ggml = _ggml.libggml
    ggml.ggml_op_desc.argtypes, ggml.ggml_op_desc.restype = [ctypes.c_void_p], ctypes.c_char_p
    ggml.ggml_get_name.argtypes, ggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
    ggml.ggml_nbytes.argtypes, ggml.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
    ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    ggml.ggml_backend_tensor_get.restype = None
    ggml.ggml_tensor_overhead.argtypes, ggml.ggml_tensor_overhead.restype = [], ctypes.c_size_t
    if ctypes.sizeof(GgmlTensor) != ggml.ggml_tensor_overhead() - OBJECT_HEADER:
        raise other_version(llama_cpp.__version__, "its tensors have another structure")
    llama.llama_backend_init()
    return Library(llama, ggml, llama_cpp.__version__)


def other_version(version: str, why: str) -> ValueError:
    """The error for a version of llama.cpp that this project cannot record."""
    return ValueError(
        f"the operations of llama-cpp-python {version} cannot be recorded: {why}; install 0.3.36, or compare its "
        "logits alone (docs/parity.md, Any other runtime)"
    )


class Node:
    """One tensor of ggml's graph."""

    def __init__(self, library: Library, address: int):
        self.library, self.address = library, address
        self.fields = GgmlTensor.from_address(address)

    @property
    def operation(self) -> str:
        """Such as "MUL_MAT". An activation has its own name, such as "SWIGLU"."""
        return self.library.ggml.ggml_op_desc(self.address).decode()

    @property
    def name(self) -> str:
        """The name of a weight is that in the file. The names of results are not unique, and change with versions."""
        return self.fields.name.decode()

    @property
    def sources(self) -> list[Node]:
        """The inputs."""
        return [Node(self.library, address) for address in self.fields.sources if address]

    def integers(self) -> tuple[int, ...]:
        """The parameters of the operation as integers."""
        return tuple(self.fields.parameters)

    def floats(self) -> tuple[float, ...]:
        """The same parameters as floating-point numbers."""
        return tuple(np.frombuffer(bytes(self.fields.parameters), np.float32).tolist())

    def read(self) -> Tensor:
        """A copy of the numbers, with the sizes in torch's order (4 of them). ggml overwrites results after their use.

        Raises ValueError for a type that no result has.
        """
        fields = self.fields
        if fields.type not in DTYPES:
            raise other_version(self.library.version, f"{self.name} has the type {fields.type}")
        count = self.library.ggml.ggml_nbytes(self.address)
        data = np.empty(count, np.uint8)
        self.library.ggml.ggml_backend_tensor_get(self.address, data.ctypes.data, 0, count)
        sizes, strides = tuple(fields.sizes)[::-1], tuple(fields.strides)[::-1]
        view = np.ndarray(sizes, DTYPES[fields.type], data.data, 0, strides)
        return torch.from_numpy(view.copy())


@contextlib.contextmanager
def collected_errors(library: Library) -> Iterator[list[str]]:
    """Collect llama.cpp's error messages inside the `with` block, in place of printing them."""
    from llama_cpp._logger import llama_log_callback

    messages: list[str] = []

    def collect(level: int, text: bytes, user_data: object) -> None:
        if level == LOG_ERROR:
            messages.append(text.decode("utf-8", "replace").strip())

    callback = library.llama.llama_log_callback(collect)
    library.llama.llama_log_set(callback, None)
    try:
        yield messages
    finally:
        library.llama.llama_log_set(llama_log_callback, None)
