"""One way to name a model, and positional arguments on both sides of the flags."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llama_jp.cli import COMMANDS, main, make_parser
from llama_jp.cli.arguments import take_model_as_source


def parse(*words: str):
    return make_parser([words[0]]).parse_args(words)


@pytest.mark.parametrize("command", ["info", "chat", "evaluate", "bench"])
def test_a_model_is_named_in_two_ways(command):
    assert parse(command).model == "demo"
    assert parse(command, "7b").model == parse(command, "--model", "7b").model == "7b"
    flag = "--no-history" if command == "chat" else "--json"
    assert parse(command, flag, "7b").model == parse(command, "7b", flag).model == "7b"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "tokenize"])
def test_every_command_takes_the_flag(command):
    """`tokenize` takes it several times, see test_tokenize.py."""
    words = {"finetune": ["data.jsonl", "out"], "inspect": ["--report", "page.html"]}.get(command, [])
    assert parse(command, *words, "--model", "7b").model == "7b"


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_the_source_is_named_in_two_ways(command):
    for words in (["7b", "out"], ["--model", "7b", "out"], ["out", "--model", "7b"], ["7b", "--revision", "x", "out"]):
        args = parse(command, *words)
        take_model_as_source(args)
        assert (args.source, args.target) == ("7b", Path("out")), words


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_tab_completion_knows_commands_and_flags(shell, capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", shell])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and "quantize" in out and "max-new-tokens" in out


@pytest.mark.skipif(shutil.which("bash") is None, reason="completes in bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("llama-jp gen", ["generate"]),
        ("llama-jp generate --temp", ["--temperature"]),
        ("llama-jp generate --dtype bf", ["bfloat16"]),
        ("llama-jp info --j", ["--json"]),
        ("llama-jp quantize --bits ", ["8", "4"]),
    ],
)
def test_bash_completes_what_is_typed(tmp_path, capsys, words, completed):
    """Guards against a script that bash takes and that completes nothing."""
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    (tmp_path / "completion").write_text(capsys.readouterr().out, encoding="utf-8")
    code = (
        'source "$1"; read -r _ _ function _ < <(complete -p llama-jp | sed "s/.* -F/x -F/"); shift\n'
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); "$function"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    arguments = ["bash", "-c", code, "bash", str(tmp_path / "completion"), *words.split(" ")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.split() == completed


def test_tab_completion_names_what_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", "bash"])
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "llama-jp: --print-completion needs shtab: pip install 'llama-jp[chat]'\n"
