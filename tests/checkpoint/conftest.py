"""Fixtures of the checkpoint tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.reference import publish


@pytest.fixture
def copy(small, tmp_path) -> Path:
    """A copy of the small checkpoint that a test may damage."""
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture
def published(small, tmp_path) -> Path:
    """The small checkpoint in the file format of ELYZA's checkpoints: two `.bin` shards with an index."""
    return publish(small, tmp_path / "published")
