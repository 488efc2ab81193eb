"""Fixtures that several test files share."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # the suite needs no network; read when the hub is imported

from pathlib import Path

import pytest
import torch
from helpers.reference import SEED, SMALL, save_random

# torch.compile keeps what it compiled, and takes it from there for another CPU as well, where it is wrong or crashes
COMPILED = f"torchinductor_{getattr(os, 'getuid', int)()}_{torch.backends.cpu.get_cpu_capability()}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / COMPILED.replace(" ", "_")))


def pytest_report_header() -> str:
    return f"random seed {SEED} (LLAMA_JP_SEED={SEED} repeats this run), torch {torch.__version__}"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config) -> None:
    if config.option.hypothesis_seed is None:  # hypothesis would draw one of its own, which nothing repeats
        config.option.hypothesis_seed = SEED


@pytest.fixture(autouse=True)
def threads():
    """One thread unless a test asks for more: small models are no faster with two, and slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def numbers():
    """What a test draws without a generator does not depend on the tests before it."""
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
