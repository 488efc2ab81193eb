"""int8 and int4 weights: the numbers, the files, the calibration, and certificates that are worth something."""

from __future__ import annotations

import json
import re
import shutil
from itertools import islice
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from helpers.reference import publish, save_random
from tqdm import tqdm

import llama_jp
from llama_jp.checkpoint.config import parse_config
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.random_checkpoint import random_config
from llama_jp.checkpoint.tensors import find_tensors
from llama_jp.cli import main
from llama_jp.evaluation.divergence import measure_divergence
from llama_jp.evaluation.documents import CALIBRATION, TEXTS, Text, Window, cut, read_text
from llama_jp.evaluation.layerwise import choose_arithmetic, logits_by_layer
from llama_jp.linear.layer import QuantizedLinear, linear_modules
from llama_jp.linear.scheme import Scheme
from llama_jp.linear.weight import int4_values, pack, unpack
from llama_jp.quantization.certificate import verify
from llama_jp.quantization.convert import fill_shards, open_original, quantize, quantized_tensors
from llama_jp.quantization.gptq import DAMPING, Calibration, round_gptq, second_moments, unit_factor
from llama_jp.quantization.rounding import fit_groups, nearest_int4, round_weight
from llama_jp.speed.optimization import LEVELS

INT4 = {"bits": 4, "group_size": 32}
# Grouped heads, and every size another one that groups of 32 divide.
SHAPE = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
}
NO_TOKENIZER = pytest.mark.filterwarnings("ignore:there is no tokenizer")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("tiny"), 31, attention_bias=True, **SHAPE)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """The demo in every way. The certificates lie in the folders."""
    folder = tmp_path_factory.mktemp("made")
    quantize("demo", folder / "int8")
    quantize("demo", folder / "rtn", **INT4)
    quantize("demo", folder / "gptq", **INT4, method="gptq")
    return {name: folder / name for name in ("int8", "rtn", "gptq")}


@pytest.fixture
def copy(made, tmp_path) -> Path:
    """A quantised folder to spoil."""
    return shutil.copytree(made["rtn"], tmp_path / "copy")


def result(folder: Path) -> dict:
    return json.loads((folder / "certificate.json").read_text())["result"]


def rewrite(folder: Path, change) -> None:
    """Change the tensors of a folder with one file."""
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def rewrite_json(file: Path, change) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# ---- the numbers


def test_int8_by_hand():
    parts = round_weight(Scheme(8), "x", torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    assert parts["weight"].tolist() == [[64, -127, 32], [0, 0, 0]]  # 63.5 and 31.75, to nearest (even)
    assert parts["scale"].tolist() == [pytest.approx(2 / 127), 1.0]


def test_int4_by_hand():
    """Sixteen even steps from -1.75: nothing is lost, the first is 0, the last 15; the even input is the low half."""
    row = torch.arange(16).repeat(2) * 0.25 - 1.75
    parts = round_weight(Scheme(4, 32), "x", row[None])
    assert parts["scale"].tolist() == [[0.25]] and parts["zero"].tolist() == [[0.25]]  # (8 - 8) * scale + zero
    assert parts["weight"][0, :8].tolist() == [low + 16 * (low + 1) for low in range(0, 16, 2)]
    assert torch.equal(int4_values(unpack(parts["weight"]), parts["scale"], parts["zero"])[0], row)


def test_pack_and_unpack_are_inverse():
    q = torch.randint(0, 16, (5, 64), dtype=torch.uint8)
    assert torch.equal(unpack(pack(q)), q)


def test_a_constant_group_keeps_its_value():
    values = torch.tensor([0.0, 0.375, -3.0]).repeat_interleave(32)[None]
    parts = round_weight(Scheme(4, 32), "x", values)
    assert torch.equal(int4_values(unpack(parts["weight"]), parts["scale"], parts["zero"]), values)


def test_every_value_is_rounded_to_the_nearest():
    weight = torch.randn(70, 64, generator=torch.Generator().manual_seed(0))  # more rows than are rounded at once
    parts = round_weight(Scheme(8), "x", weight)
    error = (parts["weight"].float() * parts["scale"][:, None] - weight).abs()
    assert bool((error <= 0.5001 * parts["scale"][:, None]).all())

    groups = weight.unflatten(1, (-1, 32))
    scale, zero = fit_groups(groups)
    values = [int4_values(torch.full_like(groups, q), scale, zero) for q in range(16)]
    nearest = torch.stack([(value - weight).abs() for value in values]).amin(0)
    error = (int4_values(nearest_int4(groups, scale, zero), scale, zero) - weight).abs()
    assert torch.allclose(error, nearest, atol=1e-6)


def test_a_smaller_range_is_taken_only_where_it_is_better():
    groups = torch.randn(64, 4, 128, generator=torch.Generator().manual_seed(0))

    def error(scale, zero):
        return (int4_values(nearest_int4(groups, scale, zero), scale, zero) - groups.flatten(1)).square().sum()

    assert error(*fit_groups(groups)) < 0.95 * error(*fit_groups(groups, shrinks=(1.0,)))


def test_int4_holds_what_torchs_own_product_takes(made):
    """Same integers, same scales, same zeros: the operator's result differs by rounding only."""
    linear = load_model(made["rtn"], dtype="bfloat16", device="cpu").layers[1].mlp.down_proj
    x = torch.randn(3, linear.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    packed = torch._convert_weight_to_int4pack_for_cpu(unpack(linear.weight).int(), 1)
    numbers = torch.stack((linear.scale, linear.zero), -1).transpose(0, 1).contiguous()  # (K / g, N, 2)
    product = torch._weight_int4pack_mm_for_cpu(x, packed, linear.group_size, numbers)
    exact = F.linear(x.double(), linear.dequantize(torch.float64))
    assert (product.double() - exact).abs().max() < 0.01 * exact.abs().max()  # measured: 0.003, bfloat16's rounding


def test_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"layers.1.mlp.up_proj.weight has values that are not finite"):
        round_weight(Scheme(8), "layers.1.mlp.up_proj", torch.tensor([[1.0, float("nan")]]))


# ---- the files, and loading them


@NO_TOKENIZER
@pytest.mark.parametrize("scheme", [Scheme(8), Scheme(4, 32), Scheme(4, 32, head_bits=4)], ids=str)
def test_what_is_loaded_is_the_rounded_original(tiny, tmp_path, scheme):
    """Every module, with biases and grouped heads; the rest is left alone, and `forward` is its definition."""
    quantize(tiny, tmp_path / "out", scheme.bits, scheme.group_size or 128, head_bits=scheme.head_bits)
    full, small = (load_model(folder, dtype="float32", device="cpu") for folder in (tiny, tmp_path / "out"))
    for name, module in full.named_modules():
        if isinstance(module, torch.nn.Linear):
            quantized = small.get_submodule(name)
            assert isinstance(quantized, QuantizedLinear)
            for part, tensor in round_weight(scheme, name, module.weight.detach()).items():
                assert torch.equal(getattr(quantized, part), tensor), (name, part)
            x = torch.randn(2, module.in_features)
            assert torch.equal(quantized(x), F.linear(x, quantized.dequantize(torch.float32), module.bias))
            module.weight.data = quantized.dequantize(torch.float32)
        else:
            for part, parameter in module.named_parameters(recurse=False):
                assert torch.equal(small.get_submodule(name).get_parameter(part), parameter), (name, part)
    ids = torch.randint(0, 80, (2, 20))
    assert torch.equal(small(ids), full(ids))


@NO_TOKENIZER
def test_bin_shards_give_the_same_file(tiny, tmp_path):
    quantize(tiny, tmp_path / "a", **INT4)
    quantize(publish(tiny, tmp_path / "published"), tmp_path / "b", **INT4)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second


@NO_TOKENIZER
def test_shards_are_filled_and_change_nothing(tiny, tmp_path):
    quantize(tiny, tmp_path / "one")
    quantize(tiny, tmp_path / "many", max_shard_bytes=20_000)
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and all(file.stat().st_size < 30_000 for file in files)
    ids = torch.arange(2, 32)[None]
    one, many = (load_model(tmp_path / name, dtype="float32")(ids) for name in ("one", "many"))
    assert torch.equal(one, many)
    assert fill_shards({"a": 5, "b": 5, "c": 11, "d": 1}, 10) == [["a", "b"], ["c"], ["d"]]


@NO_TOKENIZER
def test_a_tied_head_is_left_alone(tmp_path):
    folder = save_random(tmp_path / "tied", 32, tie_word_embeddings=True, **SHAPE)
    quantize(folder, tmp_path / "out")
    model = load_model(tmp_path / "out")
    assert model.lm_head.weight is model.embed_tokens.weight
    assert isinstance(model.layers[0].mlp.up_proj, QuantizedLinear)
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "lm_head" in raw["quantization_config"]["left_alone"]


def test_weights_are_mapped_and_keep_their_dtype(made):
    """dtype says what is computed in: it converts embeddings and norms, never what is quantised."""
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(made["rtn"], dtype=dtype, device="cpu")
        linear = model.layers[0].self_attn.q_proj
        assert (linear.weight.dtype, linear.scale.dtype, linear.zero.dtype) == (torch.uint8, *2 * [torch.bfloat16])
        assert model.lm_head.scale.dtype == torch.float32
        assert model(torch.tensor([[1, 2]])).dtype == model.norm.weight.dtype == dtype
        address = linear.weight.data_ptr()
        maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
        inside = [line for line in maps if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
        assert str(made["rtn"]) in inside[0][-1]


def test_changing_the_dtype_rounds_no_scale(made):
    model = load_model(made["int8"], dtype="float32", device="cpu")
    before = model.lm_head.scale.clone()
    model.to(torch.bfloat16)
    assert torch.equal(model.lm_head.scale, before) and model.norm.weight.dtype == torch.bfloat16
    assert model.to("meta").lm_head.scale.is_meta


def test_generates_through_the_ordinary_ways(made):
    model, tokenizer = llama_jp.load(made["gptq"], dtype="float32")
    prompt = llama_jp.instruct_prompt(tokenizer, "クマが海辺に行ってアザラシと友達になる話を書いてください。")
    answer = tokenizer.decode(llama_jp.generate(model, [prompt], max_new_tokens=200)[0].ids)
    assert "クマ" in answer and "アザラシ" in answer and "海辺" in answer


@pytest.mark.parametrize("name", ["int8", "rtn"])
@pytest.mark.parametrize("level", [None, *LEVELS])
def test_products_of_bytes_come_close_to_the_definition(made, name, level):
    """In bfloat16, as loaded and optimised: near the dequantised product, and what is saved stays the same."""
    model = load_model(made[name], "bfloat16")
    ids = torch.arange(3, 83).view(2, 40)
    with torch.inference_mode():
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        exact = load_model(made[name], "float32")(ids)
        optimized = None if level is None else llama_jp.optimize(model, level)
        for logits in (model(ids), torch.cat([model(ids[:, :1]), model(ids)[:, 1:]], dim=1)):
            assert ((logits - exact).norm() / exact.norm()).item() < (0.05 if level == "int8" else 0.03)
        after = model.state_dict()
        assert after.keys() == state.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
        if optimized is not None:
            optimized.undo()
            assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_saved_again_it_is_the_same(made, tmp_path):
    model = load_model(made["rtn"], dtype="float32", device="cpu")
    model.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again", dtype="float32", device="cpu")
    ids = torch.arange(2, 32)[None]
    assert torch.equal(again(ids), model(ids)) and again.layers[0].mlp.up_proj.bits == 4


def test_gradients_pass_through(made):
    model = load_model(made["rtn"], dtype="float32", device="cpu")
    model(torch.tensor([[1, 5, 9]])).square().sum().backward()
    assert model.embed_tokens.weight.grad.abs().sum() > 0 and model.layers[0].input_layernorm.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.layers.0.mlp.up_proj.zero"), "missing model.layers.0.mlp.up_proj.zero"),
        (lambda t: t.update({"model.norm.zero": torch.zeros(1)}), "unexpected model.norm.zero in model.safetensors"),
        (
            lambda t: t.update({"lm_head.scale": torch.ones(3071)}),
            r"misshapen lm_head.scale in model.safetensors is \(3071,\) where config.json makes it \(3072,\)",
        ),
        (
            lambda t: t.update({"lm_head.weight": t["lm_head.weight"].view(torch.uint8)}),
            "lm_head.weight in model.safetensors is torch.uint8, not torch.int8",
        ),
        (
            lambda t: t.update({"lm_head.scale": t["lm_head.scale"].bfloat16()}),
            "lm_head.scale in model.safetensors is torch.bfloat16, not torch.float32",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(copy, change, message):
    rewrite(copy, change)
    with pytest.raises(ValueError, match=message):
        load_model(copy)


def test_a_truncated_file_is_refused(copy):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="model.safetensors is damaged or incomplete"):
        load_model(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, "is not supported; only llama_jp's own is"),
        ({"format": 2}, "has the format 2; supported is 1"),
        ({"bits": 3}, "bits is 4 or 8, not 3"),
        ({"bits": 8}, "group_size is for 4 bits and only for them, but bits is 8"),
        ({"bits": 8, "group_size": None}, "misshapen"),
        ({"group_size": 48}, "group_size is one of 32, 64, 128, not 48"),
        ({"group_size": 128}, "layers.0.mlp.down_proj has 704 inputs, which groups of 128 do not divide; 32 and 64"),
        ({"group_size": 64}, r"misshapen .*scale in model.safetensors is \(256, 8\) where config.json .* \(256, 4\)"),
        ({"method": "awq"}, "method is rtn or gptq, not 'awq'"),
        ({"head_bits": 2}, "head_bits is 8 or bits, which is 4, not 2"),
        ({"left_alone": []}, r"left_alone \[\], which is not understood"),
        ({"rotated": True}, "rotated True, which is not understood"),
    ],
)
def test_a_config_that_is_not_understood_is_refused(copy, changes, message):
    rewrite_json(copy / "config.json", lambda raw: raw["quantization_config"].update(changes))
    with pytest.raises(ValueError, match=message):
        load_model(copy)


def test_quantization_configs_of_others_stay_refused():
    raw = json.loads((demo_folder() / "config.json").read_text())
    with pytest.raises(ValueError, match="quantization_config {'quant_method': 'bitsandbytes'} is not supported"):
        parse_config(raw | {"quantization_config": {"quant_method": "bitsandbytes"}})


# ---- refused before anything is written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("demo OUT --bits 4", "704 inputs, which groups of 128 do not divide; 32 and 64 would"),
        ("demo OUT --bits 4 --group-size 48", "group_size is one of 32, 64, 128, not 48"),
        ("demo OUT --group-size 64", "--group-size is for --bits 4"),
        ("demo OUT --method gptq", "gptq is for 4 bits"),
        ("demo OUT --head-bits 4", "head_bits is 8 or bits, which is 8, not 4"),
        ("demo OUT --calibrate TEXT", "--calibrate is for --method gptq"),
        ("demo OUT --text SHORT", "3 tokens to predict; it takes at least 200"),
        ("demo OUT --text LATIN", "is not a UTF-8 text"),
        ("demo OUT --text nowhere.txt", r"nowhere.txt is no file, and none of the texts .*held-out.ja.txt"),
        ("demo OUT --bits 4 --group-size 32 --method gptq --calibrate SHORT", "3 tokens to predict"),
        ("INT8 OUT", "is quantised already .int8, a scale for each row.; quantise its original"),
        ("TINY OUT --bits 4 --group-size 32 --method gptq", "gptq reads a text, and there is no tokenizer"),
        ("demo INT8", "exists and is not an empty folder"),
        ("demo SHORT", "exists and is not an empty folder"),
        ("demo", "say what to quantise and where to write it"),
        ("demo OUT --against demo", "--against goes with --verify"),
        ("--verify INT8 --bits 8", "--verify FOLDER measures what is there"),
        ("--verify demo", "is not quantised, so there is nothing to verify"),
        ("--verify INT8 --against TINY", "is not what the certificate is about"),
    ],
)
def test_wrong_input_is_one_sentence_and_leaves_nothing(made, tiny, tmp_path, capsys, words, message):
    (tmp_path / "short").write_text("短い。", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"caf\xe9 " * 500)
    names = {"OUT": tmp_path / "out", "SHORT": tmp_path / "short", "LATIN": tmp_path / "latin"}
    names |= {"INT8": made["int8"], "TINY": tiny, "TEXT": TEXTS / "prose.ja.txt"}
    assert main(["quantize", *(str(names.get(word, word)) for word in words.split())]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert re.search(message, error), error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latin", "short"]


@NO_TOKENIZER
def test_a_failure_half_way_leaves_nothing(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "spoilt")
    rewrite(folder, lambda t: t["model.layers.1.mlp.down_proj.weight"].fill_(float("inf")))
    with pytest.raises(ValueError, match="layers.1.mlp.down_proj.weight has values that are not finite"):
        quantize(folder, tmp_path / "out", max_shard_bytes=1000)
    assert [file.name for file in tmp_path.iterdir()] == ["spoilt"]


def test_bits_are_4_or_8():
    with pytest.raises(ValueError, match="bits is 4 or 8, not 3"):
        quantize("demo", "nowhere", bits=3)


def test_without_a_tokenizer_there_is_no_certificate(tiny, tmp_path):
    with pytest.warns(UserWarning, match="no tokenizer in .*, so there is no text to certify on"):
        assert quantize(tiny, tmp_path / "out") is None
    with pytest.raises(FileNotFoundError, match=r"there is no certificate.json in .*quantised without a tokenizer"):
        verify(tmp_path / "out", tiny)


# ---- calibration


def test_gptq_of_unrelated_inputs_rounds_to_nearest():
    weight = torch.randn(20, 160, generator=torch.Generator().manual_seed(0))
    parts = round_gptq(weight, unit_factor(torch.eye(160), "x"), 32)
    groups = weight.unflatten(1, (-1, 32))
    found = fit_groups(groups, shrinks=(1.0,))
    assert torch.equal(parts["scale"], found[0]) and torch.equal(parts["zero"], found[1])
    assert torch.equal(unpack(parts["weight"]), nearest_int4(groups, *found).flatten(1))


def test_gptq_moves_errors_to_where_they_cost_less():
    """On inputs that move together, as real ones do, the product is much nearer than that of plain rounding."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 40, generator=generator) @ torch.randn(40, 160, generator=generator)
    x += 0.5 * torch.randn(500, 160, generator=generator)
    weight = torch.randn(20, 160, generator=generator)
    parts = (
        round_gptq(weight, unit_factor(second_moments([x[None]]), "x"), 32),
        round_weight(Scheme(4, 32), "x", weight),
    )
    errors = [((int4_values(unpack(p["weight"]), p["scale"], p["zero"]) - weight) @ x.T).norm() for p in parts]
    assert errors[0] < 0.5 * errors[1]  # measured: 0.33


def test_gptq_is_the_papers_from_the_last_column_to_the_first():
    """Algorithm 1 of the paper as it stands there, with the inverse of H, on the columns in reverse."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 96, generator=generator) @ torch.randn(96, 96, generator=generator)
    weight = torch.randn(20, 96, generator=generator)
    H = x.double().T @ x.double() / 500
    H.diagonal().add_(DAMPING * H.diagonal().mean())
    U = torch.linalg.cholesky(torch.linalg.inv(H.flip(0, 1)), upper=True)
    moved = weight.double().flip(1)
    q = torch.empty_like(weight, dtype=torch.uint8)
    for k in range(96):
        if k % 32 == 0:
            scale, zero = fit_groups(moved[:, None, k : k + 32].float(), shrinks=(1.0,))
        q[:, k] = nearest_int4(moved[:, k, None, None], scale, zero)[:, 0, 0]
        error = (moved[:, k] - int4_values(q[:, k, None], scale, zero)[:, 0]) / U[k, k]
        moved[:, k:] -= error[:, None] * U[k, k:]
    parts = round_gptq(weight, unit_factor(second_moments([x[None]]), "x"), 32)
    assert torch.equal(unpack(parts["weight"]), q.flip(1))


def test_moments_in_panels_are_the_moments(monkeypatch):
    monkeypatch.setattr("llama_jp.quantization.gptq.PANEL", 16)
    inputs = [torch.randn(1, T, 40, generator=torch.Generator().manual_seed(T)).bfloat16() for T in (30, 70)]
    x = torch.cat(inputs, 1)[0].double()  # (100, 40)
    H = (x.T @ x / 100).float()
    moments = second_moments(inputs)
    assert torch.allclose(moments.triu(), H.triu(), atol=1e-6)

    full, half = (unit_factor(one, "x") for one in (H, moments))
    assert torch.allclose(full, half, atol=1e-4) and torch.equal(half.diagonal(), torch.ones(40))


def test_each_layer_is_rounded_for_what_it_will_be_given(made):
    """What calibration sends through the layers is what the quantised model computes, to the bit."""
    folder, quantized = demo_folder(), load_model(made["gptq"], dtype="float32", device="cpu")
    model, stored = open_original(folder)
    windows = read_text(CALIBRATION, llama_jp.Tokenizer.from_pretrained(folder), model.config).windows
    bar = tqdm(disable=True)
    calibration = Calibration(model, quantized.quantization, windows, torch.float32, bar)
    linear = linear_modules(model, quantized.quantization)
    for _ in quantized_tensors(stored, quantized.quantization, linear, calibration, bar):
        pass
    with torch.inference_mode():
        for window, hidden in zip(windows, calibration.hidden, strict=True):
            assert torch.equal(quantized.lm_head(quantized.norm(hidden)), quantized(window.ids))


def test_large_models_are_read_in_what_the_cpu_multiplies(monkeypatch):
    demo = load_model("demo").config
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("llama_jp.evaluation.layerwise.multiplies_bfloat16", lambda native=native: native)
        assert choose_arithmetic(random_config("7b")) == dtype and choose_arithmetic(demo) == torch.float32


def test_read_in_bfloat16_calibration_is_as_good(made, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_jp.quantization.convert.choose_arithmetic", lambda config: torch.bfloat16)
    monkeypatch.setattr("llama_jp.quantization.certificate.choose_arithmetic", lambda config: torch.float32)
    quantize("demo", tmp_path / "out", **INT4, method="gptq")
    assert result(tmp_path / "out")["kl_divergence"] < 0.8 * result(made["rtn"])["kl_divergence"]


def test_a_float32_original_gives_the_same(made, tmp_path):
    load_model("demo", dtype="float32", device="cpu").save_pretrained(tmp_path / "float32")
    quantize(tmp_path / "float32", tmp_path / "out", **INT4, method="gptq")
    first, second = (load_model(folder, dtype="float32", device="cpu") for folder in (made["gptq"], tmp_path / "out"))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_quality(made):
    """What these weights cost the demo on stories that it has never seen."""
    int8, rtn, calibrated = (result(made[name]) for name in ("int8", "rtn", "gptq"))
    assert int8["kl_divergence"] <= 0.001 and int8["top1_agreement"] > 0.995
    for int4 in (rtn, calibrated):
        assert int4["perplexity"]["quantized"] <= 1.03 * int4["perplexity"]["original"]
    assert calibrated["kl_divergence"] < 0.8 * rtn["kl_divergence"]
    assert int8["kl_divergence"] < calibrated["kl_divergence"]


# ---- texts


def test_the_texts_can_be_made_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(demo_folder()))
    import make_texts

    monkeypatch.setattr(make_texts, "TEXTS", tmp_path)
    make_texts.main()
    for file in TEXTS.glob("*.txt"):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_texts_are_read_as_the_demo_was_trained(monkeypatch):
    monkeypatch.syspath_prepend(str(demo_folder()))
    import corpus
    import train

    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    held_out = read_text("held-out.ja.txt", tokenizer, load_model("demo").config)
    documents = (turns for turns in corpus.documents("texts", "held-out") if len(turns) == 1)
    for window, turns in zip(held_out.windows, islice(documents, len(held_out.windows)), strict=True):
        ids, learnt = train.encode(tokenizer, turns)
        assert window.ids[0].tolist() == ids and window.counted.tolist() == learnt[1:]


def test_long_documents_are_cut_into_windows():
    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    whole = tokenizer.encode("クマが海辺に行きました。")
    windows = list(cut("クマが海辺に行きました。", tokenizer, 4))
    assert sum((window.ids[0, 1:].tolist() for window in windows), []) == whole[1:]
    assert all(window.ids[0, 0] == 1 and window.ids.shape[1] <= 4 and window.counted.all() for window in windows)


def test_a_tokenizer_of_another_model_is_refused(tiny):
    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    with pytest.raises(ValueError, match=r"the tokenizer gives id \d+, but the model has 80 ids: not a pair"):
        read_text("held-out.ja.txt", tokenizer, load_model(tiny).config)


# ---- certificates


def test_measures_by_hand():
    """Two models of two words: 3/4 : 1/4 against 1/2 : 1/2 and back, the second word always right; one not counted."""
    first, second = torch.tensor([3.0, 1.0]).log(), torch.tensor([1.0, 1.0001]).log()
    window = Window(torch.tensor([[0, 1, 0, 1]]), torch.tensor([False, True, True]))

    found = measure_divergence([first.expand(4, 2)], [second.expand(4, 2)], Text("", "", [window]))
    assert found["kl_divergence"] == pytest.approx(0.75 * torch.tensor(1.5).log().item() + 0.25 * -0.693147, abs=1e-4)
    assert found["top1_agreement"] == 0
    assert found["perplexity"]["original"] == pytest.approx((0.75 * 0.25) ** -0.5)
    assert found["perplexity"]["quantized"] == pytest.approx(2, abs=1e-3)


@NO_TOKENIZER
@torch.inference_mode()
@pytest.mark.parametrize("tied", [False, True])
def test_layer_by_layer_gives_the_models_logits(tmp_path, tied):
    """Original and quantised, with biases and grouped heads, to the bit."""
    folder = save_random(tmp_path / "model", 33, attention_bias=True, tie_word_embeddings=tied, **SHAPE)
    quantize(folder, tmp_path / "int4", **INT4)
    windows = [Window(torch.arange(1, T)[None], torch.ones(T - 2, dtype=torch.bool)) for T in (20, 50)]
    for name in ("model", "int4"):
        model = load_model(tmp_path / name, "float32", "cpu")
        for window, logits in zip(windows, logits_by_layer(tmp_path / name, windows, torch.float32, name), strict=True):
            assert torch.equal(logits, model(window.ids)[0])


def test_a_certificate_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_jp.quantization.certificate.choose_arithmetic", lambda config: torch.bfloat16)
    certificate = quantize("demo", tmp_path / "out")
    assert certificate["arithmetic"]["dtype"] == "bfloat16" and certificate["result"]["kl_divergence"] < 0.001
    monkeypatch.undo()
    assert verify(tmp_path / "out").exactly


def test_verifying_gives_the_same_numbers(made, capsys):
    assert main(["quantize", "--verify", str(made["int8"])]) == 0
    assert "equal: every number as certified, to the last digit" in capsys.readouterr().out


def test_a_wrong_certificate_is_found_out(copy, capsys):
    def boast(certificate):
        certificate["result"]["kl_divergence"] /= 2
        certificate["result"]["top1_agreement"] = 1.0

    rewrite_json(copy / "certificate.json", boast)
    assert main(["quantize", "--verify", str(copy)]) == 1
    out = capsys.readouterr().out
    assert "NOT equal: kl_divergence is" in out and "top1_agreement is" in out and "perplexity is" not in out


def test_rounding_of_another_cpu_is_not_a_difference(copy):
    def nudge(certificate):
        certificate["result"]["kl_divergence"] *= 1.001

    rewrite_json(copy / "certificate.json", nudge)
    verdict = verify(copy)
    assert verdict.equal and not verdict.exactly


def test_a_certificate_is_about_these_weights(copy):
    rewrite(copy, lambda t: t["lm_head.weight"][0].add_(1))
    with pytest.raises(ValueError, match="model.safetensors in .* is not what the certificate is about"):
        verify(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "has the format 2; supported is 1"),
        (lambda c: c["result"].pop("perplexity"), "is not complete: it has no result.perplexity.original"),
        (lambda c: c["result"].update(kl_divergence="0"), "has '0' for result.kl_divergence, where a number"),
        (lambda c: c["arithmetic"].update(dtype="int8"), "has the dtype 'int8'; it can be float32, bfloat16"),
    ],
)
def test_a_spoilt_certificate_is_refused(copy, change, message):
    rewrite_json(copy / "certificate.json", change)
    with pytest.raises(ValueError, match=message):
        verify(copy)


def test_another_text_is_measured(copy, capsys):
    assert main(["quantize", "--verify", str(copy), "--text", "prose.ja.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is None and found["measured"]["text"]["file"] == "prose.ja.txt"


def test_an_original_in_a_folder_has_to_be_named(made, tmp_path):
    """A path of this machine is nobody else's business, so the certificate does not hold one."""
    quantize(demo_folder(), tmp_path / "out")
    assert str(demo_folder()) not in (tmp_path / "out" / "certificate.json").read_text()
    with pytest.raises(ValueError, match="does not say where the original is to be had; name it with --against"):
        verify(tmp_path / "out")


def test_info_shows_how_it_is_quantised(made, capsys):
    assert main(["info", "--model", str(made["gptq"])]) == 0
    out = capsys.readouterr().out
    assert "int4 in groups of 32 (gptq), lm_head int8" in out
    size = sum(tensor.nbytes for tensor in find_tensors(made["gptq"]).values())
    assert f"{size / 2**20:.2f} MiB as stored" in out
