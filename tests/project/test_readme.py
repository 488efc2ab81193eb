"""What the READMEs tell people to type works, and the two languages tell them the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from llama_jp.cli import main, make_parser

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.ja.md"]


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / name).read_text(encoding="utf-8"), re.M | re.S)


def commands(name: str) -> list[str]:
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    return [line.split("   #")[0] for line in lines if line.startswith("llama-jp ")]


@pytest.mark.parametrize("number", range(len(blocks("README.md", "python"))))
@pytest.mark.parametrize("name", READMES)
def test_python_examples_run(name, number):
    exec(compile(blocks(name, "python")[number], f"{name}, example {number}", "exec"), {})


def test_the_first_command_tells_a_story(capsys):
    command = commands("README.md")[0]
    assert main(shlex.split(command)[1:]) == 0
    out, err = capsys.readouterr()
    assert "クマ" in out and "アザラシ" in out and "(eos)" in err


@pytest.mark.parametrize("name", [*READMES, "weights/README.md", "weights/demo/README.md"])
def test_every_command_shown_exists(name):
    for command in commands(name):
        assert make_parser().parse_args(shlex.split(command)[1:]).run, command


def test_ci_runs_the_second_block():
    """The block that passes the tests is the second; .ci/run executes it as it stands."""
    assert "pytest" in blocks("README.md", "sh")[1] and "[test]" in blocks("README.md", "sh")[1]
    assert "llama-jp generate" in blocks("README.md", "sh")[0]


def test_both_languages_show_the_same_commands():
    english, japanese = (blocks(name, "sh") for name in READMES)
    assert english[:2] == japanese[:2]
    assert commands("README.md") == commands("README.ja.md")
    without_comments = [[re.sub(r"#.*|\"\"\".*", "", block) for block in blocks(name, "python")] for name in READMES]
    assert without_comments[0] == without_comments[1]


@pytest.mark.parametrize("name", [*READMES, "weights/README.md", "weights/demo/README.md"])
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), target
