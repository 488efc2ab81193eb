"""Stored tensors: list them without reading, read them memory-mapped."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from .hub import WEIGHT_FILES
from .json_files import read_json


class TensorInfo(NamedTuple):
    """A tensor in a file, known by its outside."""

    file: Path
    name: str  # as the file has it
    shape: tuple[int, ...]
    dtype: torch.dtype
    part: tuple[slice, ...] = ()  # what to read of it: a slice for each of the first dimensions

    @property
    def nbytes(self) -> int:
        sizes = list(self.shape)
        for i, part in enumerate(self.part):
            sizes[i] = len(range(*part.indices(sizes[i])))
        return self.dtype.itemsize * torch.Size(sizes).numel()

    @property
    def in_one_piece(self) -> bool:
        """Is what to read one run of bytes in the file?"""
        return len(self.part) <= 1


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in the index's order."""
    for name in WEIGHT_FILES:
        file = folder / name
        if not file.is_file():
            continue
        if not name.endswith(".index.json"):
            return [file]
        shards = read_json(file).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{file} has no weight_map")
        shards = list(dict.fromkeys(shards.values()))
        for shard in shards:
            if Path(shard).name != shard:
                raise ValueError(f"{file} names {shard!r}, which is not a file beside it")
            if not (folder / shard).is_file():
                raise FileNotFoundError(f"{file.name} names {shard}, which is not in {folder}")
        return [folder / shard for shard in shards]
    raise FileNotFoundError(f"there are no weights in {folder}: none of {', '.join(WEIGHT_FILES)}")


def find_tensors(folder: Path) -> dict[str, TensorInfo]:
    """Every stored tensor under the name that the model has for it, without reading any.

    Passed over: `rotary_emb.inv_freq`, which old checkpoints carry and `plain_rope` computes.
    """
    found: dict[str, TensorInfo] = {}
    for file in weight_files(folder):
        for stored in list_tensors(file):
            name = stored.name.removeprefix("model.")
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name in found:
                raise ValueError(f"{stored.name} is stored twice, in {found[name].file.name} and in {file.name}")
            found[name] = stored
    return found


def list_tensors(file: Path) -> Iterator[TensorInfo]:
    if file.suffix == ".safetensors":
        with open_safetensors(file) as content:
            for name in content.keys():  # noqa: SIM118 (not a dict)
                part = content.get_slice(name)
                yield TensorInfo(file, name, tuple(part.get_shape()), safetensors_dtype(part.get_dtype(), file, name))
    else:
        for name, tensor in read_bin(file, "meta").items():
            yield TensorInfo(file, name, tuple(tensor.shape), tensor.dtype)


def safetensors_dtype(name: str, file: Path, tensor: str) -> torch.dtype:
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    dtypes |= {"I8": torch.int8, "U8": torch.uint8}  # quantised weights
    if name not in dtypes:
        raise ValueError(f"{tensor} in {file} is stored as {name}; supported are {', '.join(dtypes)}")
    return dtypes[name]


def open_safetensors(file: Path):
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or incomplete ({file.stat().st_size:,} bytes): {error}") from error


def read_bin(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a `.bin` file, mapped. Its pickle may build tensors and nothing else (`weights_only=True`)."""
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} is no PyTorch zip file ({file.stat().st_size:,} bytes): incomplete, damaged, or older than "
            "torch 1.6; download it again, or save it anew with torch.save"
        )
    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)", str(error))
        what = f"to run {wanted[1]}" if wanted else "for more than tensors"
        raise ValueError(f"{file} is refused: its pickle asks {what} when it is read, and only tensors are") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{file} is damaged or incomplete ({file.stat().st_size:,} bytes): {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} does not hold tensors by name; is it a training checkpoint rather than a model?")
    return content


def read_tensors(stored: dict[str, TensorInfo], dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
    """All tensors in the wanted dtype (None: as stored) on the wanted device, with a progress bar in bytes.

    Mapped pages count as resident memory until the file is unmapped. So where tensors are converted or moved, the
    largest go first, and the file is opened anew for each group of them.
    """
    names = {id(tensor): name for name, tensor in stored.items()}
    largest_first = sorted(stored.values(), key=lambda tensor: -tensor.nbytes)
    tensors = {}
    total = sum(tensor.nbytes for tensor in stored.values())
    with tqdm(desc="loading", total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for file, group in group_tensors(largest_first, dtype, device):
            for one, tensor in read_group(file, group):
                tensors[names[id(one)]] = tensor.to(device=device, dtype=dtype)
                bar.update(one.nbytes)
    return tensors


def group_tensors(
    tensors: Iterable[TensorInfo], dtype: torch.dtype | None, device: torch.device, most_bytes: int = 32 << 20
) -> Iterator[tuple[Path, list[TensorInfo]]]:
    """Which tensors to read at one opening of a file: all that stay mapped, or about `most_bytes` of the others."""
    groups: dict[tuple[Path, bool], list[TensorInfo]] = {}
    for tensor in tensors:
        stays_mapped = dtype in (None, tensor.dtype) and device.type == "cpu" and tensor.in_one_piece
        group = groups.setdefault((tensor.file, stays_mapped), [])
        group.append(tensor)
        if not stays_mapped and sum(one.nbytes for one in group) >= most_bytes:
            yield tensor.file, groups.pop((tensor.file, stays_mapped))
    for (file, _), group in groups.items():
        yield file, group


def read_group(file: Path, group: list[TensorInfo]) -> Iterator[tuple[TensorInfo, Tensor]]:
    """Mapped tensors of one file, or the parts wanted. The mapping lives as long as a tensor of it."""
    if file.suffix == ".safetensors":
        with open_safetensors(file) as content:
            for stored in group:
                if stored.part:
                    yield stored, content.get_slice(stored.name)[stored.part].contiguous()
                else:
                    yield stored, content.get_tensor(stored.name)
    else:
        content = read_bin(file)
        for stored in group:
            tensor = content.pop(stored.name)
            yield stored, tensor[stored.part].contiguous() if stored.part else tensor


def file_name(name: str) -> str:
    """The checkpoint's name of a parameter: ours, with `model.` before everything but the head."""
    return name if name.startswith("lm_head.") else f"model.{name}"
