"""Running a model for a comparison: its calls, its recorded points, its state afterwards."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from helpers.compared_models import CONFIG, IDS, here, parity, reference

from llama_jp.parity import ComparedModel, as_compared_model, compare, open_model
from llama_jp.parity.operations import operations_of
from llama_jp.parity.run.models import Settings, with_distinct_names
from llama_jp.parity.run.recording import FORWARD_MODES, plan_calls, record


@pytest.mark.parametrize("mode", FORWARD_MODES)
def test_the_planned_calls_contain_every_id_once_and_in_order(mode):
    """Guards against a mode that leaves tokens out, or runs them twice."""
    plan = plan_calls(mode, IDS)
    assert torch.equal(torch.cat([call.ids for call in plan], 1), IDS)
    length = 0
    for ids, mask in plan:
        length += ids.shape[1]
        assert (mask is not None) == (mode == "ragged")
        assert mask is None or mask.shape == (len(IDS), length)
    if mode == "ragged":  # left padding: a row that has begun goes on
        assert (plan[-1].mask.diff() >= 0).all() and plan[-1].mask[0].all() and not plan[-1].mask.all()


def test_an_unknown_mode_is_refused_by_name():
    with pytest.raises(ValueError, match="mode is one of whole, steps, chunks, ragged, not 'sideways'"):
        plan_calls("sideways", IDS)


def test_rows_in_groups_are_recorded_as_rows_together(folder):
    """Guards against rows in another order, and against points of one group only."""
    together, by_row = as_compared_model(here(folder)), as_compared_model(here(folder), Settings(rows=1))
    wanted = operations_of(CONFIG)
    for a, b in zip(*(record(model, plan_calls("steps", IDS), wanted) for model in (together, by_row)), strict=True):
        assert a.points.keys() == b.points.keys() and a.past.keys() == b.past.keys()
        for name in a.points:
            x, y = torch.broadcast_tensors(a.points[name], b.points[name])
            assert torch.allclose(x, y, atol=1e-5), name  # another batch size may change the last bits


def test_the_number_of_threads_is_put_back_after_an_exception():
    def fail(ids):
        raise RuntimeError("on purpose")

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="on purpose"):
        record(as_compared_model(fail, Settings(threads=before + 1)), plan_calls("whole", IDS), [])
    assert torch.get_num_threads() == before


def test_equal_names_are_told_apart_without_a_change_of_the_callers_models(folder):
    """Guards against a model that has a longer name after every comparison."""
    model = reference(folder)
    first, second = with_distinct_names(model, model)
    assert (first.name, second.name) == ("transformers (first)", "transformers (second)")
    assert model.name == "transformers"
    assert compare(model, model, IDS).verdict == "equal" and model.name == "transformers"


def test_a_model_that_changes_its_ids_does_not_change_those_of_the_other(folder):
    """Guards against "equal" for two runs of other ids than the given ones."""
    model, ids = here(folder), IDS.clone()
    for run, verdict in ((lambda ids: model(ids.fill_(3)), "bug"), (model, "equal")):
        found = compare(run, reference(folder), ids)
        assert found.verdict == verdict and torch.equal(ids, IDS)


def test_models_that_cannot_be_compared_are_refused_by_name(folder):
    with pytest.raises(ValueError, match="'no model' is a str, which cannot be called with ids"):
        as_compared_model("no model")
    with pytest.raises(ValueError, match="transformers needs a checkpoint"):
        open_model("transformers", Settings())
    with pytest.raises(ValueError, match="nowhere:make cannot be imported"):
        open_model("nowhere:make", Settings())
    assert isinstance(open_model(str(folder), Settings("float32")), ComparedModel)


def test_a_function_without_a_cache_is_clean_in_every_mode(folder):
    """Guards against points of the whole text that are taken for those of the new tokens."""
    model = here(folder)
    for mode in FORWARD_MODES:
        assert compare(lambda ids: model(ids), reference(folder), IDS, mode).verdict in ("equal", "rounding")


def test_the_operations_of_a_compiled_model_are_not_recorded(folder):
    """Guards against hooks in compiled code. They change the program, and so its rounding."""
    model = torch.compile(here(folder, "bfloat16"), backend="eager")
    found = compare(model, reference(folder, "bfloat16", "eager"), IDS)
    assert found.verdict == "rounding" and [row.operation.name for row in found.rows] == ["logits"]
    assert compare(model, reference(folder, "bfloat16"), IDS).verdict == "equal"
    model.layers[1].mlp.up_proj = model.layers[1].mlp.gate_proj
    torch._dynamo.reset()
    assert compare(model, reference(folder, "bfloat16"), IDS).bug.operation == "logits"


def test_a_llama_of_another_program_is_named_by_module_and_function(capsys, folder, tmp_path, monkeypatch):
    (tmp_path / "somebody.py").write_text(
        "from llama_jp.model import Llama\n"
        "def make(folder):\n"
        "    model = Llama.from_pretrained(folder, dtype='float32', device='cpu')\n"
        "    model.layers[3].post_attention_layernorm.eps = 0.01\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    status = parity("--model", "somebody:make", "--checkpoint", str(folder), "--against-dtype", "float32", "--json")
    found = json.loads(capsys.readouterr().out)["comparisons"][0]
    sys.modules.pop("somebody")
    assert status == 1
    assert found["verdict"] == "bug"
    assert found["bug"]["operation"] == "layers.3.post_attention_layernorm" and found["bug"]["layer"] == 3
    assert "eps 0.01" in found["bug"]["cause"]
