"""The root of the repository holds what belongs to the project, and nothing that a command has written there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {".ci", ".github", "benchmarks", "docs", "examples", "llama_jp", "tests", "weights"}
KINDS = {"", ".md", ".toml", ".txt", ".yml", ".yaml"}  # a page, a setting, or a name without an ending


def tracked(*options: str) -> list[str]:
    """The tracked files of the repository, as `git ls-files` with these options names them."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no clone, or git is not installed")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def test_no_tracked_file_is_one_to_ignore():
    """Guards against `git add -A` after the tour or an example has written its files into the clone."""
    assert tracked("--cached", "--ignored", "--exclude-standard") == []


def test_the_root_holds_pages_and_settings_only():
    """Guards against data, weights, reports and caches of tools that .gitignore does not name yet."""
    names = tracked()
    files = [Path(name) for name in names if "/" not in name]
    assert len(files) > 5
    assert [file.name for file in files if file.suffix not in KINDS] == []
    assert {name.split("/")[0] for name in names if "/" in name} == FOLDERS
