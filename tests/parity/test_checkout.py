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

# More mistakes in the source, as in test_mutations: the file, what to replace, and by what.
MORE_MISTAKES = {
    "two heads exchanged": ("model", "mixed.transpose(1, 2)", "mixed[:, [1, 0, 2, 3]].transpose(1, 2)"),
    "heads of the keys in reverse": (
        "model",
        "k = self.k_proj(x).view(heads)",
        "k = self.k_proj(x).view(heads).flip(2)",
    ),
    "values of the wrong head": ("model", "v = self.v_proj(x).view(heads)", "v = self.v_proj(x).view(heads).flip(2)"),
    "keys not rotated": ("model", "rotate(q, *rotation), rotate(k, *rotation)", "rotate(q, *rotation), k"),
    "values rotated": (
        "model",
        "if cache is not None:\n            k, v =",
        "v = rotate(v, *rotation)\n        if cache is not None:\n            k, v =",
    ),
    "attention without its residual": ("model", "x = x + self.self_attn(", "x = self.self_attn("),
    "MLP without its norm": ("model", "self.mlp(self.post_attention_layernorm(x))", "self.mlp(x)"),
    "embedding scaled": ("model", "x = self.embed_tokens(ids)", "x = self.embed_tokens(ids) * 1.001"),
    "last layer left out": ("model", "enumerate(self.layers)", "enumerate(self.layers[:-1])"),
    "layers in reverse": ("model", "enumerate(self.layers)", "enumerate(list(self.layers)[::-1])"),
    "head takes the embedding": (
        "model",
        "self.lm_head(x[:, -1:] if last_only else x)",
        "F.linear(x, self.embed_tokens.weight)",
    ),
    "sum for the mean": ("model", ".mean(-1, keepdim=True)", ".sum(-1, keepdim=True)"),
    "relu for silu": ("model", "F.silu(", "F.relu("),
    "sine with the other sign": ("model", "dim=-1) * sin", "dim=-1) * -sin"),
    "keys in the place of the values": (
        "cache",
        "self.values[:, :, self.start : end] = v",
        "self.values[:, :, self.start : end] = k",
    ),
    "positions from one": ("model", "return queries[None], None", "return queries[None] + 1, None"),
}


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
    assert main([*whole, change(*MORE_MISTAKES["two heads exchanged"])]) == 1
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
@pytest.mark.parametrize("mistake", MISTAKES | MORE_MISTAKES)
def test_every_mistake_is_caught(change, capsys, mistake):
    statuses, report = certify(change(*(MISTAKES | MORE_MISTAKES)[mistake]), capsys)
    assert 1 in statuses and statuses <= {0, 1} and "first" in report, report


@pytest.mark.slow
def test_no_mistake_is_equal(change, capsys):
    statuses, report = certify(change("model", "Compute the logits", "Compute logits"), capsys)
    assert statuses == {0} and "bug" not in report and "rounding" not in report
