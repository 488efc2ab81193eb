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


def test_change_attention_trains_and_saves_the_change(output, monkeypatch, tmp_path):
    """Guards against a window that training does not reach, and against another model in the checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    numbers = [float(number) for number in re.findall(r"\d\.\d{4}", output("change_attention.py"))]
    plain, window, trained, loaded = numbers
    assert plain < 1.34 and window > 2.2 and 1.5 < trained < 2.1 and loaded == trained
    assert "changes.sliding_window:attend_window" in (tmp_path / "checkpoints" / "window" / "config.json").read_text()


@pytest.mark.parametrize("page", ["changing.md", "changing.ja.md"])
def test_the_guide_shows_the_code_of_the_examples(page):
    """Guards against code in a page that no test runs."""
    shown = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "docs" / page).read_text(encoding="utf-8"), re.S)
    window, story, surgery = shown
    assert (EXAMPLES / "changes" / "sliding_window.py").read_text(encoding="utf-8").endswith(window)
    assert (EXAMPLES / "change_attention.py").read_text(encoding="utf-8") == story
    exec(compile(surgery, page, "exec"), {})


def test_trace_and_patch_moves_the_answer_from_one_animal_to_the_other(output):
    rows = re.findall(r"^(.*?) +クマ ([\d.]+)  ネコ ([\d.]+)$", output("trace_and_patch.py"), re.M)
    (_, bear, _), (_, *unpatched), *patched = rows
    assert float(bear) > 0.3 and float(unpatched[1]) > 0.3 and len(patched) == 6
    assert float(patched[0][1]) > 0.3 > float(patched[0][2]), "a patch after the first layer changes the animal"
    assert [*patched[-1][1:]] == unpatched, "no layer comes after the patch at the last layer"


def test_logit_lens_shows_when_each_kind_of_word_is_known(output):
    parts = re.split(r"^\w+: ", output("logit_lens.py"), flags=re.M)[1:]
    idiom, place, name = ([float(p) for p in re.findall(r"layers.\d  ([\d.]+)", part)] for part in parts)
    assert idiom[0] > 0.9
    assert place[0] < 0.1 and place[2] > 0.9
    assert name[4] < 0.1 and name[5] > 0.9


def test_attention_maps_show_heads_that_look_at_the_name(output):
    first, *heads = output("attention_maps.py").splitlines()
    assert first == "next: クマ" and len(heads) == 4
    assert [head.count("クマ") for head in heads] == [2, 2, 2, 0]


def test_ablate_heads_finds_the_head_that_carries_names(output):
    shown = output("ablate_heads.py")
    rises = [[float(x) for x in re.findall(r"[+-][\d.]+", row)] for row in shown.splitlines()[1:7]]
    assert rises[5][1] > 0.1 and all(abs(x) < 0.05 for row in rises[1:5] for x in row)
    assert set(shown.splitlines()[-1].split(" at ")[1].split()) == {"クマ", "アザラシ"}


def test_steering_vector_changes_the_place(output):
    plain, steered, late = output("steering_vector.py").split("\n\n")
    assert "山" in plain and "図書館" not in plain
    assert "ここが図書館かあ" in steered and "山" not in steered
    assert "山へ行こう" in late and "ここが図書館かあ" in late


def test_gradient_attribution_finds_the_words_of_the_request(output):
    place, friend = output("gradient_attribution.py").split("next: ")[1:]
    assert place.startswith("海辺\n") and {"絵本で", "海辺"} == set(re.findall(r"  (\S+) \(at", place)[:2])
    assert friend.startswith("アザラシ\n") and re.findall(r"  (\S+) \(at", friend)[0] == "アザラシ"


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
