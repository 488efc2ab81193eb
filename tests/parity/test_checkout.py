"""The model of another checkout beside this one: what a pull request changes, by the commands of its workflow."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from test_mutations import MISTAKES

from llama_jp.cli import main

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github" / "workflows" / "parity.yml"


@pytest.fixture
def change(tmp_path):
    """A checkout in which one thing is changed. Returns a function of the file, what to replace and by what."""
    shutil.copytree(ROOT / "llama_jp", tmp_path / "llama_jp", ignore=shutil.ignore_patterns("__pycache__"))

    def change(file: str, old: str, new: str) -> str:
        path = tmp_path / "llama_jp" / f"{file}.py"
        source = path.read_text(encoding="utf-8")
        assert old in source, f"{old!r} is not in {file}.py any more; bring this list up to date"
        path.write_text(source.replace(old, new), encoding="utf-8")
        return f"checkout:{tmp_path}"

    return change


def commands() -> list[list[str]]:
    """The comparisons of the workflow, without `llama-jp`."""
    text = WORKFLOW.read_text(encoding="utf-8").replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in re.findall(r"^ +(llama-jp parity .*?)(?: \|\|.*)?$", text, re.M)]


def certify(checkout: str, capsys: pytest.CaptureFixture[str]) -> tuple[set[int], str]:
    """Run the workflow's comparisons of a checkout with this one. Returns the exit statuses and the reports."""
    own = {"checkout:change": checkout, "checkout:base": f"checkout:{ROOT}"}
    statuses = {main([own.get(word, word) for word in words]) for words in commands()}
    return statuses, capsys.readouterr().out


def test_an_unchanged_checkout_is_equal_and_an_exchanged_head_is_named(change, capsys):
    whole = ["parity", "--checkpoint", "demo", "--dtype", "float32", "--tokens", "8", "--against", "demo", "--model"]
    checkout = change("model", "Compute the logits", "Compute logits")
    assert main([*whole, checkout]) == 0
    assert f"{checkout} (float32, sdpa) against demo" in capsys.readouterr().out
    assert main([*whole, change(*MISTAKES["two heads exchanged"])]) == 1
    out = capsys.readouterr().out
    assert "layers.0.self_attn.o_proj" in out or "layers.0.self_attn.attn_output" in out


def test_a_folder_without_the_package_and_code_that_fails(change, tmp_path, capsys):
    run = ["parity", "--against", "demo", "--model"]
    (tmp_path / "empty").mkdir()
    assert main([*run, f"checkout:{tmp_path / 'empty'}"]) == 2
    assert "there is no" in (err := capsys.readouterr().err) and "name the folder of a checkout" in err
    assert main([*run, change("model", "class Llama(nn.Module):", "class Llama(nn.Modul):")]) == 2
    assert "failed: AttributeError" in capsys.readouterr().err
    assert main([*run, change("model", "x = self.embed_tokens(ids)", "x = 1 / 0")]) == 2


def test_the_workflow_compares_two_dtypes_and_both_kinds_of_heads():
    found = [" ".join(words) for words in commands()]
    assert len(found) == 4
    for part in ("--checkpoint demo", "--random tiny", "--dtype float32", "--dtype bfloat16", "--attention eager"):
        assert sum(part in each for each in found) == 2, part
    assert all("--model checkout:change --against checkout:base" in each for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_caught(change, capsys, mistake):
    statuses, report = certify(change(*MISTAKES[mistake]), capsys)
    assert 1 in statuses and statuses <= {0, 1} and "first" in report, report


@pytest.mark.slow
def test_no_mistake_is_equal(change, capsys):
    statuses, report = certify(change("model", "Compute the logits", "Compute logits"), capsys)
    assert statuses == {0} and "bug" not in report and "rounding" not in report
