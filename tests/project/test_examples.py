"""Each script in examples/ runs on the bundled model and shows what its docstring promises."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(file.name for file in EXAMPLES.glob("*.py"))


@pytest.fixture
def output(capsys) -> Callable[[str], str]:
    def run(name: str) -> str:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_generate_tells_a_whole_story(output):
    shown = output("generate.py")
    assert "ネコ" in shown and "ウサギ" in shown and "ended by eos" in shown
    perplexity = float(re.search(r"perplexity of the answer: ([\d.]+)", shown)[1])
    assert 1 < perplexity < 3


def test_change_attention_changes_only_positions_beyond_the_window(output):
    """Guards against a window that is off by one, and against a seam that rounds differently from the built-in one."""
    everything, window, first = output("change_attention.py").splitlines()
    assert everything == "attend_all: logits are equal at 18 of 18 positions"
    assert window == "attend_window: logits are equal at 8 of 18 positions"
    assert first.endswith("position: 8")


def test_trace_and_patch_moves_the_answer_from_one_animal_to_the_other(output):
    rows = re.findall(r"^(.*?) +クマ ([\d.]+)  ネコ ([\d.]+)$", output("trace_and_patch.py"), re.M)
    (_, bear, _), (_, *unpatched), *patched = rows
    assert float(bear) > 0.3 and float(unpatched[1]) > 0.3 and len(patched) == 6
    assert float(patched[0][1]) > 0.3 > float(patched[0][2]), "a patch after the first layer changes the animal"
    assert [*patched[-1][1:]] == unpatched, "no layer comes after the patch at the last layer"


def test_compare_my_llama_names_the_wrong_operation_and_the_cause(output):
    shown = output("compare_my_llama.py")
    assert "same_norm: equal\ntidy_norm: bug\n" in shown
    assert "layers.0.input_layernorm" in shown and "before the cast" in shown


def test_quantize_and_verify_measures_the_same_numbers_twice(output):
    shown = output("quantize_and_verify.py")
    assert 0 < float(re.search(r"KL divergence +([\d.]+)", shown)[1]) < 0.001
    assert float(re.search(r"top-1 agreement +([\d.]+)%", shown)[1]) > 98
    assert shown.endswith("equal to the certificate: True\n")


def test_several_answers_do_not_depend_on_their_neighbours(output):
    shown = output("several_answers.py")
    assert "alone gives the same ids: True" in shown
    texts = re.findall(r"^seed \d, 24 tokens: (.+)$", shown, re.M)
    assert len(texts) == len(set(texts)) == 3
    scores = [float(score) for score in re.findall(r"beam, score (-[\d.]+)", shown)]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)


def test_finetune_teaches_the_ending(output):
    before, after = re.findall(r"^(?:demo|my-model): …(.+)$", output("finetune.py"), re.M)
    assert "めでたし" not in before and after.endswith("めでたし、めでたし。")


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_short_explained_tested_and_listed(name):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 40
    assert ast.get_docstring(ast.parse(text))
    assert f'output("{name}")' in Path(__file__).read_text(encoding="utf-8"), "no test runs it"
    assert f"[{name}]({name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
