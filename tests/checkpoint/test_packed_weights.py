"""GPTQ and AWQ checkpoints, packed here from their published layouts, one value at a time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.reference import SMALL, save_random, theirs
from helpers.tokenizer_files import llama_model
from safetensors.torch import load_file, save_file

import llama_jp
from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.checkpoint.layouts import find_tensors
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.tensors import read_tensor, read_tensors
from llama_jp.cli import main

# Both sizes of every matrix are multiples of 16 and unlike each other; 96 is no multiple of the group size 64.
SHAPE = SMALL | {
    "vocab_size": 560,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds this output of its eight


def pack_word(values: list[int], bits: int) -> int:
    """One int32 with the first value in its lowest bits."""
    word = sum(value << (bits * i) for i, value in enumerate(values))
    return word - 2**32 if word >= 2**31 else word


def pack_lines(lines: list[list[int]], bits: int, order: list[int] | None = None) -> torch.Tensor:
    """Each line of values as words."""
    per_word = 32 // bits
    order = order or list(range(per_word))
    words = [[pack_word([line[i + k] for k in order], bits) for i in range(0, len(line), per_word)] for line in lines]
    return torch.tensor(words, dtype=torch.int32)


def quantized(
    weight: torch.Tensor, bits: int, group_size: int, seed: int, act_order: bool = False, dtype=torch.float16
) -> dict[str, torch.Tensor]:
    """Random integers, zeros and scales of the shape of a weight (N, K), with the group of each input."""
    N, K = weight.shape
    random = torch.Generator().manual_seed(seed)
    G = 1 if group_size == -1 else -(-K // group_size)
    group = torch.arange(K) // (K if group_size == -1 else group_size)
    if act_order:
        group = group[torch.randperm(K, generator=random)]
    return {
        "q": torch.randint(0, 2**bits, (N, K), generator=random),
        "zeros": torch.randint(1, 2**bits, (G, N), generator=random),
        "scales": (torch.rand(G, N, generator=random) * 0.05 + 0.001).to(dtype),
        "group": group,
    }


def truth(parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weights: in float64, where products are exact, and then rounded once to the dtype of the scales."""
    zeros, scales = parts["zeros"].T[:, parts["group"]], parts["scales"].T[:, parts["group"]]
    return ((parts["q"] - zeros).double() * scales.double()).to(parts["scales"].dtype)


def gptq_tensors(parts: dict[str, torch.Tensor], bits: int, v2: bool = False) -> dict[str, torch.Tensor]:
    return {
        "qweight": pack_lines(parts["q"].tolist(), bits).T.contiguous(),  # (K/P, N)
        "qzeros": pack_lines((parts["zeros"] - (0 if v2 else 1)).tolist(), bits),  # (G, N/P)
        "scales": parts["scales"],
        "g_idx": parts["group"].int(),
    }


def awq_tensors(parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        "qweight": pack_lines(parts["q"].T.tolist(), 4, AWQ_ORDER),  # (K, N/8)
        "qzeros": pack_lines(parts["zeros"].tolist(), 4, AWQ_ORDER),  # (G, N/8)
        "scales": parts["scales"],
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("plain"), seed=6, **SHAPE)


def write_packed(
    plain: Path, folder: Path, config: dict, side_file: str | None = None, name: str = "model.safetensors", **options
) -> dict[str, torch.Tensor]:
    """A packed checkpoint with the embedding, norms and head of a plain one. Returns the weights that it means.

    side_file  the file with `config`; None: config.json
    options    of `quantized`
    """
    folder.mkdir()
    weights = load_file(plain / "model.safetensors")
    is_awq = config.get("quant_method", "") == "awq" or side_file == "quant_config.json"
    bits = config.get("bits") or config["w_bit"]
    group_size = config.get("group_size") or config["q_group_size"]
    stored = {}
    for i, key in enumerate(list(weights)):
        if not key.endswith("proj.weight"):
            stored[key] = weights[key]
            continue
        parts = quantized(weights[key], bits, group_size, i, **options)
        is_v2 = config.get("checkpoint_format") == "gptq_v2"
        packed = awq_tensors(parts) if is_awq else gptq_tensors(parts, bits, is_v2)
        stored |= {f"{key.removesuffix('weight')}{part}": tensor for part, tensor in packed.items()}
        weights[key] = truth(parts)
    save_file(stored, folder / name)
    raw = json.loads((plain / "config.json").read_text())
    if side_file:
        (folder / side_file).write_text(json.dumps(config))
    else:
        raw["quantization_config"] = config
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "tokenizer.model").write_bytes(llama_model())
    return weights


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (GPTQ, {}),
        (GPTQ | {"bits": 8}, {}),
        (GPTQ | {"bits": 2}, {}),
        (GPTQ | {"group_size": 64}, {}),
        (GPTQ | {"group_size": 16}, {}),
        (GPTQ | {"group_size": -1}, {}),
        (GPTQ | {"checkpoint_format": "gptq_v2"}, {}),
        (GPTQ | {"checkpoint_format": "gptq", "is_marlin_format": False, "pack_dtype": "int32"}, {}),
        (GPTQ | {"checkpoint_format": "GPTQ"}, {}),
        (GPTQ, {"act_order": True}),  # desc_act says false: g_idx counts
        (GPTQ | {"bits": 8, "desc_act": True, "checkpoint_format": "gptq_v2"}, {"act_order": True}),
        (GPTQ, {"dtype": torch.bfloat16}),
        (AWQ, {}),
        (AWQ | {"group_size": 64, "version": "GEMM"}, {}),
        (AWQ | {"group_size": 16}, {}),
    ],
)
def test_weights_equal_the_formula_to_the_bit(plain, tmp_path, config, options):
    """Guards against another order of bits, inputs or groups, a wrong zero, and a product that is rounded twice."""
    expected = write_packed(plain, tmp_path / "packed", config, **options)
    found = find_tensors(tmp_path / "packed")
    assert found.keys() == {name.removeprefix("model.") for name in expected}
    for name, weight in expected.items():
        info = found[name.removeprefix("model.")]
        assert (info.shape, info.dtype) == (tuple(weight.shape), weight.dtype)
        assert torch.equal(read_tensor(info), weight), name


@pytest.mark.parametrize("config", [GPTQ, AWQ])
def test_every_command_takes_them(plain, tmp_path, capsys, config):
    """Guards against logits, a conversion or a report that are not those of the dequantised weights."""
    folder, out = tmp_path / "packed", tmp_path / "out"
    weights = write_packed(plain, folder, config)
    reference = theirs(plain, torch.float32)
    reference.load_state_dict({name: weight.float() for name, weight in weights.items()})
    ids = torch.arange(40)[None]
    model, tokenizer = llama_jp.load(folder, dtype="float32", device="cpu")
    assert torch.equal(model(ids), reference(ids).logits)
    assert model.generation_config["bos_token_id"] == tokenizer.bos_id == 1

    assert main(["convert", str(folder), str(out)]) == 0
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert torch.equal(theirs(out, torch.float32)(ids).logits, reference(ids).logits)
    assert load_file(out / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].dtype == torch.float16
    assert main(["convert", str(folder), str(tmp_path / "out.gguf")]) == 0
    assert torch.equal(load_model(tmp_path / "out.gguf", "float32", "cpu")(ids), reference(ids).logits)

    capsys.readouterr()
    assert main(["info", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["quantization"]["method"] == config["quant_method"]
    assert facts["weights"]["dtypes"] == ["float16", "int32"]
    assert facts["parameters"] == facts["weights"]["parameters_stored"]
    assert main(["info", str(folder)]) == 0
    assert f"{config['quant_method'].upper()}, 4 bits in groups of 32, dequantised" in capsys.readouterr().out
    assert main(["quantize", str(folder), str(tmp_path / "again")]) == 1
    assert "is already quantised (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "side_file", "name"),
    [
        (GPTQ, "quantize_config.json", "gptq_model-4bit-32g.safetensors"),
        (GPTQ, None, "gptq_model-4bit-32g.safetensors"),
        ({"bits": 4, "group_size": 32, "model_file_base_name": "x"}, "quantize_config.json", "x.safetensors"),
        ({"bits": 4, "group_size": 32}, "quantize_config.json", "Llama-2-GPTQ.no-act.order.safetensors"),
        (
            {"w_bit": 4, "q_group_size": 32, "zero_point": True, "version": "GEMM"},
            "quant_config.json",
            "awq_model_w4_g128.safetensors",
        ),
    ],
)
def test_the_files_of_early_releases_are_found(plain, tmp_path, config, side_file, name):
    """Guards against the names of 2023: other weight files, a file beside config.json, and old keys."""
    expected = write_packed(plain, tmp_path / "packed", config, side_file, name)
    model = load_model(tmp_path / "packed", dtype="stored", device="cpu")
    key = "layers.1.self_attn.k_proj.weight"
    assert torch.equal(model.state_dict()[key], expected[f"model.{key}"])


def edit(folder: Path, change) -> None:
    """Change the stored tensors of a checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def test_a_file_without_g_idx_has_consecutive_groups(plain, tmp_path):
    """Guards against a key that some libraries leave out."""
    expected = write_packed(plain, tmp_path / "packed", GPTQ)
    edit(tmp_path / "packed", lambda t: [t.pop(name) for name in list(t) if name.endswith("g_idx")])
    model = load_model(tmp_path / "packed", dtype="stored", device="cpu")
    key = "layers.0.mlp.down_proj.weight"
    assert torch.equal(model.state_dict()[key], expected[f"model.{key}"])


def test_a_packed_head_is_dequantised(plain, tmp_path):
    """Guards against a rule for the linear layers of the blocks alone."""
    write_packed(plain, tmp_path / "packed", GPTQ)
    parts = quantized(torch.empty(560, 96), 4, 32, seed=1)
    packed = {f"lm_head.{part}": tensor for part, tensor in gptq_tensors(parts, 4).items()}
    edit(tmp_path / "packed", lambda t: (t.pop("lm_head.weight"), t.update(packed)))
    assert torch.equal(load_model(tmp_path / "packed", dtype="stored", device="cpu").lm_head.weight, truth(parts))


def test_a_part_of_a_weight_is_that_of_the_whole(plain, tmp_path):
    """Guards against slices of the packed words, as a rank of several processes would load them."""
    expected = write_packed(plain, tmp_path / "packed", GPTQ)
    key, part = "layers.0.mlp.down_proj.weight", (slice(None), slice(40, 120))
    info = find_tensors(tmp_path / "packed")[key]._replace(slices=part)
    loaded = read_tensors({key: info}, torch.float32, torch.device("cpu"))[key]
    assert torch.equal(loaded, expected[f"model.{key}"][part].float())


def test_a_bias_of_zeros_is_no_bias(plain, tmp_path):
    """Guards against refusing AutoGPTQ's zeros, and against losing numbers that are not zero."""
    write_packed(plain, tmp_path / "packed", GPTQ)
    edit(tmp_path / "packed", lambda t: t.update({"model.layers.0.mlp.up_proj.bias": torch.zeros(160)}))
    load_model(tmp_path / "packed", device="cpu")
    edit(tmp_path / "packed", lambda t: t["model.layers.0.mlp.up_proj.bias"].__setitem__(3, 1.0))
    with pytest.raises(ValueError, match=r"layers.0.mlp.up_proj.bias is not zero, but config.json has no"):
        load_model(tmp_path / "packed", device="cpu")


def test_a_bias_of_the_model_is_kept(tmp_path):
    """Guards against dropping the biases of a model that has them."""
    plain = save_random(tmp_path / "plain", seed=7, **SHAPE | {"attention_bias": True})
    write_packed(plain, tmp_path / "packed", AWQ)
    model = load_model(tmp_path / "packed", dtype="stored", device="cpu")
    bias = load_file(plain / "model.safetensors")["model.layers.1.self_attn.o_proj.bias"]
    assert torch.equal(model.layers[1].self_attn.o_proj.bias, bias)


UP = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.pop(f"{UP}.scales"), f"{UP}.qweight in model.safetensors is packed without {UP}.scales"),
        (
            lambda t: t.update({f"{UP}.scales": t[f"{UP}.scales"][:2]}),
            r"scales in .* is \(2, 160\) where .* \(12, 160\) and GPTQ, 4 bits in groups of 32.* make it \(3, 160",
        ),
        (
            lambda t: t.update({f"{UP}.qzeros": t[f"{UP}.qzeros"][:, 1:]}),
            r"qzeros in .* is \(3, 19\) .* make it \(3, 20",
        ),
        (lambda t: t.update({f"{UP}.g_idx": t[f"{UP}.g_idx"] + 1}), "g_idx names the groups 1 to 3, but there are 3"),
        (lambda t: t.update({f"{UP}.g_idx": t[f"{UP}.g_idx"][1:]}), r"g_idx in .* is \(95,\)"),
        (lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"].float()}), "qweight in .* is float32, and not int32"),
        (
            lambda t: t.update({f"{UP}.scales": t[f"{UP}.scales"].int()}),
            "scales in .* is int32, and not float16 or bfloat16",
        ),
        (lambda t: t.update({f"{UP}.qweight": t[f"{UP}.qweight"][0]}), "qweight in .* not a matrix"),
        (lambda t: [t.pop(f"{UP}.{p}") for p in ("qweight", "qzeros", "scales", "g_idx")], f"missing {UP}.weight"),
        (lambda t: t.pop(f"{UP}.qweight"), f"missing {UP}.weight; unexpected"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(plain, tmp_path, change, sentence):
    """Guards against an index error from the middle of the arithmetic, and against wrong weights."""
    write_packed(plain, tmp_path / "packed", GPTQ)
    edit(tmp_path / "packed", change)
    with pytest.raises(ValueError, match=sentence) as raised:
        load_model(tmp_path / "packed", device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (GPTQ | {"bits": 3}, "GPTQ weights of 3 bits are not supported .supported: 2, 4, 8"),
        (GPTQ | {"checkpoint_format": "marlin"}, "GPTQ weights in the format 'marlin' are not supported"),
        (GPTQ | {"is_marlin_format": True}, "GPTQ weights in the format 'marlin' are not supported"),
        (GPTQ | {"dynamic": {"-:.*": {}}}, "bits by module"),
        (GPTQ | {"bits": 4.0}, "GPTQ weights of 4.0 bits"),
        (GPTQ | {"pack_dtype": "int8"}, "pack_dtype 'int8'"),
        (GPTQ | {"group_size": 0}, "group_size is 0"),
        (AWQ | {"version": "gemv"}, "AWQ weights in the format 'gemv' are not supported .supported: gemm"),
        (AWQ | {"version": "gemv_fast"}, "format 'gemv_fast'"),
        (AWQ | {"bits": 8}, "AWQ weights of 8 bits"),
        (AWQ | {"zero_point": False}, "zero_point false"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "weights quantised by bitsandbytes are not supported"),
        ({"load_in_8bit": True}, "weights quantised by bitsandbytes are not supported"),
        ({"quant_method": "compressed-tensors"}, "quantised by compressed-tensors are not"),
        ({"quant_method": "fp8"}, "quantised by fp8 are not"),
        ({"quant_method": "hqq"}, "quantised by hqq are not"),
    ],
)
def test_other_formats_are_refused_by_name(plain, tmp_path, config, sentence):
    """Guards against numbers that are unpacked by the wrong rule."""
    copy = shutil.copytree(plain, tmp_path / "copy")
    raw = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(raw | {"quantization_config": config}))
    with pytest.raises(ValueError, match=sentence) as raised:
        read_config(copy)
    assert "\n" not in str(raised.value) and "config.json" in str(raised.value)


def test_mlx_is_named(plain, tmp_path):
    copy = shutil.copytree(plain, tmp_path / "copy")
    raw = json.loads((copy / "config.json").read_text())
    packed = {"group_size": 64, "bits": 4}
    (copy / "config.json").write_text(json.dumps(raw | {"quantization": packed, "quantization_config": packed}))
    with pytest.raises(ValueError, match="weights quantised by MLX are not supported"):
        load_model(copy)


def test_packed_weights_without_their_config_are_named(plain, tmp_path):
    """Guards against guessing bits and groups."""
    write_packed(plain, tmp_path / "packed", GPTQ, "quantize_config.json")
    (tmp_path / "packed" / "quantize_config.json").unlink()
    with pytest.raises(
        ValueError, match="is packed, but config.json has no quantization_config for it; copy the quanti"
    ):
        load_model(tmp_path / "packed", device="cpu")


@pytest.mark.parametrize("stem", ["model", "gptq_model-4bit-32g"])
def test_shards_are_found_by_their_index(plain, tmp_path, stem):
    """Guards against an error about several files, and against the first shard alone."""
    folder = tmp_path / "packed"
    write_packed(plain, folder, GPTQ)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number in (0, 1):
        file = f"{stem}-{number + 1:05}-of-00002.safetensors"
        names = sorted(tensors)[number::2]
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert load_model(folder, device="cpu").config.vocab_size == 560


def test_several_weight_files_are_no_choice(plain, tmp_path):
    """Guards against taking the first of two quantisations in one folder."""
    write_packed(plain, tmp_path / "packed", GPTQ, "quantize_config.json", "a.safetensors")
    shutil.copy(tmp_path / "packed" / "a.safetensors", tmp_path / "packed" / "b.safetensors")
    with pytest.raises(ValueError, match=r"several files with packed weights \(a.safetensors, b.safetensors\)"):
        load_model(tmp_path / "packed", device="cpu")


def test_a_save_removes_the_packing_of_an_earlier_one(plain, tmp_path):
    """Guards against a plain checkpoint beside a quantize_config.json."""
    write_packed(plain, tmp_path / "packed", GPTQ, "quantize_config.json")
    model = load_model(tmp_path / "packed", dtype="stored", device="cpu")
    model.save_pretrained(tmp_path / "packed")
    assert not (tmp_path / "packed" / "quantize_config.json").exists()
    assert load_model(tmp_path / "packed", device="cpu").config == model.config


def test_a_hub_repository_of_2023_is_downloaded(plain, tmp_path, monkeypatch):
    """Guards against weights that are never downloaded, because their names are not transformers'."""
    import huggingface_hub

    repository, fetched = tmp_path / "packed", tmp_path / "fetched"
    write_packed(plain, repository, GPTQ, "quantize_config.json", "gptq_model-4bit-32g.safetensors")
    fetched.mkdir()

    def snapshot_download(name, revision=None, allow_patterns=()):
        for file in repository.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, fetched)
        return str(fetched)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    find_checkpoint("dahara1/ELYZA-GPTQ", weights=False)
    assert not list(fetched.glob("*.safetensors"))
    assert load_model("dahara1/ELYZA-GPTQ", device="cpu").config.vocab_size == 560
