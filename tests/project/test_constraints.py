"""The versions that the tests run with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers


def test_torch_and_transformers_are_the_pinned_versions():
    """Guards against measuring bit equality with a pair of versions that constraints.txt does not name."""
    constraints = Path(__file__).parents[2] / "constraints.txt"
    pinned = dict(line.split("==") for line in constraints.read_text(encoding="utf-8").splitlines() if "==" in line)
    if transformers.__version__ != pinned["transformers"]:
        pytest.skip(f"transformers {transformers.__version__} is not the pinned {pinned['transformers']}")
    assert torch.__version__.startswith(pinned["torch"])
