"""The fixtures of the parity tests. Without transformers, the reference, they are all skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.compared_models import CONFIG

from llama_jp.checkpoint.random_checkpoint import write_random


@pytest.fixture(autouse=True, scope="session")
def transformers():
    return pytest.importorskip("transformers", reason="the reference is not installed")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with random float32 weights."""
    return write_random(tmp_path_factory.mktemp("parity"), CONFIG, torch.float32)
