"""Fixtures that several test files share."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile

os.environ["LLAMA_JP_LANG"] = "en"  # the suite runs in every locale
os.environ["HF_HUB_OFFLINE"] = "1"  # the suite needs no network; read when the hub is imported
# A thread of torch spins while it waits for the other, and on cores shared by two workers it waits often.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from pathlib import Path

import pytest
import torch
from helpers.quantized import INT4, SHAPE
from helpers.reference import SEED, SMALL, save_random

from llama_jp.quantization import quantize

os.environ.setdefault("HF_HOME", str(Path.home() / ".cache" / "huggingface"))  # else it follows XDG_CACHE_HOME

# torch.compile keeps what it compiled, and takes it from there for another CPU as well, where it is wrong or crashes
COMPILED = f"torchinductor_{getattr(os, 'getuid', int)()}_{torch.backends.cpu.get_cpu_capability()}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / COMPILED.replace(" ", "_")))

CACHE_FOLDERS = itertools.count()


def pytest_report_header() -> str:
    return f"random seed {SEED} (LLAMA_JP_SEED={SEED} repeats this run), torch {torch.__version__}"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config) -> None:
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # every other promise is about the CPU; read at the first use of a GPU
    if config.option.hypothesis_seed is None:  # hypothesis would choose its own, which nothing repeats
        config.option.hypothesis_seed = SEED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The processes of `pytest -n auto`: one for each core. Each needs up to 4 GB of memory, so there are at most 8."""
    return min(os.cpu_count() or 1, 8)


@pytest.fixture(autouse=True)
def threads():
    """One thread unless a test sets more: small models are no faster with two, and slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch) -> Path:
    """A cache folder for each test: none touches the user's, and no choice of a kernel reaches another test."""
    folder = tmp_path_factory.getbasetemp() / f"cache-{next(CACHE_FOLDERS)}"  # made by what writes to it
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def numbers():
    """Random numbers without a generator do not depend on earlier tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A small random checkpoint with grouped heads, as transformers saves it."""
    return save_random(tmp_path_factory.mktemp("small"), seed=1, **SMALL)


@pytest.fixture(scope="session")
def small_bf16(tmp_path_factory) -> Path:
    """The same shape as multi-head attention in bfloat16."""
    config = SMALL | {"num_key_value_heads": 6}
    return save_random(tmp_path_factory.mktemp("small_bf16"), seed=2, dtype=torch.bfloat16, **config)


@pytest.fixture(scope="session")
def quantizable(tmp_path_factory) -> Path:
    """A small random checkpoint with biases and grouped heads, whose sizes int4 groups of 32 divide."""
    return save_random(tmp_path_factory.mktemp("quantizable"), 31, attention_bias=True, **SHAPE)


@pytest.fixture(scope="session")
def quantized_demo(tmp_path_factory) -> dict[str, Path]:
    """The demo as int8, and as int4 with both methods, each with its certificate."""
    folder = tmp_path_factory.mktemp("quantized_demo")
    quantize("demo", folder / "int8")
    quantize("demo", folder / "rtn", **INT4)
    quantize("demo", folder / "gptq", **INT4, method="gptq")
    return {name: folder / name for name in ("int8", "rtn", "gptq")}


@pytest.fixture
def quantized_copy(quantized_demo, tmp_path) -> Path:
    """A copy of the demo as int4 (rtn), whose files a test may change."""
    return shutil.copytree(quantized_demo["rtn"], tmp_path / "copy")


@pytest.fixture(scope="session")
def biased(tmp_path_factory) -> Path:
    """The small checkpoint with biases in the attention."""
    return save_random(tmp_path_factory.mktemp("biased"), seed=6, attention_bias=True, **SMALL)
