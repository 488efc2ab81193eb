"""`QuantizedLinear` in a model: loading, dtypes, kernels, gradients and saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.quantized import NO_TOKENIZER, rewrite_tensors

import llama_jp
from llama_jp.checkpoint import load
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.tensors import read_tensors
from llama_jp.linear.layer import QuantizedLinear
from llama_jp.linear.scheme import Scheme
from llama_jp.quantization.convert import quantize
from llama_jp.quantization.rounding import round_weight
from llama_jp.speed.optimization import LEVELS


@NO_TOKENIZER
@pytest.mark.parametrize("scheme", [Scheme(8), Scheme(4, 32), Scheme(4, 32, head_bits=4)], ids=str)
def test_a_loaded_model_has_the_rounded_weights(quantizable, tmp_path, scheme):
    """Linear modules have the rounded weights and the definition's result; other parameters are unchanged."""
    quantize(quantizable, tmp_path / "out", scheme.bits, scheme.group_size or 128, head_bits=scheme.head_bits)
    full, small = (load_model(folder, dtype="float32", device="cpu") for folder in (quantizable, tmp_path / "out"))
    for name, module in full.named_modules():
        if isinstance(module, torch.nn.Linear):
            quantized = small.get_submodule(name)
            assert isinstance(quantized, QuantizedLinear)
            for part, tensor in round_weight(scheme, name, module.weight.detach()).tensors().items():
                assert torch.equal(getattr(quantized, part), tensor), (name, part)
            x = torch.randn(2, module.in_features)
            assert torch.equal(quantized(x), F.linear(x, quantized.dequantize(torch.float32), module.bias))
            module.weight.data = quantized.dequantize(torch.float32)
        else:
            for part, parameter in module.named_parameters(recurse=False):
                assert torch.equal(small.get_submodule(name).get_parameter(part), parameter), (name, part)
    ids = torch.randint(0, 80, (2, 20))
    assert torch.equal(small(ids), full(ids))


def test_weights_are_memory_mapped_and_keep_their_dtype(quantized_demo):
    """dtype is the dtype of computation: it converts embeddings and norms, never a quantised weight."""
    for dtype in (torch.float32, torch.bfloat16):
        model = load_model(quantized_demo["rtn"], dtype=dtype, device="cpu")
        linear = model.layers[0].self_attn.q_proj
        assert (linear.weight.dtype, linear.scale.dtype, linear.zero.dtype) == (torch.uint8, *2 * [torch.bfloat16])
        assert model.lm_head.scale.dtype == torch.float32
        assert model(torch.tensor([[1, 2]])).dtype == model.norm.weight.dtype == dtype
        address = linear.weight.data_ptr()
        maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
        inside = [line for line in maps if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
        assert str(quantized_demo["rtn"]) in inside[0][-1]


def test_weights_are_loaded_in_the_order_of_their_use(quantized_demo, monkeypatch):
    """Then the pages of the file are released layer by layer, while the first call packs the weights."""
    calls = []

    def record(stored, dtype, device, released=False):
        calls.append((released, list(stored)))
        return read_tensors(stored, dtype, device, released)

    monkeypatch.setattr(load, "read_tensors", record)
    model = load_model(quantized_demo["rtn"], device="cpu")
    order = [name for name, _ in model.named_buffers()]
    assert [names for released, names in calls if released] == [order]
    assert order.index("layers.0.mlp.down_proj.weight") < order.index("layers.1.self_attn.q_proj.weight")


def test_changing_the_dtype_rounds_no_scale(quantized_demo):
    model = load_model(quantized_demo["int8"], dtype="float32", device="cpu")
    before = model.lm_head.scale.clone()
    model.to(torch.bfloat16)
    assert torch.equal(model.lm_head.scale, before) and model.norm.weight.dtype == torch.bfloat16
    assert model.to("meta").lm_head.scale.is_meta


def test_a_quantised_model_generates(quantized_demo):
    model, tokenizer = llama_jp.load(quantized_demo["gptq"], dtype="float32")
    prompt = llama_jp.instruct_prompt(tokenizer, "クマが海辺に行ってアザラシと友達になる話を書いてください。")
    answer = tokenizer.decode(llama_jp.generate(model, [prompt], max_new_tokens=200)[0].ids)
    assert "クマ" in answer and "アザラシ" in answer and "海辺" in answer


@pytest.mark.parametrize("name", ["int8", "rtn"])
@pytest.mark.parametrize("level", [None, *LEVELS])
def test_int8_and_int4_kernels_come_close_to_the_definition(quantized_demo, name, level):
    """In bfloat16, as loaded and optimised: near the dequantised product. The state dict stays the same."""
    model = load_model(quantized_demo[name], "bfloat16")
    ids = torch.arange(3, 83).view(2, 40)
    with torch.inference_mode():
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        exact = load_model(quantized_demo[name], "float32")(ids)
        optimized = None if level is None else llama_jp.optimize(model, level)
        for logits in (model(ids), torch.cat([model(ids[:, :1]), model(ids)[:, 1:]], dim=1)):
            assert ((logits - exact).norm() / exact.norm()).item() < (0.05 if level == "int8" else 0.03)
        after = model.state_dict()
        assert after.keys() == state.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
        if optimized is not None:
            optimized.undo()
            assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_saved_model_loads_with_the_same_logits(quantized_demo, tmp_path):
    model = load_model(quantized_demo["rtn"], dtype="float32", device="cpu")
    model.save_pretrained(tmp_path / "again")
    again = load_model(tmp_path / "again", dtype="float32", device="cpu")
    ids = torch.arange(2, 32)[None]
    assert torch.equal(again(ids), model(ids)) and again.layers[0].mlp.up_proj.bits == 4


def test_gradients_flow_through(quantized_demo):
    model = load_model(quantized_demo["rtn"], dtype="float32", device="cpu")
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
def test_tensors_that_do_not_fit_are_named(quantized_copy, change, message):
    rewrite_tensors(quantized_copy, change)
    with pytest.raises(ValueError, match=message):
        load_model(quantized_copy)


def test_a_truncated_file_is_refused(quantized_copy):
    file = quantized_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="model.safetensors is damaged or incomplete"):
        load_model(quantized_copy)
