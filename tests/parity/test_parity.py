"""The parity tool: every fault is found at its place, and nothing clean is called a bug."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers import tokenizer_files
from helpers.faults import FAULTS

from llama_jp import cli
from llama_jp.checkpoint.random_checkpoint import random_config, random_ids, write_random
from llama_jp.environment import describe_environment, environment_changes
from llama_jp.generation.interface import generate
from llama_jp.model import Llama, repeat_heads
from llama_jp.numerics import difference, ulps
from llama_jp.parity import Settings, compare, open_subject
from llama_jp.parity.judge.weights import weight_cause
from llama_jp.parity.modes import generation as parity_generation
from llama_jp.parity.modes.forward import Tolerance
from llama_jp.parity.modes.fullsize import prove
from llama_jp.parity.modes.generation import compare_generation
from llama_jp.parity.modes.gradients import compare_gradients
from llama_jp.parity.modes.tokenizers import compare_tokenizers
from llama_jp.parity.report.certificate import read_certificate, replay
from llama_jp.parity.requests import Request, run_request
from llama_jp.parity.run.models import as_subject
from llama_jp.parity.run.recording import MODES

transformers = pytest.importorskip("transformers", reason="the reference is not installed")

CONFIG = random_config("tiny")
IDS = random_ids(CONFIG, 3, 14)
CERTIFICATE = Path(__file__).parent / "certificate.json"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("parity"), CONFIG, torch.float32)


def here(folder, dtype="float32", attention="sdpa"):
    return Llama.from_pretrained(folder, dtype=dtype, device="cpu", attention=attention)


def reference(folder, dtype="float32", attention="sdpa"):
    return open_subject("transformers", Settings(dtype, attention), folder)


# ---- bits


def test_ulps_count_the_numbers_between():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        one = torch.ones(1, dtype=dtype)
        after = torch.nextafter(one, 2 * one)
        assert ulps(one, after).item() == 1
        assert ulps(-one, -after).item() == 1
        assert ulps(torch.zeros_like(one), -torch.zeros_like(one)).item() == 0
        info = torch.finfo(dtype)
        least = torch.tensor([info.smallest_normal * info.eps]).to(dtype)
        assert ulps(least, -least).item() == 2


def test_a_difference_names_the_first_token_and_leaves_padding_out():
    x = torch.zeros(2, 3, 4)
    y = x.clone()
    y[0, 0, 1], y[1, 2, 3] = 1, 1
    assert difference(x, y).token == (0, 0)
    assert difference(x, y).differing == 2
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]]).bool()
    assert difference(x, y, mask).token == (1, 2)
    assert difference(x, x.clone()).equal


# ---- faults


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
    assert found.divergence.operation == "layers.0.self_attn.mixed" and found.divergence.verdict == "rounding"
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
        found = compare(open_subject("transformers-cast", Settings(dtype), folder), reference(folder, dtype), IDS)
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
    for mode in MODES:  # a function of ids alone has no cache, so its last digits may differ
        assert compare(hidden(good), reference(folder), IDS, mode).verdict in ("equal", "rounding")
        assert compare(hidden(bad), reference(folder), IDS, mode).verdict == "bug"
    assert compare(hidden(here(folder, "bfloat16")), reference(folder, "float32"), IDS).verdict == "rounding"


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


# ---- clean pairs


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
    return compare(open_subject(str(folder), sides[0]), open_subject(against, sides[1], folder), ids, mode)


def check_clean_pairs(folder: Path, numbers: range):
    for number in numbers:
        found = clean_pair(random.Random(number), folder / str(number), number)
        said = None if found.bug is None else found.bug.as_dict()
        assert found.verdict in ("equal", "rounding"), (number, found.sides, said)


def test_clean_pairs_are_never_called_a_bug(tmp_path):
    check_clean_pairs(tmp_path, range(6))


@pytest.mark.slow
def test_more_clean_pairs_are_never_called_a_bug(tmp_path):
    check_clean_pairs(tmp_path, range(100, 600))


def test_a_model_without_a_cache_is_clean_in_every_mode(folder):
    """Each call runs the whole text, so what passes inside must not be taken for the tokens of that call."""
    model = here(folder)
    for mode in MODES:
        assert compare(lambda ids: model(ids), reference(folder), IDS, mode).verdict in ("equal", "rounding")


def test_a_compiled_model_shows_no_operations(folder):
    """Hooks would compile another program, and what it computes in one step is rounded otherwise than in many."""
    model = torch.compile(here(folder, "bfloat16"), backend="eager")
    found = compare(model, reference(folder, "bfloat16", "eager"), IDS)
    assert found.verdict == "rounding" and [row.operation.name for row in found.rows] == ["logits"]
    assert compare(model, reference(folder, "bfloat16"), IDS).verdict == "equal"
    model.layers[1].mlp.up_proj = model.layers[1].mlp.gate_proj
    torch._dynamo.reset()
    assert compare(model, reference(folder, "bfloat16"), IDS).bug.operation == "logits"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_models_are_never_called_a_bug(folder, dtype):
    in_place = here(folder, dtype)
    in_place.compile()
    for model in (in_place, torch.compile(here(folder, dtype)), torch.compile(reference(folder, dtype).call)):
        torch._dynamo.reset()
        found = compare(model, reference(folder, dtype), IDS)
        assert found.verdict == "rounding" and found.bug is None


def test_equal_sides_are_equal_in_every_mode(folder):
    for dtype in ("float32", "bfloat16"):
        for mode in ("whole", "steps", "chunks", "ragged"):
            found = compare(here(folder, dtype), reference(folder, dtype), IDS, mode)
            assert found.verdict == "equal" and found.passed and not found.findings
            assert found.prediction.top1 == 1 and found.prediction.kl == 0


def test_a_tolerance_is_part_of_the_verdict(folder):
    sides = here(folder, attention="eager"), reference(folder)
    found = compare(*sides, IDS)
    assert found.verdict == "rounding" and not found.passed
    assert compare(*sides, IDS, tolerance=Tolerance(max_ulp=found.logits.max_ulp)).passed
    assert not compare(*sides, IDS, tolerance=Tolerance(max_ulp=found.logits.max_ulp - 1)).passed
    assert compare(*sides, IDS, tolerance=Tolerance(max_kl=1e-6)).passed


# ---- other modes


def test_gradients_are_compared_by_parameter(folder):
    tolerance = Tolerance()
    found = compare_gradients(as_subject(here(folder)), reference(folder), IDS, CONFIG, tolerance)
    assert found.verdict == "equal"
    eager = as_subject(here(folder, attention="eager"))
    assert compare_gradients(eager, reference(folder), IDS, CONFIG, tolerance).verdict == "rounding"

    cut = here(folder)
    cut.layers[1].self_attn.v_proj.register_forward_hook(lambda module, args, out: out.detach())
    found = compare_gradients(as_subject(cut), reference(folder), IDS, CONFIG, tolerance)
    assert found.bug.operation == "layers.1.self_attn.v_proj.weight"
    assert "graph is cut" in found.bug.cause

    wrong = here(folder)
    wrong.layers[2].input_layernorm.eps *= 1000
    found = compare_gradients(as_subject(wrong), reference(folder), IDS, CONFIG, tolerance)
    assert found.bug.operation == "layers.2.input_layernorm"  # not a gradient: they only follow


def test_generation_says_where_the_answers_part(tmp_path):
    write_random(tmp_path, CONFIG, torch.float32)
    request = Request(str(tmp_path), modes=["greedy", "sampled"], first=Settings("float32"), second=Settings("float32"))
    assert [each.verdict for each in run_request(request)] == ["equal", "equal"]


def test_a_wrong_choice_of_token_is_located(folder, monkeypatch):
    monkeypatch.setattr(
        parity_generation,
        "generate",
        lambda model, prompts, **options: [
            dataclasses.replace(each, ids=[*each.ids[:3], (each.ids[3] + 1) % CONFIG.vocab_size, *each.ids[4:]])
            for each in generate(model, prompts, **options)
        ],
    )
    sides = as_subject(here(folder)), reference(folder)
    found = compare_generation(*sides, IDS, 6, "greedy", CONFIG, Tolerance(), 0)
    assert found.verdict == "bug" and found.bug.operation == "choice" and found.bug.token == (0, 3)


def test_tokenizers_are_compared_line_by_line_and_their_readings_named(tmp_path):
    model = tokenizer_files.llama_model()
    files = {"tokenizer_model": model, "tokenizer_json": tokenizer_files.llama_json(model)}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False} | names
    tokenizer_files.write(tmp_path, **files, special_tokens_map_json=names, tokenizer_config_json=settings)
    lines = tokenizer_files.TEXT.splitlines(keepends=True)

    found = compare_tokenizers(str(tmp_path), str(tmp_path), tmp_path, lines)
    assert found.verdict == "equal" and set(found.details["readings"].values()) == {"published"}
    with pytest.raises(ValueError, match="is a function"):
        compare_tokenizers("somebody:make", "transformers", tmp_path, lines)
    found = compare_tokenizers(str(tmp_path), "transformers", tmp_path, lines)
    assert found.details["readings"]["transformers"] == "transformers5"
    assert found.verdict == "bug" and any("different readings" in note for note in found.notes)


# ---- command line, page, certificate


def parity(*arguments: str) -> int:
    return cli.main(["parity", *arguments])


def test_exit_status_says_equal_different_or_unusable(capsys, folder, tmp_path):
    given = ["--model", str(folder), "--dtype", "float32", "--tokens", "12"]
    assert parity(*given, "--mode", "whole,steps") == 0
    assert re.search(r"whole +equal +0 of", capsys.readouterr().out)
    assert parity(*given, "--against-attention", "eager") == 1
    assert "rounding" in capsys.readouterr().out
    assert parity(*given, "--against-attention", "eager", "--max-kl", "1e-6") == 0
    assert parity("--model", str(tmp_path / "nothing")) == 2
    with pytest.raises(SystemExit) as stopped:
        parity("--mode", "sideways")
    assert stopped.value.code == 2


def test_somebody_elses_llama_is_named_by_module_and_function(capsys, folder, tmp_path, monkeypatch):
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


def test_the_page_needs_nothing_but_itself(folder, tmp_path, capsys):
    file = tmp_path / "out.html"
    parity("--model", str(folder), "--dtype", "float32", "--against-attention", "eager", "--report", str(file))
    html = file.read_text(encoding="utf-8")
    assert "<svg" in html and "First divergence" in html and 'class="mark"' in html
    assert "light-dark(" in html
    assert not re.search(r"(src|href)=|https?://|@import|url\(", html)
    assert describe_environment()["torch"] in html


def test_random_weights_serve_any_side_and_no_second_checkpoint(capsys, folder):
    assert parity("--random", "tiny", "--model", "transformers-cast", "--dtype", "bfloat16") == 1
    assert "inv_freq" in capsys.readouterr().out
    assert parity("--random", "tiny", "--model", str(folder)) == 2
    assert "cannot be named beside --random" in capsys.readouterr().err


def test_a_certificate_is_run_again(tmp_path, capsys):
    file = tmp_path / "certificate.json"
    given = ["--random", "tiny", "--layers", "2", "--tokens", "8", "--dtype", "float32", "--certificate", str(file)]
    assert parity(*given) == 0
    assert parity(*given, "--mode", "steps", "--against-attention", "eager") == 1
    assert len(read_certificate(file)["runs"]) == 2
    capsys.readouterr()
    assert parity("--replay", str(file)) == 0
    assert capsys.readouterr().out.count("the same bytes") == 2

    content = read_certificate(file)
    content["runs"][0]["results"][0]["sha256"][0] = "0" * 64
    file.write_text(json.dumps(content))
    assert parity("--replay", str(file)) == 1
    assert "different" in capsys.readouterr().out


def certified() -> list[int]:
    return list(range(len(read_certificate(CERTIFICATE)["runs"])))


def skip_elsewhere() -> None:
    changed = environment_changes(read_certificate(CERTIFICATE)["environment"], describe_environment())
    if changed:
        pytest.skip(f"the certificate is for other conditions, where bits may differ: {'; '.join(changed)}")


def test_a_part_of_the_committed_certificate_gives_the_same_bytes():
    skip_elsewhere()
    runs, _ = replay(CERTIFICATE, certified()[:1])
    assert all(run.same for run in runs), [run.results for run in runs]


@pytest.mark.slow
def test_the_whole_committed_certificate_gives_the_same_bytes():
    skip_elsewhere()
    runs, _ = replay(CERTIFICATE)
    assert all(run.same for run in runs), [run.results for run in runs]


# ---- full size, and cost


def test_the_full_size_proof_in_miniature(tmp_path):
    result = prove("tiny", tmp_path / "checkpoint")
    assert not result.different and len(result.rows) > 70
    files = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert files == {"config.json", "pytorch_model.bin.index.json", *result.shards} and len(result.shards) == 2
    index = json.loads((tmp_path / "checkpoint" / "pytorch_model.bin.index.json").read_text())
    assert len(index["weight_map"]) == 9 * 4 + 3 + 4  # the parameters, and inv_freq of every layer


@pytest.mark.fullsize
@pytest.mark.parametrize(
    ("shape", "parameters", "size"),
    [("7b", 6_738_415_616, 13_476_839_424), ("7b-fast", 6_845_263_872, 13_690_535_936)],
)
def test_the_full_size_proof(tmp_path, shape, parameters, size):
    result = prove(shape, tmp_path)
    assert (result.parameters, result.total_size) == (parameters, size)
    assert result.peak_bytes < 16 * 2**30
    assert not result.different
