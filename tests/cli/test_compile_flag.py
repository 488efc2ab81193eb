"""--compile: the same answer by compiled steps, a line before they are compiled, and a machine without a compiler."""

from __future__ import annotations

import json

import pytest
import torch

from llama_jp.cli import main
from llama_jp.cli.language import speaking, translate

WORDS = ("--greedy", "--max-new-tokens", "4", "--dtype", "float32", "--device", "cpu")


@pytest.fixture
def in_python(monkeypatch):
    """Run compiled graphs in Python, since C++ takes seconds for each."""
    monkeypatch.setattr(torch._inductor, "compile", lambda graph, examples: graph.forward)


def test_generate(in_python, capsys):
    words = ["generate", "昔々", "--model", "demo", "--json", *WORDS]
    assert main(words) == 0
    plain = capsys.readouterr()
    assert main([*words, "--compile"]) == 0
    compiled = capsys.readouterr()
    line = "compiling the decoding step (batch size 1, 128 positions)"
    assert line in compiled.err.splitlines() and line not in plain.err
    assert json.loads(compiled.out)["ids"] == json.loads(plain.out)["ids"]


def test_compile_replaces_the_automatic_level(in_python, monkeypatch, capsys):
    """Guards against packed weights, which the compiler cannot trace."""
    monkeypatch.setattr("llama_jp.cli.models.pays", lambda *_: pytest.fail("--optimize auto is in force"))
    assert main(["generate", "昔々", "--model", "demo", *WORDS, "--optimize", "auto", "--compile"]) == 0


def test_bench_measures_compiled_steps(in_python, capsys):
    small = ("--prompt", "4", "--batch", "1", "--steps", "2", "--runs", "1")
    assert main(["bench", "demo", "--dtype", "float32", "--device", "cpu", *small, "--compile", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["compiled"]["decode"].keys() == result["as_loaded"]["decode"].keys()


def test_a_machine_without_a_compiler(monkeypatch, capsys):
    def fail(graph, examples):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch._inductor, "compile", fail)
    assert main(["generate", "昔々", "--model", "demo", *WORDS, "--compile"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the decoding step cannot be compiled on this machine: " in error and "install a C++ compiler" in error
    with speaking("ja"):
        assert "コンパイルできません" in translate(error.removeprefix("llama-jp: "))
