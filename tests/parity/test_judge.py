"""The judge: every fault is found at its place, and no clean pair is called a bug."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from helpers.compared_models import CONFIG, IDS, here, reference
from helpers.faults import FAULTS

from llama_jp.checkpoint.random_checkpoint import random_config, random_ids, write_random
from llama_jp.model import Llama, repeat_heads
from llama_jp.parity import Settings, compare, open_model
from llama_jp.parity.judge.findings import rows_to_judge
from llama_jp.parity.judge.rows import Row
from llama_jp.parity.judge.weights import same_weights, weight_cause
from llama_jp.parity.operations import Operation
from llama_jp.parity.run import recording
from llama_jp.parity.run.recording import FORWARD_MODES


def check_fault(fault, folder, dtype, attention):
    model = here(folder, dtype, attention)
    model = fault.make(model) or model
    found = compare(model, reference(folder, dtype, attention), IDS, fault.mode)
    assert found.verdict == "bug"
    assert found.bug.operation == fault.operation
    assert fault.cause in (found.bug.cause or "")


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_called_a_bug_and_found_at_its_place(folder, fault):
    check_fault(fault, folder, fault.dtypes[0], "sdpa")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_is_found_in_every_dtype_and_attention(folder, fault, dtype, attention):
    if dtype not in fault.dtypes:
        pytest.skip(f"changes nothing, or nothing of its own, in {dtype}")
    check_fault(fault, folder, dtype, attention)


def test_a_fault_is_found_behind_honest_rounding(folder):
    """Both sides differ in the last digit from the first attention on; the bug comes two layers later."""
    model = here(folder, attention="eager")
    model.layers[2].input_layernorm.eps *= 10
    found = compare(model, reference(folder), IDS)
    assert found.divergence.operation == "layers.0.self_attn.attn_output" and found.divergence.verdict == "rounding"
    assert found.bug.operation == "layers.2.input_layernorm" and "eps 1e-05" in found.bug.cause


def test_a_fault_is_found_between_two_dtypes(folder):
    model = here(folder, "bfloat16")
    model.layers[1].mlp.gate_proj, model.layers[1].mlp.up_proj = (
        model.layers[1].mlp.up_proj,
        model.layers[1].mlp.gate_proj,
    )
    found = compare(model, reference(folder, "float32"), IDS)
    assert found.bug.operation == "layers.1.mlp.gate_proj"


def test_scores_and_probabilities_of_another_dtype_are_a_fault_even_if_no_bit_of_the_logits_shows_it(folder):
    def attend(q, k, v, mask):
        scores = attend_scores(q, k, mask)
        return scores.softmax(-1) @ repeat_heads(v, q.shape[1])

    def attend_scores(q, k, mask):
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        scores = q @ repeat_heads(k, q.shape[1]).transpose(2, 3) * q.shape[3] ** -0.5
        return scores.masked_fill(~visible, torch.finfo(q.dtype).min)

    model = here(folder, "bfloat16", "eager")
    model.layers[1].self_attn.attend = attend
    found = compare(model, reference(folder, "bfloat16", "eager"), IDS)
    assert found.bug.operation == "layers.1.self_attn.probabilities"
    assert "kept in bfloat16, not in float32" in found.bug.cause


def test_casting_after_loading_names_the_rotary_frequencies(folder):
    for dtype in ("bfloat16", "float16"):
        found = compare(open_model("transformers-cast", Settings(dtype), folder), reference(folder, dtype), IDS)
        assert found.verdict == "bug" and found.bug.operation == "rope.cos"
        assert found.bug.model == "transformers-cast"
        assert "inv_freq" in found.bug.cause and dtype in found.bug.cause


def test_a_callable_that_shows_nothing_is_judged_by_its_logits(folder):
    good, bad = here(folder), here(folder)
    bad.layers[1].mlp.up_proj = bad.layers[1].mlp.gate_proj

    def hidden(model):
        holder = [model]  # nothing that the tool could find
        return lambda ids: holder[0](ids)

    assert compare(hidden(good), reference(folder), IDS).verdict == "equal"
    for mode in FORWARD_MODES:  # a function of ids alone has no cache, so its last digits may differ
        assert compare(hidden(good), reference(folder), IDS, mode).verdict in ("equal", "rounding")
        assert compare(hidden(bad), reference(folder), IDS, mode).verdict == "bug"
    assert compare(hidden(here(folder, "bfloat16")), reference(folder, "float32"), IDS).verdict == "rounding"


def norm_in_float64(x, weight, eps):
    """RMSNorm with its sum in float64. The scale of a row stays one float32 number."""
    y = x.float()
    y = y * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True).float() + eps)
    return weight * y.to(x.dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_right_norm_that_sums_in_float64_is_not_taken_for_a_wrong_eps(folder, dtype):
    """Guards against a wrong eps that meets the scale of one row, a single number, by chance."""
    for seed in range(4):
        ids = random_ids(CONFIG, 1, 14, seed)
        other = Llama.from_pretrained(folder, dtype=dtype, device="cpu", norm=norm_in_float64)
        for mode in ("steps", "chunks"):
            for pair in ((other, here(folder, dtype)), (here(folder, dtype), other)):
                assert compare(*pair, ids, mode).verdict in ("equal", "rounding")


@pytest.mark.parametrize("factor", [2, 0.5, 10])
def test_a_wrong_eps_is_found_by_single_rows(folder, factor):
    for seed in range(4):
        model = here(folder)
        model.layers[0].input_layernorm.eps *= factor
        found = compare(model, reference(folder), random_ids(CONFIG, 1, 14, seed), "steps")
        assert found.bug.operation == "layers.0.input_layernorm" and f"eps {1e-6 * factor:g}" in found.bug.cause


@pytest.mark.parametrize("mode", ["whole", "steps", "ragged"])
@pytest.mark.parametrize("hidden", ["rope", "self_attn", "k_rot", "norm", "mlp_act", "embed_tokens"])
def test_points_that_one_model_does_not_show_change_nothing_in_either_order(folder, monkeypatch, hidden, mode):
    """Guards against a KeyError where only the first model shows `rope.cos`."""
    names = recording.traceable_names

    def traceable_names(module, wanted):
        return [name for name in names(module, wanted) if module is not bad or hidden not in name]

    plain, bad = reference(folder), here(folder, attention="eager")
    bad.layers[1].mlp.gate_proj.register_forward_hook(lambda module, args, out: out * 1.5)
    monkeypatch.setattr(recording, "traceable_names", traceable_names)
    for pair in ((plain, bad), (bad, plain)):
        found = compare(*pair, IDS, mode)
        assert found.verdict == "bug" and found.bug.model == "Llama"
        assert found.bug.operation == "layers.1.mlp.gate_proj"


def test_causes_of_wrong_weights_are_told_apart():
    right = {"a.weight": torch.randn(8, 8), "b.weight": torch.randn(8, 8)}
    told = {
        "transposed": right["a.weight"].T,
        "holds b.weight": right["b.weight"],
        "negated": -right["a.weight"],
        "rounded to bfloat16": right["a.weight"].bfloat16().float(),
        "other values": right["a.weight"] + torch.eye(8),
        "quantised: 8 bits": (right["a.weight"] / (step := right["a.weight"].abs().amax(1, True) / 127)).round() * step,
    }
    for cause, wrong in told.items():
        assert cause in weight_cause("a.weight", {**right, "a.weight": wrong}, right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_two_dtypes_are_the_same_only_within_one_rounding(dtype):
    """Guards against other weights that pass as rounded ones."""
    weight = torch.rand(4, 4) + 1
    assert same_weights(weight.to(dtype), weight) and same_weights(weight, weight.to(dtype))
    assert not same_weights(weight.to(dtype), weight * (1 + 2 * torch.finfo(dtype).eps))


def test_of_many_calls_the_first_two_the_last_and_the_worst_are_judged():
    """Guards against a mistake in the last call that nobody judges."""
    op = Operation("norm", "norm")
    rows = [Row(call, op, None, torch.full((1, 1), float(call % 7))) for call in range(20)]
    assert [row.call for row in rows_to_judge(rows)] == [0, 1, 5, 6, 13, 19]


def clean_pair(draw: random.Random, folder: Path, number: int):
    """A random model and two ways of running it that differ in nothing but rounding."""
    heads = draw.choice([2, 4, 6])
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    config = random_config(
        "tiny",
        draw.choice([1, 2, 3]),
        vocab_size=draw.randrange(50, 2000),
        hidden_size=draw.choice([48, 96, 192]),
        intermediate_size=draw.choice([100, 112, 130]),
        num_attention_heads=heads,
        num_key_value_heads=draw.choice([k for k in (1, 2, 3, 6) if heads % k == 0]),
        head_dim=draw.choice([8, 16, 20, 32]),
        rms_norm_eps=draw.choice([1e-5, 1e-6]),
        rope_scaling=draw.choice(
            [None, None, {"rope_type": "linear", "factor": 2.0}, {"rope_type": "llama3"} | scaling]
        ),
        attention_bias=draw.random() < 0.3,
        tie_word_embeddings=draw.random() < 0.2,
    )
    stored = draw.choice([torch.float32, torch.float16, torch.bfloat16])
    write_random(folder, config, stored, seed=draw.randrange(1 << 30))
    sides = [
        Settings(
            draw.choice(["float32", "bfloat16", "float16"]),
            draw.choice(["sdpa", "eager"]),
            draw.choice([1, 2]),
            draw.choice([None, 1, 2]),
        )
        for _ in range(2)
    ]
    if draw.random() < 0.6:
        sides[1].dtype = sides[0].dtype
    against = draw.choice(["transformers", str(folder)])
    ids = random_ids(config, draw.randrange(2, 4), draw.randrange(2, 33), draw.randrange(1 << 30))
    mode = draw.choice(["whole", "steps", "chunks", "ragged"])
    return compare(open_model(str(folder), sides[0]), open_model(against, sides[1], folder), ids, mode)


def check_clean_pairs(folder: Path, numbers: range):
    for number in numbers:
        found = clean_pair(random.Random(number), folder / str(number), number)
        said = None if found.bug is None else found.bug.as_dict()
        assert found.verdict in ("equal", "rounding"), (number, found.models, said)


def test_clean_pairs_are_never_called_a_bug(tmp_path):
    check_clean_pairs(tmp_path, range(6))


@pytest.mark.slow
def test_more_clean_pairs_are_never_called_a_bug(tmp_path):
    check_clean_pairs(tmp_path, range(100, 600))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_models_are_never_called_a_bug(folder, dtype):
    in_place = here(folder, dtype)
    in_place.compile()
    for model in (in_place, torch.compile(here(folder, dtype)), torch.compile(reference(folder, dtype).call)):
        torch._dynamo.reset()
        found = compare(model, reference(folder, dtype), IDS)
        assert found.verdict == "rounding" and found.bug is None
