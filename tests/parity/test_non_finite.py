"""NaN and infinite numbers are a finding, in one model and in both, and JSON stays JSON."""

from __future__ import annotations

import json
import math

import pytest
import torch
from helpers.compared_models import CONFIG, IDS, here, parity, reference

from llama_jp.checkpoint.random_checkpoint import write_random
from llama_jp.model import Llama
from llama_jp.parity import as_compared_model, compare
from llama_jp.parity.comparison import Tolerance
from llama_jp.parity.judge.non_finite import where_non_finite
from llama_jp.parity.modes.generation import compare_generation
from llama_jp.parity.modes.gradients import compare_gradients
from llama_jp.parity.operations import Operation
from llama_jp.parity.report.text import text_report
from llama_jp.parity.run.recording import FORWARD_MODES, Call

PARAMETERS = (
    "layers.1.mlp.up_proj.weight",
    "layers.2.input_layernorm.weight",
    "layers.0.self_attn.v_proj.weight",
    "lm_head.weight",
)


def spoiled(folder, name: str, value: float = math.nan, row: int = 3, **settings) -> Llama:
    """A model with one number of one parameter replaced."""
    model = here(folder, **settings)
    parameter = model.get_parameter(name)
    parameter.data = parameter.data.clone()
    parameter.data[row] = torch.where(torch.arange(parameter[row].numel()) == 0, value, parameter.data[row])
    return model


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_both_models_have_is_a_finding_at_its_operation(folder, name, value):
    """Guards against "equal, cosine 1.000000000" for two models without a single right number."""
    for mode in FORWARD_MODES:
        found = compare(*(spoiled(folder, name, value) for _ in "ab"), IDS, mode, tolerance=Tolerance(10**9, 1e9))
        assert found.verdict == "non-finite" and not found.passed
        assert found.non_finite.operation == name.removesuffix(".weight")
        assert f"in both models; {name} has 1 such numbers" in found.non_finite.cause
        assert math.isnan(found.prediction.kl) and found.prediction.top1 < 1 and math.isnan(found.logits.cosine)
    assert "NaN or infinite numbers: " in text_report([found])


def test_a_number_that_fused_attention_hides_is_a_finding(folder):
    """Guards against "equal" for NaN queries, whose scores the fused kernel can turn into zeros."""
    name = "layers.1.self_attn.q_proj.weight"
    pair = spoiled(folder, name, row=0), spoiled(folder, name, row=0)
    for mode in FORWARD_MODES:
        found = compare(*pair, IDS, mode)
        assert found.verdict == "non-finite" and found.non_finite.operation == name.removesuffix(".weight")
    found = compare_generation(*map(as_compared_model, pair), IDS, 3, "greedy", CONFIG, Tolerance(), 0)
    assert found.verdict == "non-finite" and found.mode == "greedy"
    found = compare(pair[0], reference(folder), IDS)
    assert found.bug.operation == name.removesuffix(".weight")


def test_rounding_and_two_dtypes_do_not_turn_it_into_a_bug(folder):
    name = PARAMETERS[0]
    pair = spoiled(folder, name, attention="eager"), spoiled(folder, name)
    assert compare(*pair, IDS).verdict == "non-finite"
    assert compare(*pair, IDS).divergence.operation == "layers.0.self_attn.attn_output"
    assert compare(spoiled(folder, name, dtype="bfloat16"), spoiled(folder, name), IDS).verdict == "non-finite"


def test_a_number_of_one_model_only_is_a_bug(folder):
    for pair in ((spoiled(folder, PARAMETERS[0]), here(folder)), (here(folder), spoiled(folder, PARAMETERS[0]))):
        found = compare(*pair, IDS)
        assert found.verdict == "bug" and found.non_finite is not None
        assert found.bug.operation == "layers.1.mlp.up_proj" and "NaN or infinite numbers" in found.bug.cause


def test_an_embedding_row_that_no_id_uses_is_a_finding(folder):
    unused = next(i for i in range(CONFIG.vocab_size) if i not in IDS)
    found = compare(*(spoiled(folder, "embed_tokens.weight", row=unused) for _ in "ab"), IDS)
    assert found.verdict == "non-finite" and f"rows that no id uses: {unused}" in found.non_finite.cause


def test_only_minus_infinity_is_the_score_of_a_masked_key():
    """Guards against an overflow of a score that passes as a mask."""
    scores = torch.tensor([0.0, -math.inf, math.inf, math.nan]).view(1, 1, 1, 4)
    call = Call(torch.zeros(1, 1, dtype=torch.long), None, 4, scores, {"scores": scores})
    assert where_non_finite(Operation("scores", "scores"), call).flatten().tolist() == [False, False, True, True]


def test_an_overflow_is_named_as_one(folder):
    model, other = (spoiled(folder, PARAMETERS[0], 6e4, dtype="float16") for _ in "ab")
    for each in (model, other):
        each.layers[1].mlp.up_proj.weight.data[3] = 6e4
    found = compare(model, other, IDS)
    assert found.non_finite.operation == "layers.1.mlp.up_proj" and "an overflow of float16" in found.non_finite.cause


def test_logits_of_functions_gradients_and_generation(folder):
    nan = torch.full((*IDS.shape, 7), math.nan)
    assert compare(lambda ids: nan, lambda ids: nan, IDS).non_finite.operation == "logits"
    pair = [as_compared_model(spoiled(folder, PARAMETERS[0])) for _ in "ab"]
    found = compare_gradients(*pair, IDS, CONFIG, Tolerance())
    assert found.verdict == "non-finite" and found.non_finite.operation == "layers.1.mlp.up_proj"
    assert compare_generation(*pair, IDS, 4, "greedy", CONFIG, Tolerance(), 0).verdict == "non-finite"

    pair = [here(folder), here(folder)]
    for model in pair:  # a finite loss whose gradient is NaN
        model.layers[1].mlp.down_proj.register_forward_hook(lambda module, args, out: out + 0 * (out - out).sqrt())
    found = compare_gradients(*map(as_compared_model, pair), IDS, CONFIG, Tolerance())
    assert found.verdict == "non-finite" and found.non_finite.kind == "gradient"


def test_padding_may_be_nan(folder):
    """transformers has NaN at padding in float16; no result depends on it."""
    for dtype in ("float16", "bfloat16"):
        for attention in ("sdpa", "eager"):
            found = compare(here(folder, dtype, attention), reference(folder, dtype, attention), IDS, "ragged")
            assert found.verdict == "equal"


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_json_has_no_bare_nan(tmp_path, capsys):
    write_random(tmp_path, CONFIG, torch.float32)
    spoiled(tmp_path, PARAMETERS[0]).save_pretrained(tmp_path / "nan")
    certificate = tmp_path / "certificate.json"
    for against in ("transformers", str(tmp_path)):
        arguments = ("--model", str(tmp_path / "nan"), "--against", against, "--tokens", "6", "--json")
        assert parity(*arguments, "--certificate", str(certificate)) == 1
        found = json.loads(capsys.readouterr().out, parse_constant=refuse)
        assert found["comparisons"][0]["next_token"]["kl"] == "NaN"
    assert json.loads(certificate.read_text(), parse_constant=refuse)
