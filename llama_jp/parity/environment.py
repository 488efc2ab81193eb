"""What bits depend on besides the model: versions, the CPU, and how torch uses it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_bf16", "amx_tile")


def environment() -> dict:
    """The settings that two machines must share to give the same bytes."""
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
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return {}
    first = file.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


BITS_DEPEND_ON = ("torch", "transformers", "cpu", "cpu_family_model", "features", "capability", "blas", "onednn")


def differences(then: dict, now: dict) -> list[str]:
    """In words, what is not as it was and may change the bits."""
    return [f"{key} was {then.get(key)}, is {now.get(key)}" for key in BITS_DEPEND_ON if then.get(key) != now.get(key)]
