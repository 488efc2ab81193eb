"""The command line as a whole: results on standard output, the rest on standard error, one line for each failure."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import warnings

import pytest

from llama_jp.cli import COMMANDS, main, make_parser


@pytest.mark.parametrize("words", [[], ["fly"], ["generate", "犬", "--max-new-tokens", "0"], ["convert", "a"]])
def test_wrong_usage_is_status_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2 and "usage: llama-jp" in capsys.readouterr().err


def test_the_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    assert all(f"{command} {line}" in out for command, line in COMMANDS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    out = capsys.readouterr().out
    line = COMMANDS[command]
    assert stopped.value.code == 0 and f"example:\n  llama-jp {command}" in out
    assert f" {line[0].upper()}{line[1:]}. " in " ".join(out.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_can_be_parsed(command):
    module = importlib.import_module(f"llama_jp.cli.{command}")
    words = shlex.split(module.EXAMPLE)[1:]
    assert make_parser().parse_args(words).run == make_parser([command]).parse_args(words).run == module.run


@pytest.mark.parametrize(
    "words", ["", "fly", "--help", "--version", "tokenize --help", "tokenize 犬", "info --help", "info demo"]
)
def test_starts_without_torch(words):
    """Guards against an import at module level that makes the help, `tokenize` and `info` wait seconds for torch."""
    code = (
        "import contextlib, sys\nfrom llama_jp.cli import main\n"
        "with contextlib.suppress(SystemExit):\n    main(sys.argv[1:])\n"
        "print('torch imported:', 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=os.environ | {"PYTHONUTF8": "1"}
    )
    assert done.stdout.endswith("torch imported: False\n"), done.stdout + done.stderr


def test_a_command_imports_its_own_module_only():
    """Guards against a failed import in one command that breaks the others."""
    code = "import sys; from llama_jp.cli import main; main(['tokenize', '犬']); print(*sys.modules)"
    utf8 = os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, env=utf8)
    imported = set(done.stdout.splitlines()[-1].split())
    assert {name for name in COMMANDS if f"llama_jp.cli.{name}" in imported} == {"tokenize"}


def test_a_warning_takes_one_line_and_the_hook_is_put_back(run, monkeypatch):
    """Guards against a process that prints its own warnings in this form after it has called `main`."""

    def warn(args):
        warnings.warn("careful", stacklevel=1)
        return 0

    def warn_and_fail(args):
        warn(args)
        raise ValueError("failed")

    before = warnings.showwarning
    monkeypatch.setattr("llama_jp.cli.info.run", warn)
    assert run("info") == (0, "", "llama-jp: careful\n")
    assert warnings.showwarning is before
    monkeypatch.setattr("llama_jp.cli.info.run", warn_and_fail)
    assert run("info") == (1, "", "llama-jp: careful\nllama-jp: failed\n")
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generate", ""], "the prompt is empty"),
        (
            ["generate", "犬", "--greedy", "--seed", "1"],
            "--greedy does not sample, so it cannot be combined with --seed",
        ),
        (["generate", "犬", "--raw", "--system", "x"], "--system is part of the instruction template"),
        (["generate", "犬", "--temperature", "0"], "temperature has to be a number above 0, not 0.0; for greedy"),
        (["generate", "犬", "--max-new-tokens", "600"], "but the context holds 512; ask for at most"),
        (["generate", "犬" * 600], "tokens, but the context holds 512"),
        (["generate", "犬", "--device", "cuda:7"], "the device 'cuda:7' cannot be used: "),
        (["generate", "犬", "--device", "moon"], "the device 'moon' cannot be used: "),
    ],
)
def test_an_error_takes_one_line(run, words, sentence):
    status, out, err = run(*words)
    assert status == 1 and out == ""
    assert err.startswith("llama-jp: ") and err.count("\n") == 1 and re.search(sentence, err), err


def test_a_missing_model_takes_one_line(run):
    status, out, err = run("generate", "犬", model="nowhere")
    assert (status, out) == (1, "") and err.startswith("llama-jp: nowhere is no folder") and err.count("\n") == 1


def test_interrupted_is_status_130(run, monkeypatch):
    monkeypatch.setattr("llama_jp.cli.generate.load_model_of", lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("generate", "犬")[0] == 130


def test_a_pipe_that_closes_early(folder):
    """`llama-jp … | head -c 1` ends without an error."""
    words = [sys.executable, "-m", "llama_jp", "tokenize", "--model", str(folder), "--file", __file__, "--json"]
    command, utf8 = shlex.join(words) + " | head -c 1", os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=utf8)
    assert done.stdout == "{" and done.stderr == ""
