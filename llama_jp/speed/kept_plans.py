"""What `optimize` chose on this machine, kept in the user's cache folder: a second start only packs weights.

One file, `kernel-plans.json`, holds the choices of each machine on which the folder is used. A choice belongs to one
shape of layer, one dtype, level and number of rows, or to one shape of attention. It is taken on the same processor,
with the same versions, number of threads and list of kernels only; see `describe_machine`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..environment import BITS_DEPEND_ON, describe_environment, package_version, user_cache_folder
from ..linear.kernels import KERNELS
from ..linear.programs import program_folder
from ..text_files import parse_json, read_text_file, write_whole
from ..version import __version__

FORMAT = 2  # file format version; increment on incompatible changes

FILE_NAME = "kernel-plans.json"


@dataclass(frozen=True)
class KeptChoice:
    """The kernel for layers of one shape, with the times measured when it was chosen."""

    kernel: str | None  # its name; None: the layers as they are
    speedup: float  # of the product at the rows of a step
    speedup_prompt: float  # of the product at the rows of a prompt
    saved_seconds: float  # by one product, in each decoding step
    pack_seconds: float  # for one product

    @classmethod
    def from_json(cls, raw: Any) -> KeptChoice:
        """Raises ValueError for an entry of another form."""
        numbers = [field.name for field in dataclasses.fields(cls) if field.name != "kernel"]
        if not isinstance(raw, dict) or raw.keys() != {"kernel", *numbers}:
            raise ValueError("a choice has other entries")
        if not isinstance(raw["kernel"], str | None):
            raise ValueError("a kernel is no name")
        if not all(isinstance(raw[name], int | float) and math.isfinite(raw[name]) for name in numbers):
            raise ValueError("a time is no number")
        return cls(**raw)


@dataclass(frozen=True)
class KeptAttention:
    """Whether the attention of one query has a faster kernel, with the speedups measured when it was chosen."""

    kernel: str | None  # its name; None: the attention as it is
    speedups: dict[int, float]  # by the number of keys

    @classmethod
    def from_json(cls, raw: Any) -> KeptAttention:
        """Raises ValueError for an entry of another form."""
        if not isinstance(raw, dict) or raw.keys() != {"kernel", "speedups"} or not isinstance(raw["speedups"], dict):
            raise ValueError("a choice of attention has other entries")
        if not isinstance(raw["kernel"], str | None):
            raise ValueError("a kernel is no name")
        if not all(isinstance(speed, int | float) and math.isfinite(speed) for speed in raw["speedups"].values()):
            raise ValueError("a speedup is no number")
        return cls(raw["kernel"], {int(keys): speed for keys, speed in raw["speedups"].items()})


Kept = KeptChoice | KeptAttention


def kept_from_json(raw: Any) -> Kept:
    """Raises ValueError for an entry of another form."""
    return KeptAttention.from_json(raw) if isinstance(raw, dict) and "speedups" in raw else KeptChoice.from_json(raw)


def plan_file() -> Path | None:
    """The file in the user's cache folder; None for a user without a home."""
    folder = user_cache_folder()
    return None if folder is None else folder / FILE_NAME


def describe_machine() -> str:
    """Everything besides the layer that decides which kernel is the fastest and right, as one JSON text."""
    environment = describe_environment()
    about = {name: environment[name] for name in BITS_DEPEND_ON if name != "transformers"}
    about |= {
        "llama_jp": __version__,
        "zentorch": package_version("zentorch"),
        "threads": torch.get_num_threads(),
        "quantized_engine": torch.backends.quantized.engine,
        "kernels": [kernel.name for kernel in KERNELS],
    }
    return json.dumps(about, sort_keys=True)


class KeptPlans:
    """The choices of this machine. `layers` and `attention` return one by its key; `keep` new ones, then `save`.

    A file that is damaged is ignored with a warning, and the next `save` replaces it. A folder that cannot be read or
    written is no error: nothing is kept then.
    """

    def __init__(self) -> None:
        self.machine = describe_machine()
        self.choices = read_plans().get(self.machine, {})
        self.new: dict[str, Kept] = {}

    def layers(self, key: str) -> KeptChoice | None:
        """The choice for layers, or None."""
        kept = self.choices.get(key)
        return kept if isinstance(kept, KeptChoice) else None

    def attention(self, key: str) -> KeptAttention | None:
        """The choice for the attention, or None."""
        kept = self.choices.get(key)
        return kept if isinstance(kept, KeptAttention) else None

    def keep(self, key: str, choice: Kept) -> None:
        self.choices[key] = self.new[key] = choice

    def save(self) -> None:
        """Add the new choices to the file, beside those that other processes have added since."""
        if not self.new or (file := plan_file()) is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first reading has warned
            machines = read_plans()
        machines[self.machine] = machines.get(self.machine, {}) | self.new
        content = {
            machine: {key: dataclasses.asdict(choice) for key, choice in choices.items()}
            for machine, choices in machines.items()
        }
        text = json.dumps({"format": FORMAT, "machines": content}, indent=1, ensure_ascii=False) + "\n"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, text)
        except OSError:
            return  # such as a read-only folder or a full disk: the next start measures again
        self.new = {}


def read_plans() -> dict[str, dict[str, Kept]]:
    """The choices in the file, by machine and key. Empty without a file, and with a warning for a damaged one."""
    file = plan_file()
    try:
        if file is None or not file.is_file():
            return {}
        raw = parse_json(read_text_file(file))
        if isinstance(raw, dict) and raw.get("format") == 1:  # written before the choice of the attention was kept
            return {}
        if not isinstance(raw, dict) or raw.get("format") != FORMAT or not isinstance(raw.get("machines"), dict):
            raise ValueError(f"it is no object of format {FORMAT} with machines")
        return {
            machine: {key: kept_from_json(choice) for key, choice in dict(choices).items()}
            for machine, choices in raw["machines"].items()
        }
    except OSError:  # such as a folder without permission to read
        return {}
    except (ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"{file} is damaged and ignored, so kernels are measured again: {reason}", stacklevel=2)
        return {}


def forget_plans() -> list[Path]:
    """Remove the choices and the compiled programs. Returns what was removed.

    Raises OSError when something cannot be removed.
    """
    file, folder = plan_file(), program_folder()
    removed = []
    if file is not None and file.is_file():
        file.unlink()
        removed.append(file)
    if folder is not None and folder.is_dir():
        shutil.rmtree(folder)
        removed.append(folder)
    return removed
