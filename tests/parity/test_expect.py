"""Expected differences: a change on purpose is told apart from a mistake elsewhere."""

from __future__ import annotations

import pytest
import torch
from helpers.compared_models import IDS, here, parity, reference
from helpers.faults import eager_with

from llama_jp.model import attend_sdpa
from llama_jp.parity import compare
from llama_jp.parity.comparison import Tolerance
from llama_jp.parity.report.text import text_report

SCORES = "layers.*.self_attn.scores"


def changed(folder, attention=None):
    """A model with another scale in every layer."""
    model = here(folder)
    for layer in model.layers:
        layer.self_attn.attend = attention or eager_with(scale=0.3)
    return model


@pytest.mark.parametrize("mode", ["whole", "steps", "ragged"])
def test_a_change_on_purpose_passes_and_the_others_are_counted(folder, mode):
    found = compare(changed(folder), reference(folder), IDS, mode, expect=[SCORES])
    assert found.verdict == "expected" and found.passed and found.bug is None
    assert found.as_dict()["expected"] == [f"layers.{i}.self_attn.scores" for i in range(4)]
    assert f"differs where expected, in 4 operations of {SCORES}; the other 74 operations are right" in found.notes
    assert compare(changed(folder), reference(folder), IDS, mode).bug.operation == "layers.0.self_attn.scores"


def test_fused_attention_shows_a_change_of_its_scores_in_its_output(folder):
    fused = changed(folder, lambda q, k, v, mask: attend_sdpa(q * 1.5, k, v, mask))
    assert compare(fused, reference(folder), IDS, expect=[SCORES]).verdict == "expected"
    values = changed(folder, lambda q, k, v, mask: attend_sdpa(q, k, v.flip(1), mask))
    assert compare(values, reference(folder), IDS, expect=["layers.*.self_attn.q_rot"]).verdict == "bug"
    # written scores are right, so the output is wrong by itself
    eager = changed(folder, lambda q, k, v, mask: eager_with()(q, k, v, mask) * 1.1)
    found = compare(eager, reference(folder, attention="eager"), IDS, expect=[SCORES])
    assert found.bug.operation == "layers.0.self_attn.attn_output"


def test_a_mistake_elsewhere_stays_a_bug(folder):
    model = changed(folder)
    model.layers[2].mlp.up_proj = model.layers[2].mlp.gate_proj
    found = compare(model, reference(folder), IDS, expect=[SCORES])
    assert found.verdict == "bug" and found.bug.operation == "layers.2.mlp.up_proj" and not found.passed


def test_an_expected_difference_that_is_not_there_does_not_pass(folder):
    found = compare(here(folder), reference(folder), IDS, expect=[SCORES])
    assert found.verdict == "equal" and not found.passed and found.unmet == [SCORES]
    assert "equal (not as expected)" in text_report([found])
    found = compare(changed(folder), reference(folder), IDS, expect=[SCORES, "norm"])  # norm has another input
    assert found.unmet == ["norm"] and not found.passed


def test_an_expectation_of_an_operation_that_a_model_does_not_show_says_so(folder):
    """Guards against "there is none" where nothing was compared."""
    model = here(folder)
    holder = [model]
    found = compare(lambda ids: holder[0](ids), reference(folder), IDS, expect=["norm"])
    assert found.notes == ["a difference in norm is expected, and a model does not show it"] and not found.passed


def test_an_operation_that_rounds_otherwise_is_an_expected_difference(folder):
    found = compare(here(folder, attention="eager"), reference(folder), IDS, expect=["layers.*.self_attn.attn_output"])
    assert found.verdict == "expected" and found.passed


def test_a_tolerance_holds_for_expected_differences_too(folder):
    pair = changed(folder), reference(folder)
    assert not compare(*pair, IDS, expect=[SCORES], tolerance=Tolerance(max_kl=1e-9)).passed
    assert compare(*pair, IDS, expect=[SCORES], tolerance=Tolerance(max_kl=10.0)).passed


def test_nan_is_never_expected(folder):
    model = changed(folder, lambda q, k, v, mask: eager_with(scale=torch.nan)(q, k, v, mask))
    assert compare(model, reference(folder), IDS, expect=[SCORES]).verdict in ("bug", "non-finite")


def test_a_pattern_without_an_operation_is_refused(folder, capsys):
    with pytest.raises(ValueError, match=r"no operation matches 'layers.9.mlp'.*there are embed_tokens"):
        compare(here(folder), here(folder), IDS, expect=["layers.9.mlp"])
    with pytest.raises(ValueError, match="neither model has a configuration"):
        compare(lambda ids: ids, lambda ids: ids, IDS, expect=["norm"])
    assert parity("--model", str(folder), "--expect", "nowhere", "--tokens", "4") == 2
    assert "no operation matches 'nowhere'" in capsys.readouterr().err


def test_the_command_line_says_so_with_status_0(folder, capsys, tmp_path, monkeypatch):
    (tmp_path / "changed_llama.py").write_text(
        "from llama_jp import Llama\n"
        "def make(folder):\n"
        "    model = Llama.from_pretrained(folder, dtype='float32', device='cpu', attention='eager')\n"
        "    for layer in model.layers:\n"
        "        attend = layer.self_attn.attend\n"
        "        layer.self_attn.attend = lambda q, k, v, mask: attend(q * 2, k, v, mask)\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = ["--model", "changed_llama:make", "--checkpoint", str(folder), "--dtype", "float32", "--tokens", "6"]
    assert parity(*given, "--mode", "whole,greedy", "--expect", SCORES) == 0
    assert "operations are right" in capsys.readouterr().out
    assert parity(*given) == 1
