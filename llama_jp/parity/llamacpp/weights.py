"""Whether the weights of a GGUF file are those of a checkpoint, rounded to the file's types.

Quantisers are deterministic: the weights of the checkpoint are quantised again, and give the same blocks. The package
`gguf` has the quantiser of the simple types, ggml that of K-quants. An importance matrix leads to other blocks. They
are compared with the checkpoint by their error, in steps of their type.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...checkpoint.gguf.header import TYPES, GgufTensor
from ...tracing import named_modules
from ..judge.findings import Finding
from ..judge.weights import weight_cause

BLOCKS = {stored_as.name: stored_as.block for stored_as in TYPES.values()}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SIMPLE_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # of the package gguf's quantiser
K_QUANTS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")  # of ggml's
WITHOUT_MATRIX = (*FLOATS, "Q8_0")  # types with one way of rounding

FEW_BLOCKS = 0.05  # another quantiser changes more blocks
MORE_ERROR = 1.01  # processors round differently next to the middle of two numbers, which adds no error to a block
MOST_ERROR = 1.5  # an importance matrix moves the error to other weights, and adds little to the whole
LEAST_FACTOR = 0.01  # a common factor of all weights that is no rounding
STEPS = 3  # the largest error, in steps of the range of 32 weights, that another quantiser makes

Weights = Mapping[str, Tensor]  # parameters by the names of their points


@dataclass
class WeightCheck:
    """The outcome: a finding for each wrong weight, and the types of the right ones with their numbers."""

    findings: list[Finding] = field(default_factory=list)
    exact: Counter[str] = field(default_factory=Counter)  # weights that the quantiser makes of the checkpoint's
    near: Counter[str] = field(default_factory=Counter)  # weights within the rounding of their type

    @property
    def notes(self) -> list[str]:
        """The outcome in sentences."""
        notes = []
        if total := self.exact.total():
            notes.append(f"{total} weights of the file are exactly the checkpoint's, rounded to {listed(self.exact)}")
        if total := self.near.total():
            notes.append(
                f"{total} weights of the file are the checkpoint's within the rounding of {listed(self.near)}; their "
                "quantiser is another one, or had an importance matrix"
            )
        return notes


def listed(types: Counter[str]) -> str:
    return " and ".join(sorted(types))


def compare_weights(
    tensors: dict[str, GgufTensor], numbers: Weights, checkpoint: Weights, ggml: Any = None
) -> WeightCheck:
    """Compare every weight of a GGUF file with the same weight of a checkpoint.

    tensors     the tensors of the file by the names of the model's parameters
    numbers     their numbers in float32, with rows in this project's order
    checkpoint  the weights that the file should have, in float32
    ggml        the library with the quantiser of K-quants; None: they are compared by their error
    """
    check = WeightCheck()
    embedding, head = "embed_tokens.weight", "lm_head.weight"
    if head in tensors and head not in checkpoint:  # tied in the checkpoint alone
        checkpoint = {**checkpoint, head: checkpoint[embedding]}
    for name in tensors:
        if name not in checkpoint:
            check.findings.append(finding(name, "the checkpoint has no such weight"))
    for name, own in checkpoint.items():
        source = embedding if name == head and name not in tensors else name
        if source not in tensors:
            check.findings.append(finding(name, f"{name} is missing in the file"))
            continue
        tensor, of_file = tensors[source], numbers[source]
        if of_file.shape == own.shape and is_exact(of_file, own, tensor, ggml):
            check.exact[tensor.type_name] += 1
        elif of_file.shape == own.shape and is_near(of_file, own, tensor, ggml):
            check.near[tensor.type_name] += 1
        else:
            similar = {other: x for other, x in checkpoint.items() if other == name or x.shape == of_file.shape}
            right = {other: as_stored(x, tensor, ggml) for other, x in similar.items()}
            check.findings.append(finding(name, weight_cause(name, {name: of_file}, right)))
    return check


def finding(name: str, cause: str) -> Finding:
    module = name.rpartition(".")[0] or name
    parts = module.split(".")
    layer = int(parts[1]) if parts[0] == "layers" else None
    return Finding(module, "weights", layer, 0, "bug", cause=cause)


# One weight


def is_exact(of_file: Tensor, own: Tensor, tensor: GgufTensor, ggml: Any) -> bool:
    """Whether the quantiser of the tensor's type makes these numbers of the checkpoint's weight.

    A converter may round a weight to 16 bits before it is quantised.
    """
    dtypes = (torch.float32,) if tensor.type_name in FLOATS else tuple(FLOATS.values())
    return any(
        (expected := quantized(own.to(dtype).float(), tensor, ggml)) is not None and torch.equal(of_file, expected)
        for dtype in dtypes
    )


def is_near(of_file: Tensor, own: Tensor, tensor: GgufTensor, ggml: Any) -> bool:
    """Whether another quantiser may have made these numbers of the checkpoint's weight."""
    if tensor.type_name in WITHOUT_MATRIX:
        return False
    error = of_file - own
    expected = quantized(own, tensor, ggml)
    if expected is not None:
        block = (-1, BLOCKS[tensor.type_name])
        differs = (of_file != expected).unflatten(-1, block).any(-1)
        if float(differs.float().mean()) <= FEW_BLOCKS:
            mine, usual = (x.square().unflatten(-1, block).sum(-1)[differs] for x in (error, expected - own))
            return bool((mine <= MORE_ERROR * usual).all())
        if float(error.norm()) ** 2 > MOST_ERROR * float((expected - own).norm()) ** 2:
            return False
    parts = own.unflatten(-1, (-1, 32))
    span = parts.amax(-1).clamp(min=0) - parts.amin(-1).clamp(max=0)
    bits = int(re.sub(r"\D*(\d).*", r"\1", tensor.type_name))  # Q4_K and IQ4_XS have 4
    factor = float((of_file * own).sum() / own.square().sum())  # below 1: the best rounding loses its own error
    if abs(factor - 1) > max(LEAST_FACTOR, 2 * 4.0 ** (1 - bits)):
        return False
    return bool((error.unflatten(-1, (-1, 32)).abs().amax(-1) <= STEPS * span / 2**bits).all())


def as_stored(x: Tensor, tensor: GgufTensor, ggml: Any) -> Tensor:
    """A weight as the tensor's type stores it; the weight itself where that is not known."""
    rounded = quantized(x, tensor, ggml) if x.shape[-1] % BLOCKS[tensor.type_name] == 0 else None
    return x if rounded is None else rounded


def quantized(x: Tensor, tensor: GgufTensor, ggml: Any) -> Tensor | None:
    """The numbers that the quantiser of a tensor's type makes of x; None where the quantiser is not at hand.

    Blocks lie along a row, so the order of rows does not matter.
    """
    name = tensor.type_name
    if name in FLOATS:
        return x.to(FLOATS[name]).float()
    if name not in SIMPLE_TYPES and (name not in K_QUANTS or ggml is None):
        return None
    from gguf import GGMLQuantizationType, quants

    kind, numbers = GGMLQuantizationType[name], x.contiguous().numpy()
    blocks = quants.quantize(numbers, kind) if name in SIMPLE_TYPES else quantized_by_ggml(numbers, kind, ggml)
    return torch.from_numpy(quants.dequantize(blocks, kind))


def quantized_by_ggml(numbers: np.ndarray, kind: int, ggml: Any) -> np.ndarray:
    """The blocks that ggml's quantiser makes without an importance matrix, (rows, bytes)."""
    rows, width = numbers.shape
    stored_as = TYPES[kind]
    blocks = np.empty((rows, width // stored_as.block * stored_as.nbytes), np.uint8)
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk(kind, numbers.ctypes.data, blocks.ctypes.data, 0, rows, width, None)
    return blocks


# The weights of a file in a model


@contextmanager
def replaced_weights(name: str, module: nn.Module, weights: Weights) -> Iterator[None]:
    """Give a model other weights inside the `with` block. It has its own parameters again after it.

    Raises ValueError for a model without such parameters: a quantised one, or one that is not a plain Llama.
    """
    homes = {f"{path}.{each}": (m, each) for path, m in named_modules(module).items() for each in m._parameters}
    own = {place: m._parameters[each] for place, (m, each) in homes.items()}
    if missing := [weight for weight in weights if own.get(weight) is None]:
        raise ValueError(
            f"{name} has no parameter {missing[0]}, so it cannot take the weights of the GGUF file; "
            "compare a model that is not quantised"
        )
    try:
        for weight, numbers in weights.items():
            parent, each = homes[weight]
            parent._parameters[each] = nn.Parameter(numbers, requires_grad=False)
        yield
    finally:
        for weight in weights:
            parent, each = homes[weight]
            parent._parameters[each] = own[weight]
