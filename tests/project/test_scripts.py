"""The scripts outside the package import names that the package has; most of them run for too long to be tested."""

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(file for folder in ("benchmarks", "docs", "examples") for file in (ROOT / folder).rglob("*.py"))


def imported_names(file):
    """(module, name) of each `from llama_jp… import …`, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llama_jp":
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_imported_names_exist(file):
    for module, name in imported_names(file):
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")


def test_scripts_are_found():
    assert "compare.py" in {file.name for file in SCRIPTS}
