"""The notebooks: their cells run, print what is stored, and say the same in both languages."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(file.name for file in FOLDER.glob("*.ipynb"))


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_notebooks", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_stored_outputs_are_what_the_cells_print(runner, name):
    """Guards against a story or a number of an earlier model. `python examples/notebooks/run.py` stores new ones."""
    stored = read(name)
    assert runner.changes(stored, runner.run(copy.deepcopy(stored))) == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_has_the_form_that_jupyter_and_colab_open(name):
    """The rules of nbformat 4.5 for the cells that are here."""
    notebook = read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", each) for each in ids)
    for cell in notebook["cells"]:
        common = {"cell_type", "id", "metadata", "source"}
        code = cell["cell_type"] == "code"
        assert cell.keys() == (common | {"execution_count", "outputs"} if code else common)
        for output in cell.get("outputs", []):
            assert output.keys() == {"name", "output_type", "text"} and output["output_type"] == "stream"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_text_is_in_japanese_and_in_english(name):
    for cell in read(name)["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            japanese = [part for part in text.split("\n\n") if re.search("[ぁ-ん]", part)]
            english = [part for part in text.split("\n\n") if not re.search("[ぁ-ん]", part)]
            assert japanese and any(len(part.split()) > 3 for part in english), text


def test_the_first_code_cell_installs_on_colab_only(runner, monkeypatch):
    called = []
    monkeypatch.setattr("builtins.input", lambda question: "https://example.org/llama_jp")  # without a known address
    monkeypatch.setattr("subprocess.run", lambda words, check: called.append(words))
    for name in NOTEBOOKS:
        cell = next(cell for cell in read(name)["cells"] if cell["cell_type"] == "code")
        source = "".join(cell["source"])
        assert source == runner.INSTALL.format(address=runner.address())
        exec(source, {})
        assert called == []
        monkeypatch.setitem(sys.modules, "google.colab", runner)
        exec(source, {})
        assert called.pop()[-1] == f"llama-jp[train] @ git+{eval(runner.address())}"
        monkeypatch.delitem(sys.modules, "google.colab")


def test_a_change_is_named_and_a_last_digit_is_none(runner):
    stored = read(NOTEBOOKS[0])

    def changed(old: str, new: str) -> list[str]:
        return runner.changes(stored, json.loads(json.dumps(stored, ensure_ascii=False).replace(old, new)))

    assert changed("22.6%", "22.7%") == []
    assert changed("22.6%", "22.9%") == ["cell 01-08: -  22.6%  「", "cell 01-08: +  22.9%  「"]
    assert [line[:13] for line in changed("6 layers", "7 layers")] == ["cell 01-02: -", "cell 01-02: +"]


def test_five_notebooks_are_listed_for_the_reader():
    listed = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert len(NOTEBOOKS) == 5 and all(f"[{name}](notebooks/{name})" in listed for name in NOTEBOOKS)
