"""Tensors in files: list them without loading, then load them memory-mapped. See layouts.py for whole checkpoints.

The tensors of safetensors files are listed without torch, which takes seconds to import.
"""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from .gguf.data import read_stored
from .gguf.header import is_gguf
from .recognise import check_file

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# safetensors' codes, and torch's names
SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I8": "int8",  # quantised weights
    "U8": "uint8",
    "I16": "int16",  # buffers of a changed model
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
}


class Recipe(NamedTuple):
    """How a tensor is computed from stored ones: the shards of a matrix joined, or packed integers dequantised."""

    sources: tuple[TensorInfo, ...]
    make: Callable[..., Tensor]  # takes the tensors of `sources`


class TensorInfo(NamedTuple):
    """A tensor in a file: its name, shape and dtype, without its data. One with a recipe is computed at loading."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype_name: str  # such as "float16"
    slices: tuple[slice, ...] = ()  # the part to load: a slice for each of the first dimensions; empty: everything
    recipe: Recipe | None = None  # then name and file are those of the first source
    type_name: str = ""  # in a GGUF file, such as "Q4_K"

    @property
    def sources(self) -> tuple[TensorInfo, ...]:
        """The stored tensors: those of the recipe, or itself."""
        return self.recipe.sources if self.recipe else (self,)

    @property
    def stored_as(self) -> str:
        """The dtype, or the type of a GGUF file: "float16", "Q4_K"."""
        return self.type_name or self.dtype_name

    @property
    def dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self.dtype_name)
        return dtype

    @property
    def nbytes(self) -> int:
        """Bytes to load."""
        sizes = list(self.shape)
        for dim, part in enumerate(self.slices):
            sizes[dim] = len(range(*part.indices(sizes[dim])))
        bits = re.search(r"\d+", self.dtype_name)  # the name of bool has none
        return math.prod(sizes) * (int(bits[0]) // 8 if bits else 1)

    @property
    def is_contiguous(self) -> bool:
        """Whether the part to load is one run of bytes in the file."""
        return len(self.slices) <= 1 and self.recipe is None


def list_tensors(file: Path) -> Iterator[TensorInfo]:
    """List the tensors of one file, in the file's order."""
    if file.suffix == ".safetensors":
        with open_safetensors(file, "numpy") as content:
            for name in content.keys():  # noqa: SIM118 (not a dict)
                view = content.get_slice(name)
                yield TensorInfo(file, name, tuple(view.get_shape()), safetensors_dtype(view.get_dtype(), file, name))
    else:
        for name, tensor in read_bin(file, "meta").items():
            yield TensorInfo(file, name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def safetensors_dtype(code: str, file: Path, tensor_name: str) -> str:
    """torch's name of a dtype with a code such as "BF16". Raises ValueError for a code that no model uses."""
    if code not in SAFETENSORS_DTYPES:
        raise ValueError(f"{tensor_name} in {file} is stored as {code}; supported are {', '.join(SAFETENSORS_DTYPES)}")
    return SAFETENSORS_DTYPES[code]


def open_safetensors(file: Path, framework: str = "pt") -> safe_open:
    """Open a safetensors file. Raises the errors of `check_file`, and ValueError for a damaged file.

    framework  "pt" for tensors of torch, which is then imported; "numpy" for names, shapes and dtypes
    """
    check_file(file)
    try:
        return safe_open(file, framework=framework)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or incomplete ({file.stat().st_size:,} bytes): {error}") from error


def read_bin(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a `.bin` or `.pth` file by name, memory-mapped.

    A pickle can run any code. `weights_only=True` limits it to the construction of tensors.

    Raises the errors of `check_file`, and ValueError for a damaged file, for a pickle that runs other code, and for
    content other than named tensors.
    """
    import torch

    check_file(file)
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} is no PyTorch zip file ({file.stat().st_size:,} bytes): incomplete, damaged, or older than "
            "torch 1.6; download it again, or save it again with torch.save"
        )
    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)", str(error))
        reason = f"would run {refused[1]}" if refused else "holds more than tensors"
        raise ValueError(f"{file} is refused: its pickle {reason}, and only tensors are loaded") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{file} is damaged or incomplete ({file.stat().st_size:,} bytes): {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{file} does not hold tensors by name; is it a training checkpoint rather than a model?")
    return content


def read_tensors(
    stored: dict[str, TensorInfo], dtype: torch.dtype | None, device: torch.device, released: bool = False
) -> dict[str, Tensor]:
    """Load tensors in a dtype (None: as stored) on a device, with a progress bar in bytes.

    Mapped pages count as resident memory until the file is unmapped. Tensors that are converted or moved are therefore
    loaded in groups, the largest tensors first, and the file is opened again for each group.

    released  the caller will release the tensors one after the other, in the order of `stored`. Tensors that stay
              mapped then form groups of neighbours as well, and a group is unmapped with its last tensor
    """
    names = {id(info): name for name, info in stored.items()}
    infos = list(stored.values()) if released else sorted(stored.values(), key=lambda info: -info.nbytes)
    tensors = {}
    total = sum(info.nbytes for info in stored.values())
    with tqdm(desc="loading", total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for file, group in group_tensors(infos, dtype, device, released):
            for info, tensor in read_group(file, group):
                tensors[names[id(info)]] = tensor.to(device=device, dtype=dtype)
                bar.update(info.nbytes)
    return tensors


def group_tensors(
    infos: Iterable[TensorInfo],
    dtype: torch.dtype | None,
    device: torch.device,
    released: bool = False,
    most_bytes: int = 32 << 20,
) -> Iterator[tuple[Path, list[TensorInfo]]]:
    """The tensors to load at each opening of a file.

    Tensors that stay mapped form one group per file, if not `released`. The others form groups of about `most_bytes`
    bytes.
    """
    groups: dict[tuple[Path, bool], list[TensorInfo]] = {}
    for info in infos:
        stays_mapped = dtype in (None, info.dtype) and device.type == "cpu" and info.is_contiguous
        group = groups.setdefault((info.file, stays_mapped), [])
        group.append(info)
        if (released or not stays_mapped) and sum(member.nbytes for member in group) >= most_bytes:
            yield info.file, groups.pop((info.file, stays_mapped))
    for (file, _), group in groups.items():
        yield file, group


def read_group(file: Path, group: list[TensorInfo]) -> Iterator[tuple[TensorInfo, Tensor]]:
    """Load tensors of one file, memory-mapped. The file stays mapped while any of these tensors exists.

    A tensor with a recipe is computed from its sources, which are unmapped afterwards.
    """
    for info in group:
        if info.recipe:
            tensor = info.recipe.make(*map(read_tensor, info.recipe.sources))
            yield info, tensor[info.slices].contiguous() if info.slices else tensor
    group = [info for info in group if info.recipe is None]
    if not group:
        return
    if is_gguf(file):
        for info, tensor in zip(group, read_stored(file, [info.name for info in group]), strict=True):
            yield info, tensor[info.slices].contiguous() if info.slices else tensor
    elif file.suffix == ".safetensors":
        with open_safetensors(file) as content:
            for info in group:
                if info.slices:
                    yield info, content.get_slice(info.name)[info.slices].contiguous()
                else:
                    yield info, content.get_tensor(info.name)
    else:
        content = read_bin(file)
        for info in group:
            tensor = content.pop(info.name)
            yield info, tensor[info.slices].contiguous() if info.slices else tensor


def read_tensor(info: TensorInfo) -> Tensor:
    """Load one tensor, memory-mapped."""
    ((_, tensor),) = read_group(info.file, [info])
    return tensor


def checkpoint_name(name: str) -> str:
    """The name of a parameter in a checkpoint: the model's name with the prefix `model.`, except for lm_head."""
    return name if name.startswith("lm_head.") else f"model.{name}"
