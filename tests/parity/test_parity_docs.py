"""docs/parity.md and its Japanese version: the commands and the Python examples run as typed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers.compared_models import parity
from helpers.gguf_files import write_gguf

from llama_jp.checkpoint.hub import demo_folder

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("parity.md", "parity.ja.md")


def commands(page: str) -> list[list[str]]:
    """The arguments of every command of a page."""
    lines = re.findall(r"^    llama-jp parity (.*)", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_both_languages_show_the_same_commands():
    assert len(commands(PAGES[0])) == 8 and commands(PAGES[0]) == commands(PAGES[1])


@pytest.mark.parametrize("number", range(8))
def test_a_documented_command_runs(number, tmp_path, monkeypatch, capsys):
    """Guards against an option that has another name now."""
    arguments = commands(PAGES[0])[number]
    for checkout in ("change", "base"):
        (tmp_path / checkout).mkdir()
        (tmp_path / checkout / "llama_jp").symlink_to(DOCS.parent / "llama_jp")
    (tmp_path / "change" / "my_llama.py").write_text(python_blocks(PAGES[0])[0])
    monkeypatch.chdir(tmp_path / "change")
    monkeypatch.setattr(sys, "path", [*sys.path])
    if "--fullsize" in arguments:
        arguments[arguments.index("7b")] = "tiny"
    status = parity(*arguments)
    said = capsys.readouterr()
    assert status in (0, 1), said.err
    if "--expect" in arguments:
        assert status == 0 and "in 1 operation of" in said.out
    elif "my_llama:make" in arguments:
        assert "eps 0.001" in said.out
    elif "checkout:." in arguments:
        assert status == 0 and said.out.count("equal") >= 4
    sys.modules.pop("my_llama", None)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_example_runs(page, capsys):
    exec(python_blocks(page)[1], {})
    assert capsys.readouterr().out.splitlines()[0] == "bug layers.2.post_attention_layernorm"


@pytest.mark.parametrize("page", PAGES)
def test_the_example_of_ctranslate2_runs(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed")
    (tmp_path / "my_ctranslate2.py").write_text(python_blocks(page)[2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    given = ["--checkpoint", "demo", "--against", "demo", "--against-dtype", "float32", "--max-kl", "1e-9"]
    assert parity("--model", "my_ctranslate2:make", *given) == 0
    assert "rounding (passes)" in capsys.readouterr().out
    sys.modules.pop("my_ctranslate2", None)


@pytest.mark.parametrize("page", PAGES)
def test_the_example_of_llama_cpps_logits_runs(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; the extra `peers` has it")
    write_gguf(demo_folder(), tmp_path / "model-F32.gguf", tokenizer=True)
    (tmp_path / "my_llamacpp.py").write_text(python_blocks(page)[3])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    given = ["--checkpoint", "demo", "--against", "demo", "--against-dtype", "float32", "--max-kl", "1e-9"]
    assert parity("--model", "my_llamacpp:make", *given) == 0
    assert "rounding (passes)" in capsys.readouterr().out
    sys.modules.pop("my_llamacpp", None)
