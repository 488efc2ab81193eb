"""Models without memory for their weights: what a subclass makes in its constructor is real, weights are not."""

from __future__ import annotations

import pytest
import torch
from helpers.changed_models import Gated, WithOtherMLP
from helpers.checkpoint_files import IDS, edit_tensors
from helpers.reference import SMALL
from torch import nn

from llama_jp import Llama, LlamaConfig
from llama_jp.checkpoint.build import build_without_weights
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.parts import Parts


class Counting(Llama):
    """Buffers that are stored, of dtypes that are not rounded."""

    def __init__(self, config: LlamaConfig, **functions):
        super().__init__(config, **functions)
        self.register_buffer("seen", torch.tensor([3, 4]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("scale", torch.tensor([0.1]))


class SharedParameter(Llama):
    def __init__(self, config: LlamaConfig, **functions):
        super().__init__(config, **functions)
        shared = nn.Parameter(torch.ones(config.hidden_size))
        for layer in self.layers:
            layer.shared = shared


def test_parameters_are_on_the_meta_device_and_the_rest_is_real():
    """Guards against ALiBi slopes on the meta device, and against memory for weights that a file will fill."""
    model = build_without_weights(LlamaConfig(**SMALL), None, Parts(Gated))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(model.steps, torch.linspace(0, 1, 24)) and torch.equal(model.slopes[:2], torch.tensor([1, 0.5]))
    assert nn.Linear(2, 2).weight.device.type == "cpu", "the context has ended"


def test_a_shared_parameter_stays_shared():
    model = build_without_weights(LlamaConfig(**SMALL, tie_word_embeddings=True), None, Parts(SharedParameter))
    assert len({id(layer.shared) for layer in model.layers}) == 1
    assert model.lm_head.weight is model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_new_parameters_start_with_the_values_of_the_constructor(small, dtype):
    """Guards against random memory in new parameters, a wrong order of initialisation, and silence."""
    torch.manual_seed(3)
    expected = Gated(LlamaConfig(**SMALL))
    with pytest.warns(UserWarning, match="initialised, because .* gate, adapter.weight, extra.weight, extra.bias"):
        model = Gated.from_pretrained(small, dtype=dtype, missing="initialise")
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert torch.equal(model.gate, expected.gate.to(model.gate.dtype)) and not model.extra.weight.any()
    assert 0.05 < model.adapter.weight.float().std() < 0.15 and model.extra.bias.abs().max() < 24**-0.5
    assert model.gate.requires_grad and model.angles.dtype == torch.complex64
    plain = load_model(small, dtype=dtype).state_dict()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in plain.items())
    model(IDS).sum().backward()


def test_new_parameters_are_refused_by_default(small, copy):
    """Guards against random values that nobody asked for, and for weights that every Llama has."""
    with pytest.raises(ValueError, match=r"missing model.gate, .*model.extra.bias \(missing=\"initialise\" starts"):
        Gated.from_pretrained(small)
    with pytest.raises(ValueError, match=r"unexpected model.layers.0.mlp.down_proj.weight") as error:
        WithOtherMLP.from_pretrained(small, missing="initialise")
    assert "starts them" not in str(error.value)
    with pytest.raises(ValueError, match="missing is 'refuse' or 'initialise', not 'random'"):
        load_model(small, missing="random")
    edit_tensors(copy, lambda tensors: tensors.pop("model.norm.weight"))
    for model_class in (Llama, Gated):
        with pytest.raises(ValueError, match=r"missing .*model.norm.weight"):
            model_class.from_pretrained(copy, missing="initialise")


def test_stored_buffers_keep_their_dtype(tmp_path):
    """Guards against a buffer that is taken for a quantised weight, or rounded to the dtype of the weights."""
    model = Counting(LlamaConfig(**SMALL))
    model.seen += 4
    model.save_pretrained(tmp_path / "out")
    again = Counting.from_pretrained(tmp_path / "out", dtype="bfloat16")
    assert again.seen.tolist() == [7, 8] and again.seen.dtype == torch.int64
    assert again.mask.tolist() == [True, False] and again.scale.dtype == torch.bfloat16


def test_a_quantised_checkpoint_loads_into_a_subclass(quantized_demo):
    """Guards against buffers of a subclass that are taken for quantised weights."""
    ids = torch.arange(8)[None]
    with pytest.warns(UserWarning, match="initialised, because .*: seen, mask, scale"):
        model = Counting.from_pretrained(quantized_demo["int8"], dtype="float32", missing="initialise")
    plain = load_model(quantized_demo["int8"], dtype="float32")
    assert torch.equal(model(ids), plain(ids)) and model.seen.tolist() == [3, 4]
