"""Weights that GPTQ (AutoGPTQ, GPTQModel) or AWQ (AutoAWQ) packed. They are dequantised at loading.

A linear module NAME with N outputs, K inputs and G groups of inputs has these tensors in the place of `NAME.weight`.
P values stand in one word, 32 / bits.

    tensor    GPTQ                                     AWQ, version "gemm"
    qweight   int32 (K/P, N), consecutive inputs       int32 (K, N/P), outputs in the order of AWQ_NIBBLES
    qzeros    int32 (G, N/P), consecutive outputs      int32 (G, N/P), outputs in the order of AWQ_NIBBLES
    scales    float (G, N)                             float (G, N)
    g_idx     the group of each input, (K); optional   not there: input k is in group k // group_size

    weight[n, k] = (q[n, k] - zero[group(k), n]) * scale[group(k), n]
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .json_files import read_json
from .recognise import shorten
from .tensors import Recipe, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

# By method, the formats, the most frequent one first, and the bits
SUPPORTED = {"gptq": (("gptq", "gptq_v2"), (2, 4, 8)), "awq": (("gemm",), (4,))}

# The files of releases that have no `quantization_config` in config.json, and the method that wrote them
SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}

FLOATS = ("float16", "bfloat16", "float32")
PART_DTYPES = {
    "qweight": ("int32",),
    "qzeros": ("int32",),
    "scales": FLOATS,
    "g_idx": ("int32", "int64"),
    "bias": FLOATS,
}

AWQ_NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)  # output j of eight is in nibble AWQ_NIBBLES[j] of the word


@dataclass(frozen=True)
class Packing:
    """The method and the numbers by which weights are packed."""

    method: str  # "gptq" or "awq"
    bits: int
    group_size: int | None  # inputs that share a scale and a zero; None: all of them
    stored_zero: int = 0  # what qzeros lacks: the first format of GPTQ stores zero - 1

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Packing:
        """Parse the `quantization_config` of GPTQ or AWQ, in the key names of any release.

        Raises ValueError, with the key and its value, for a format that is not supported.
        """
        method = str(raw["quant_method"]).lower()
        bits = first_value(raw, "bits", "w_bit")
        group_size = first_value(raw, "group_size", "q_group_size")
        supported_layouts, supported_bits = SUPPORTED[method]
        keys = ("checkpoint_format", "format") if method == "gptq" else ("version", "checkpoint_format", "format")
        layout = (
            "marlin" if raw.get("is_marlin_format") else str(first_value(raw, *keys) or supported_layouts[0]).lower()
        )
        name = method.upper()
        if layout not in supported_layouts:
            supported = ", ".join(supported_layouts)
            raise ValueError(f"{name} weights in the format {layout!r} are not supported (supported: {supported})")
        if type(bits) is not int or bits not in supported_bits:
            supported = ", ".join(map(str, supported_bits))
            raise ValueError(f"{name} weights of {bits!r} bits are not supported (supported: {supported})")
        if raw.get("pack_dtype", "int32") not in ("int32", "torch.int32"):
            raise ValueError(f"{name} weights with pack_dtype {raw['pack_dtype']!r} are not supported; int32 is")
        if raw.get("dynamic"):
            raise ValueError(f"{name} weights with dynamic {raw['dynamic']!r}, bits by module, are not supported")
        if raw.get("zero_point") is False:
            raise ValueError(f"{name} weights with zero_point false are not supported")
        if group_size in (-1, None):
            group_size = None
        elif isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise ValueError(f"group_size is {group_size!r}, but it has to be a positive whole number, or -1")
        return cls(method, bits, group_size, 1 if layout == "gptq" else 0)

    def __str__(self) -> str:
        groups = "one group per output" if self.group_size is None else f"groups of {self.group_size}"
        return f"{self.method.upper()}, {self.bits} bits in {groups}, dequantised at loading"

    def groups(self, inputs: int) -> int:
        """G of a module with K inputs. The last group may be smaller."""
        return 1 if self.group_size is None else math.ceil(inputs / self.group_size)


def first_value(raw: dict[str, Any], *keys: str) -> Any:
    """The value of the first key that has one."""
    return next((raw[key] for key in keys if raw.get(key) is not None), None)


def is_packing(raw: object) -> bool:
    """Whether a `quantization_config` is one of GPTQ or AWQ."""
    return isinstance(raw, dict) and str(raw.get("quant_method")).lower() in ("gptq", "awq")


def read_packing(folder: Path) -> Packing | None:
    """The packing of the checkpoint in a folder, from config.json or a file beside it; None for other weights."""
    file, raw = packing_config(folder)
    if file is None:
        return None
    try:
        return Packing.from_json(raw)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def packing_config(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The file that describes the packing, and the object in it. config.json has priority, as in transformers."""
    file = folder / "config.json"
    raw = read_json(file, missing_ok=True).get("quantization_config")
    if raw is not None:
        return (file, raw) if is_packing(raw) else (None, {})
    for name, method in SIDE_FILES.items():
        if (folder / name).is_file():
            return folder / name, {"quant_method": method} | read_json(folder / name)
    return None, {}


def packed_file_names(folder: Path) -> list[str]:
    """The names of the weight files of GPTQ and AWQ libraries, where they are not those of transformers.

    AutoGPTQ's name says how the weights are packed, such as gptq_model-4bit-128g.safetensors, and many were renamed.

    Raises ValueError if there are several, of which none is named in the file that describes the packing.
    """
    file, raw = packing_config(folder)
    if file is None:
        return []
    stem = raw.get("model_file_base_name")
    named = [f"{stem}{suffix}" for suffix in (".safetensors", ".safetensors.index.json", ".bin")]
    if isinstance(stem, str) and Path(stem).name == stem and any((folder / name).is_file() for name in named):
        return named
    for pattern in ("*.safetensors.index.json", "*.safetensors", "*.bin"):
        if names := sorted(entry.name for entry in folder.glob(pattern)):
            break
    if len(names) > 1:
        raise ValueError(
            f"{folder} holds several files with packed weights ({shorten(names, 4)}); name one, without its suffix, as "
            f"model_file_base_name in {file.name}"
        )
    return names


def dequantized(
    stored: dict[str, TensorInfo], packing: Packing | None, biased: Collection[str] = ()
) -> dict[str, TensorInfo]:
    """The tensors of a checkpoint, with one weight in the place of the packed tensors of each module.

    stored   the tensors in the files by the model's names
    packing  None: an error if there are packed tensors
    biased   the last parts of the names of the modules whose bias is a parameter, such as "q_proj"

    Raises ValueError for a tensor that is missing or has a shape that the packing does not give.
    """
    modules = [name.removesuffix(".qweight") for name in stored if name.endswith(".qweight")]
    if modules and packing is None:
        raise ValueError(
            f"{stored[f'{modules[0]}.qweight'].name} is packed, but config.json has no quantization_config for it; "
            f"copy the {' or '.join(SIDE_FILES)} of the model beside the weights"
        )
    made = dict(stored)
    for module in modules:
        assert packing is not None
        parts = {part: made.pop(f"{module}.{part}", None) for part in ("qweight", "qzeros", "scales", "g_idx")}
        if module.rpartition(".")[2] not in biased:
            # AutoGPTQ writes a bias of zeros for a module without one; `dequantize` refuses other numbers.
            parts["bias"] = made.pop(f"{module}.bias", None)
        made[f"{module}.weight"] = packed_weight({part: info for part, info in parts.items() if info}, packing)
    return made


def packed_weight(parts: dict[str, TensorInfo], packing: Packing) -> TensorInfo:
    """The weight of a module, to be made from its packed tensors `qweight`, `qzeros`, `scales`, …"""
    packed, per_word = parts["qweight"], 32 // packing.bits
    module = packed.name.removesuffix(".qweight")
    if absent := [f"{module}.{part}" for part in ("qzeros", "scales") if part not in parts]:
        raise ValueError(f"{packed.name} in {packed.file.name} is packed without {' and '.join(absent)}")
    if len(packed.shape) != 2:
        raise ValueError(f"{packed.name} in {packed.file.name} is {packed.shape}, not a matrix")
    rows, columns = packed.shape
    K, N = (rows * per_word, columns) if packing.method == "gptq" else (rows, columns * per_word)
    G = packing.groups(K)
    expected = {"qzeros": (G, N / per_word), "scales": (G, N), "g_idx": (K,), "bias": (N,)}
    for part, info in parts.items():
        if part in expected and info.shape != expected[part]:
            shape = tuple(int(size) if size == int(size) else size for size in expected[part])
            raise ValueError(
                f"{info.name} in {info.file.name} is {info.shape} where {packed.name} {packed.shape} and {packing} "
                f"make it {shape}"
            )
        if info.dtype_name not in PART_DTYPES[part]:
            expected_dtypes = " or ".join(PART_DTYPES[part])
            raise ValueError(f"{info.name} in {info.file.name} is {info.dtype_name}, and not {expected_dtypes}")
    make = partial(dequantize, packing, module, tuple(parts))
    return packed._replace(
        shape=(N, K), dtype_name=parts["scales"].dtype_name, recipe=Recipe(tuple(parts.values()), make)
    )


def dequantize(packing: Packing, module: str, parts: tuple[str, ...], *tensors: Tensor) -> Tensor:
    """The weight (N, K) of a module, in the dtype of its scales, from the packed tensors that `parts` names.

    Raises ValueError for a group that has no scale, and for a bias that the model has no parameter for.
    """
    import torch  # late, because it takes seconds and `llama-jp info` needs the shapes alone

    by_part = dict(zip(parts, tensors, strict=True))
    if "bias" in by_part and by_part["bias"].any():
        raise ValueError(f"{module}.bias is not zero, but config.json has no attention_bias or mlp_bias for it")
    scales = by_part["scales"]  # (G, N)
    is_gptq = packing.method == "gptq"
    shifts = range(0, 32, packing.bits) if is_gptq else [4 * nibble for nibble in AWQ_NIBBLES]
    q = unpack(by_part["qweight"], packing.bits, shifts, dim=0 if is_gptq else 1)  # (K, N)
    zeros = unpack(by_part["qzeros"], packing.bits, shifts, dim=1)  # (G, N)
    zeros = (zeros + packing.stored_zero) & (2**packing.bits - 1)
    K = len(q)
    group = by_part.get("g_idx", torch.arange(K) // (packing.group_size or K)).long()  # (K)
    if group.min() < 0 or group.max() >= len(scales):
        raise ValueError(
            f"{module}.g_idx names the groups {int(group.min())} to {int(group.max())}, but there are {len(scales)}"
        )
    # rounding: the difference is exact; the product is rounded once, to the dtype of the scales, as in the libraries
    weight = q.sub_(zeros[group]).to(scales.dtype).mul_(scales[group])
    return weight.T.contiguous()


def unpack(words: Tensor, bits: int, shifts: Iterable[int], dim: int) -> Tensor:
    """The values in words, along a dimension. Value i of each word is `bits` bits wide and begins at bit shifts[i]."""
    import torch

    values = [((words >> shift) & (2**bits - 1)).to(torch.int16) for shift in shifts]
    return torch.stack(values, dim + 1).flatten(dim, dim + 1)
