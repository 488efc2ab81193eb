"""The commands, examples and links in the READMEs and in CONTRIBUTING work; both languages show the same ones."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from test_layers import LAYERS

from llama_jp.cli import main, make_parser

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.ja.md"]
PAGES = [
    *READMES,
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
    "weights/README.md",
    "weights/demo/README.md",
]


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


def test_ci_runs_the_blocks_of_the_readme():
    """.ci/run executes the second block, which passes the tests, and the block under "Developing"."""
    first, second, *others = blocks("README.md", "sh")
    assert "llama-jp generate" in first and "pytest -n auto" in second.split("\n")
    shown = subprocess.run([ROOT / ".ci" / "run", "--show"], capture_output=True, text=True, check=True).stdout
    assert shown == second + others[-1]
    assert others[-1].splitlines() == ["ruff check .", "ruff format --check .", "mypy"]
    assert others[-1] == blocks("README.ja.md", "sh")[-1]


def test_both_languages_show_the_same_commands():
    english, japanese = (blocks(name, "sh") for name in READMES)
    assert english[:2] == japanese[:2]
    assert commands("README.md") == commands("README.ja.md")
    without_comments = [[re.sub(r"#.*|\"\"\".*", "", block) for block in blocks(name, "python")] for name in READMES]
    assert without_comments[0] == without_comments[1]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert ((ROOT / name).parent / target).exists(), target


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "examples/README.md"])
def test_developer_commands_name_real_files_and_markers(name):
    """Guards against a page that still names a file, a marker or a tool after it has moved."""
    tools = {"pytest", "ruff", "mypy", "mkdocs", "pre-commit", "python", ".ci/run"}
    markers = re.findall(r'^    "(\w+): ', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    assert lines
    for line in lines:
        for command in re.split(r" && ", line.split("  #")[0]):
            tool, *words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\w+", word)]
            assert tool in tools, line
            assert all(word in markers for word in words[1:] if words[0] == "-m"), line
            assert all((ROOT / word).exists() for word in words if "/" in word), line


@pytest.mark.parametrize("name", [*READMES, "CONTRIBUTING.md"])
def test_files_that_a_page_names_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:llama_jp|tests|docs|examples|benchmarks|weights|\.ci)/[\w./-]*)`", text):
        assert (ROOT / path).exists(), path


def test_names_in_contributing_exist():
    """Guards against a recipe ("How to add a filter") that names a function after it has been renamed."""
    sections = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## ")
    recipes = "\n".join(section for section in sections if section.startswith("How to add"))
    source = "\n".join(
        file.read_text(encoding="utf-8") for folder in ("llama_jp", "tests") for file in (ROOT / folder).rglob("*.py")
    )
    names = set(re.findall(r"`([A-Za-z_]+)`", recipes))
    assert len(names) > 15
    assert {name for name in names if not re.search(rf"\b{name}\b", source)} == set()


def test_contributing_has_the_layers():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", text, re.M)
    assert {name: int(layer) for layer, names in rows for name in re.findall(r"`(\w+)`", names)} == LAYERS


def test_readme_tree_names_real_files():
    """Both READMEs show the same tree, and every entry exists."""
    trees = []
    for name in READMES:
        block = (ROOT / name).read_text(encoding="utf-8").split("    llama_jp/\n")[1].split("\n\n")[0]
        folder, found = ROOT / "llama_jp", []
        for indent, entry in re.findall(r"^( +)([\w./]+)", block, re.M):
            depth = len(indent)
            parent = {4: ROOT, 6: ROOT / "llama_jp", 8: folder}[depth]
            assert (parent / entry).exists(), entry
            if depth == 6:
                folder = parent / entry
            found.append((depth, entry))
        trees.append(found)
    assert trees[0] == trees[1] and len(trees[0]) > 20
    packages = {f"{name}/" for name in LAYERS if (ROOT / "llama_jp" / name).is_dir()}
    assert packages - {entry for _, entry in trees[0]} == set(), "a package is missing in the tree"
