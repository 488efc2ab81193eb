"""The machine and library versions that results depend on besides the model."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

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
