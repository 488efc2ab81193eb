"""The machine and the library versions: what results depend on besides the model, and what memory there is."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

CGROUP = Path("/sys/fs/cgroup")
FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_tile")


def describe_environment() -> dict[str, Any]:
    """Versions and CPU features. Two machines that share them give bit-identical results."""
    info = cpu_info()
    flags = set(info.get("flags", info.get("Features", "")).split())
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": package_version("transformers"),
        "cpu": info.get("model name", platform.processor() or platform.machine()),
        "cpu_family_model": f"{info.get('cpu family', '?')}/{info.get('model', '?')}",
        "features": [name for name in FEATURES if name in flags],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "blas": "mkl" if torch.backends.mkl.is_available() else "other",
        "onednn": torch.backends.mkldnn.is_available(),
    }


def cpu_info() -> dict[str, str]:
    """The entries of /proc/cpuinfo for the first core; empty where that file does not exist."""
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def package_version(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


BITS_DEPEND_ON = ("torch", "transformers", "cpu", "cpu_family_model", "features", "capability", "blas", "onednn")


def environment_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A sentence for each difference between two environments that may change bits."""
    return [f"{key} was {then.get(key)}, is {now.get(key)}" for key in BITS_DEPEND_ON if then.get(key) != now.get(key)]


def user_cache_folder() -> Path | None:
    """Where this package keeps what another start can use (XDG_CACHE_HOME, or ~/.cache); None without a home.

    A relative XDG_CACHE_HOME is ignored, as its specification asks; it would be another folder in each one.
    """
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (given if given.is_absolute() else Path.home() / ".cache") / "llama-jp"
    except RuntimeError:  # no home
        return None


def peak_memory() -> int:
    """The peak resident memory of this process in bytes. Pages read from memory-mapped files count as well."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take, within the limit of its cgroup; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    found = [value for value in (system_memory(), cgroup_memory()) if value is not None]
    return min(found, default=None)


def system_memory(file: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux can give to a process without swapping."""
    if not file.is_file():
        return None
    values = dict(line.split(":", 1) for line in file.read_text(encoding="ascii").splitlines())
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def cgroup_memory(folder: Path = CGROUP) -> int | None:
    """The limit of the cgroup minus what is in use, both versions. Cached files count as free."""
    for limit_name, usage_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit_file, usage_file = folder / limit_name, folder / usage_name
        if limit_file.is_file() and usage_file.is_file():
            limit = limit_file.read_text(encoding="ascii").strip()
            if not limit.isdigit():  # "max"
                return None
            statistics = (usage_file.parent / "memory.stat").read_text(encoding="ascii")
            cached = sum(
                int(line.split()[1])
                for line in statistics.splitlines()
                if line.startswith(("inactive_file ", "active_file "))
            )
            return int(limit) - int(usage_file.read_text(encoding="ascii")) + cached
    return None
