"""Adapters that cross to transformers and back, bit-identical, and LoRA on quantised layers."""

from __future__ import annotations

import json
import re
import shutil
import sys

import peft
import pytest
import safetensors.torch
import torch
from helpers.adapters import (
    ATTENTION,
    RANK,
    difference,
    judge,
    merged_by_peft,
    shake,
    train,
)
from helpers.checkpoint_files import IDS
from helpers.quantized import NO_TOKENIZER
from helpers.reference import DTYPES, theirs
from torch import nn

from llama_jp.checkpoint.load import load_model
from llama_jp.linear.layer import QuantizedLinear
from llama_jp.quantization import quantize
from llama_jp.training.adapters import ALL_LINEAR, add_lora, load_adapter, save_adapter, wrap_model

MLP = ["gate_proj", "up_proj", "down_proj"]
# as people write them for a Llama of this project, whose names begin with "layers"
OURS = {
    "plain": {},
    "all linear layers": {"target_modules": list(ALL_LINEAR)},
    "regex": {"target_modules": r"layers\.[02]\.(mlp\.(up|down)_proj|self_attn\.o_proj)"},
    "whole names": {"target_modules": ["layers.1.self_attn.q_proj", "lm_head"]},
    "layers": {"target_modules": [*ATTENTION, "up_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "excluded": {
        "target_modules": [*ATTENTION, *MLP],
        "exclude_modules": r"layers\.1\.mlp\.up_proj|model\.layers\.2\..*",
    },
    "dora, rslora, bias": {"use_dora": True, "use_rslora": True, "bias": "all"},
    "patterns": {
        "target_modules": [*ATTENTION, *MLP],
        "rank_pattern": {"^layers.[01].self_attn.q_proj": 3, "v_proj": 2},
        "alpha_pattern": {"up_proj": 1.5, r"^layers\.1\..*": 10},
    },
    "bias of LoRA": {"bias": "lora_only", "lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
}
# as PEFT writes them for transformers' model
THEIRS = {
    "plain": {},
    "dora, rslora, bias": {"use_dora": True, "use_rslora": True, "bias": "all"},
    "regex": {"target_modules": r"model\.layers\.[02]\.mlp\.(up|down)_proj"},
    "layers": {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]},
    "patterns": {
        "target_modules": MLP,
        "rank_pattern": {"^model.layers.2.mlp.down_proj": 7},
        "alpha_pattern": {"up_proj": 3},
    },
    "bias of LoRA": {"bias": "lora_only", "lora_bias": True},
    "embedding, head": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
}
QUIET = pytest.mark.filterwarnings("ignore:Could not identify embedding")


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    output = model.eval()(IDS)
    return getattr(output, "logits", output)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", OURS)
def test_an_adapter_trained_here_opens_in_transformers(biased, tmp_path, kind, dtype):
    """Guards against names, ranks and scales that transformers does not find, with no more than PEFT's warning."""
    model = wrap_model(
        load_model(biased, dtype, "cpu"), peft.LoraConfig(**RANK | {"target_modules": ATTENTION} | OURS[kind])
    )
    shake(model)
    save_adapter(model, tmp_path / "adapter")
    expected = logits(model)
    assert torch.equal(logits(judge(biased, tmp_path / "adapter", dtype)), expected)
    assert not torch.equal(logits(theirs(biased, dtype)), expected)
    merged = load_model(biased, dtype, "cpu", adapter=tmp_path / "adapter")
    assert difference(merged, merged_by_peft(biased, tmp_path / "adapter", dtype)) == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", THEIRS)
def test_an_adapter_trained_in_transformers_opens_here(biased, tmp_path, kind, dtype):
    folder = train(biased, tmp_path / "adapter", dtype, **THEIRS[kind])
    model, their = load_adapter(load_model(biased, dtype, "cpu"), folder), judge(biased, folder, dtype)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    expected = logits(their)
    assert torch.equal(logits(model), expected)
    save_adapter(model, tmp_path / "again")
    assert torch.equal(logits(judge(biased, tmp_path / "again", dtype)), expected)


def test_one_of_two_adapters(biased, tmp_path):
    """Guards against the tensors of all adapters in one file, and against the first one's under the second's name."""
    model = wrap_model(load_model(biased, "float32", "cpu"), peft.LoraConfig(**RANK, target_modules=ATTENTION))
    shake(model)
    model.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=8, target_modules=["up_proj"]))
    model.set_adapter("second")
    shake(model, seed=8)
    save_adapter(model, tmp_path / "second", "second")
    assert torch.equal(logits(judge(biased, tmp_path / "second", torch.float32)), logits(model))
    save_adapter(model.get_base_model(), tmp_path / "first")
    model.set_adapter("default")
    assert torch.equal(logits(judge(biased, tmp_path / "first", torch.float32)), logits(model))
    with pytest.raises(ValueError, match="no adapter 'third'; it has default, second"):
        save_adapter(model, tmp_path / "third", "third")


def test_the_files_are_those_of_peft(biased, tmp_path):
    """Guards against a key or a name that other programs look for, such as whole names where PEFT has short ones."""
    theirs_ = train(biased, tmp_path / "theirs", target_modules="all-linear", modules_to_save=["lm_head"])
    model = add_lora(load_model(biased, "float32", "cpu"), 4, 6, modules_to_save=["lm_head"])
    save_adapter(model, tmp_path / "ours")
    ours, their = (json.loads((folder / "adapter_config.json").read_text()) for folder in (tmp_path / "ours", theirs_))
    assert ours["target_modules"] == sorted(their.pop("target_modules")) == sorted(ALL_LINEAR)
    assert ours | {"target_modules": 0} == their | {"target_modules": 0}
    assert ours["base_model_name_or_path"] == str(biased) and ours["task_type"] == "CAUSAL_LM"


def test_a_model_with_the_names_of_transformers(biased, tmp_path):
    """Guards against a doubled `model.` where the adapted model is transformers' own, or the bridge to it."""
    their = judge(biased, train(biased, tmp_path / "adapter", modules_to_save=["lm_head"]), torch.float32)
    save_adapter(their, tmp_path / "again")
    tensors = [
        safetensors.torch.load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter", "again")
    ]
    assert tensors[0].keys() == tensors[1].keys()
    assert torch.equal(logits(judge(biased, tmp_path / "again", torch.float32)), logits(their))


def test_the_base_of_a_model_from_the_hub_is_its_repository(small, tmp_path):
    """Guards against a path inside this machine's cache in the place of the repository."""
    cached = tmp_path / "models--elyza--ELYZA-japanese-Llama-2-7b" / "snapshots" / "0123abc"
    shutil.copytree(small, cached)
    save_adapter(add_lora(load_model(cached, "float32", "cpu")), tmp_path / "adapter")
    raw = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert raw["base_model_name_or_path"] == "elyza/ELYZA-japanese-Llama-2-7b"


@pytest.mark.parametrize("modules", [[], ["lm_head"]], ids=["lora", "head"])
def test_the_start_and_the_gradients_are_those_of_peft_on_transformers(biased, modules):
    """Guards against another start for a seed, a seed that reaches other random numbers, and a base that is trained."""
    random_state = torch.get_rng_state()
    ours = add_lora(load_model(biased, "float32", "cpu"), 4, 6, seed=7, modules_to_save=modules)
    assert torch.equal(torch.get_rng_state(), random_state)
    torch.manual_seed(7)
    config = peft.LoraConfig(
        **RANK, target_modules="all-linear", task_type="CAUSAL_LM", modules_to_save=modules or None
    )
    their = peft.get_peft_model(theirs(biased, torch.float32), config)
    for model in (ours, their):
        shake(model)
        output = model(IDS)
        getattr(output, "logits", output).logsumexp(-1).sum().backward()
    trained = {name: each for name, each in ours.named_parameters() if each.requires_grad}
    expected = {name: each for name, each in their.named_parameters() if each.requires_grad}
    assert len(trained) == 3 * 7 * 2 + len(modules)
    for name, parameter in expected.items():
        mine = trained[name.replace("base_model.model.model.", "base_model.model.")]
        assert torch.equal(mine, parameter) and torch.equal(mine.grad, parameter.grad), name
    assert all(parameter.grad is None for parameter in ours.parameters() if not parameter.requires_grad)


def test_another_seed_gives_another_start(small):
    starts = [add_lora(load_model(small, "float32", "cpu"), seed=seed).state_dict() for seed in (0, 0, 1)]
    name = "base_model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(starts[0][name], starts[1][name]) and not torch.equal(starts[0][name], starts[2][name])


def test_training_goes_on_after_loading(biased, tmp_path):
    """Guards against an adapter that is frozen, or in 16 bits where PEFT trains in 32, after loading."""
    folder = train(biased, tmp_path / "adapter", torch.bfloat16, lora_dropout=0.25)
    model = load_adapter(load_model(biased, "bfloat16", "cpu"), folder, trainable=True)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trained) == 3 * 2 * 2 and all("lora_" in name for name in trained)
    assert {model.get_parameter(name).dtype for name in trained} == {torch.float32}
    layer = model.get_submodule("base_model.model.layers.0.self_attn.q_proj")
    assert layer.lora_dropout["default"].p == 0.25


@pytest.fixture(scope="session")
def quantized(quantizable, tmp_path_factory):
    """The quantisable checkpoint as int8 and int4."""
    folder = tmp_path_factory.mktemp("quantized_lora")
    for bits in (8, 4):
        quantize(quantizable, folder / f"{bits}", bits, 32)
    return folder


def dequantized(folder, original, dtype):
    """The original model with the values of the quantised weights."""
    model, coarse = load_model(original, dtype, "cpu"), load_model(folder, dtype, "cpu")
    for name, layer in coarse.named_modules():
        if isinstance(layer, QuantizedLinear):
            model.get_submodule(name).weight.data = layer.dequantize(
                layer.bias.dtype if layer.bias is not None else dtype
            )
    return model


@NO_TOKENIZER
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lora_on_a_quantised_model_is_lora_on_its_float_values(quantized, quantizable, tmp_path, bits, dtype):
    """Guards against wrong gradients through quantised layers, and against an adapter that fits only them."""
    ours = add_lora(load_model(quantized / str(bits), dtype, "cpu"), 4, targets=[*ALL_LINEAR, "lm_head"])
    shake(ours)
    save_adapter(ours, tmp_path / "adapter")
    floats = load_adapter(dequantized(quantized / str(bits), quantizable, dtype), tmp_path / "adapter", trainable=True)
    outputs = [model(IDS) for model in (ours, floats)]
    for output in outputs:
        output.float().logsumexp(-1).sum().backward()
    trained = {name: each for name, each in ours.named_parameters() if each.requires_grad}
    assert len(trained) == 2 * (2 * 7 + 1) and all("lora_" in name for name in trained)
    assert torch.equal(*outputs)
    for name, parameter in trained.items():
        assert parameter.grad.abs().max() > 0
        assert torch.equal(parameter.grad, floats.get_parameter(name).grad), name


@NO_TOKENIZER
def test_an_adapter_of_a_quantised_model_is_saved_and_merged_elsewhere(quantized, quantizable, tmp_path):
    """Guards against a merge into whole numbers, and against an adapter that opens nowhere else."""
    model = add_lora(load_model(quantized / "4", "float32", "cpu"), 4)
    shake(model)
    save_adapter(model, tmp_path / "adapter")
    again = load_adapter(load_model(quantized / "4", "float32", "cpu"), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    merged = load_model(quantizable, "float32", "cpu", adapter=tmp_path / "adapter")
    assert difference(merged, merged_by_peft(quantizable, tmp_path / "adapter", torch.float32)) == []
    with pytest.raises(ValueError, match="cannot be merged into quantised weights; save it with save_adapter"):
        model.merge_and_unload()
    with pytest.raises(ValueError, match=r"quantised weights \(int4 .*llama-jp quantize ORIGINAL"):
        load_model(quantized / "4", adapter=tmp_path / "adapter")


@NO_TOKENIZER
def test_methods_that_need_float_weights_are_refused_on_a_quantised_model(quantized):
    with pytest.raises(ValueError, match="DoRA needs float weights, and this model is quantised"):
        add_lora(load_model(quantized / "8", "float32", "cpu"), use_dora=True)
    config = peft.LoraConfig(target_modules=ATTENTION, init_lora_weights="pissa")
    with pytest.raises(ValueError, match="init_lora_weights 'pissa' needs float weights"):
        wrap_model(load_model(quantized / "8", "float32", "cpu"), config)


def test_a_save_replaces_an_earlier_one_and_nothing_else(small, tmp_path, monkeypatch):
    """Guards against old weights that PEFT prefers, a lost model beside the adapter, and half a folder."""
    folder = shutil.copytree(small, tmp_path / "model")
    (folder / "adapter_model.bin").write_bytes(b"old")
    model = add_lora(load_model(small, "float32", "cpu"))
    save_adapter(model, folder)
    assert not (folder / "adapter_model.bin").exists() and (folder / "model.safetensors").is_file()
    shake(model)
    before = (folder / "adapter_model.safetensors").read_bytes()
    monkeypatch.setattr("llama_jp.training.adapters.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(model, folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_wrong_calls(small, tmp_path):
    """Guards against an AttributeError or a traceback of PEFT for a mistake that a person makes."""
    plain = load_model(small, "float32", "cpu")
    with pytest.raises(ValueError, match="the model has no adapter 'default'; add one with add_lora"):
        save_adapter(plain, tmp_path / "adapter")
    with pytest.raises(ValueError, match="no module of the model is called query; LoRA takes q_proj, "):
        add_lora(plain, targets=["q_proj", "query"])
    adapted = add_lora(plain)
    with pytest.raises(ValueError, match="the model has an adapter already"):
        add_lora(plain)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: it is a file"):
        save_adapter(adapted, tmp_path / "file")
    save_adapter(adapted, tmp_path / "adapter")
    with pytest.raises(ValueError, match="the model is a PeftModel; an adapter is loaded into a Llama"):
        load_adapter(adapted, tmp_path / "adapter")
    changed = wrap_model(
        load_model(small, "float32", "cpu"), peft.LoraConfig(r=4, target_modules=ATTENTION, init_lora_weights="olora")
    )
    with pytest.raises(ValueError, match="the adapter 'default': init_lora_weights is 'olora', which is not supported"):
        save_adapter(changed, tmp_path / "changed")
    other = peft.get_peft_model(load_model(small, "float32", "cpu"), peft.LoHaConfig(target_modules=ATTENTION))
    with pytest.raises(ValueError, match="peft_type is .*LOHA.*, which is not supported"):
        save_adapter(other, tmp_path / "changed")
    assert not (tmp_path / "changed").exists()


def test_whole_weights_that_peft_cannot_single_out(small, tmp_path):
    """Guards against training every norm where the adapter has the last one: PEFT looks at the ends of names."""
    folder = train(small, tmp_path / "adapter", modules_to_save=["model.norm"])
    with pytest.raises(ValueError, match="whole weights of norm, .* would also take layers.0.input_layernorm, "):
        load_adapter(load_model(small, "float32", "cpu"), folder)
    merged = load_model(small, "float32", "cpu", adapter=folder)
    assert difference(merged, merged_by_peft(small, folder, torch.float32)) == []


def test_without_peft(small, tmp_path, monkeypatch):
    """Guards against a traceback for a missing extra, and against a merge that needs PEFT."""
    folder = train(small, tmp_path / "adapter")
    expected = logits(load_model(small, "float32", "cpu", adapter=folder))
    monkeypatch.setitem(sys.modules, "peft", None)
    assert torch.equal(logits(load_model(small, "float32", "cpu", adapter=folder)), expected)
    for call in (add_lora, lambda model: load_adapter(model, folder), lambda model: save_adapter(model, folder)):
        with pytest.raises(ValueError, match=re.escape("pip install 'llama-jp[train]'")):
            call(load_model(small, "float32", "cpu"))


def test_trained_tokens_are_left_to_the_merge(biased, tmp_path):
    """Guards against rows of the embedding that PEFT does not find under the names of this model."""
    folder = train(biased, tmp_path / "adapter", trainable_token_indices=[3])
    with pytest.raises(ValueError, match="adapter has trainable_token_indices, which only a merge takes"):
        load_adapter(load_model(biased, "float32", "cpu"), folder)


def test_a_model_with_an_adapter_refuses_to_be_saved_as_a_checkpoint(small, tmp_path):
    """Guards against a checkpoint without the adapter."""
    adapted = add_lora(load_model(small, "float32", "cpu"))
    with pytest.raises(ValueError, match="config.json cannot describe this model"):
        adapted.get_base_model().save_pretrained(tmp_path / "out")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path / "out")
    assert torch.equal(logits(load_model(tmp_path / "out", "float32", "cpu")), logits(merged))
