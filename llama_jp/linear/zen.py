"""AMD's library zentorch, which the extra `zen` installs: its two operators for bfloat16 products.

Its C++ library is loaded without its Python package, which imports torch's compiler and takes two seconds.
Only the product with a packed weight is used. Given a plain weight, the operator packs it, keeps the copy by the
weight's address, and multiplies a later weight at the same address by it.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from ..environment import package_version

BLOCK = 64  # outputs whose weights are packed together

UNKNOWN_ORDER = "the packed weight is not this weight in a known order"


def is_installed() -> bool:
    """Whether the package is there. It may still be one for another torch, which `load` finds."""
    return package_version("zentorch") is not None


@functools.cache  # an installed version does not change while the process runs; an exception is not kept
def load() -> None:
    """Load the library. RuntimeError if it is missing, or built for another version of torch."""
    if (installed := package_version("zentorch")) is None:
        raise RuntimeError("zentorch is not installed: pip install -e '.[zen]'")
    wanted, found = (".".join(version.split(".")[:2]) for version in (torch.__version__, installed))
    if wanted != found:  # it has torch's C++ symbols, which differ between versions
        raise RuntimeError(
            f"zentorch {installed} is for another torch than {torch.__version__}: pip install 'zentorch=={wanted}.*', "
            f"or, while that is not published, 'torch=={found}.*'"
        )
    spec = importlib.util.find_spec("zentorch")  # runs nothing of the package
    folders = list(spec.submodule_search_locations or []) if spec else []
    file = next((file for folder in folders if (file := Path(folder) / "libzentorch.so").is_file()), None)
    if file is None:
        raise RuntimeError(f"zentorch {installed} lacks libzentorch.so: pip install --force-reinstall -e '.[zen]'")
    torch.ops.load_library(str(file))


def pack(weight: Tensor) -> Tensor:
    """weight (N, K) bfloat16 -> the same numbers in the order in which the product loads them."""
    load()
    return torch.ops.zentorch.zentorch_weight_prepack_for_linear(weight.contiguous())


def multiply(x: Tensor, packed: Tensor) -> Tensor:
    """x (..., K), and a weight of `pack` -> (..., N)."""
    return torch.ops.zentorch.zentorch_linear_unary(x, packed, None, is_weight_prepacked=True)


def unpack_block(packed: Tensor, block: int) -> Tensor:
    """The weight (BLOCK, K) of one block of outputs, from a packed weight (N, K).

    The outputs are cut into chunks, and their inputs into panels. A panel holds its blocks of outputs one after the
    other. In a block, the two values of an output for a pair of inputs stand side by side.
    """
    N, K = packed.shape
    chunk, panel = chunk_and_panel(N, K)
    begin = block * BLOCK // chunk * chunk
    outputs = packed[begin : begin + chunk]
    panels = outputs.flatten().split(len(outputs) * panel)
    pairs = (each.view(len(outputs) // BLOCK, -1, BLOCK, 2)[block - begin // BLOCK] for each in panels)
    return torch.cat([each.transpose(0, 1).reshape(BLOCK, -1) for each in pairs], dim=-1)


@functools.cache  # these depend on the CPU and the library alone, which stay the same while the process runs
def chunk_and_panel(outputs: int, inputs: int) -> tuple[int, int]:
    """The outputs in a chunk and the inputs in a panel, measured by packing ones. RuntimeError for another order."""
    marks = torch.zeros(2 * BLOCK, inputs, dtype=torch.bfloat16, device="cpu")
    marks[BLOCK:] = 1
    panel = first_one(pack(marks)) // BLOCK
    if panel == 0:
        raise RuntimeError(UNKNOWN_ORDER)
    if inputs == panel:
        return outputs, panel
    marks = torch.zeros(outputs, panel + 2, dtype=torch.bfloat16, device="cpu")
    marks[0, panel:] = 1
    chunk = first_one(pack(marks)) // panel
    if chunk == 0 or chunk % BLOCK:
        raise RuntimeError(UNKNOWN_ORDER)
    return chunk, panel


def first_one(packed: Tensor) -> int:
    """The place of the first one among zeros."""
    return int(packed.flatten().nonzero()[0])
