"""New weights: those of transformers under the same seed, and initializer_range in config.json."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import transformers
from helpers.reference import SMALL

import llama_jp
from llama_jp.training import initialise


@pytest.mark.parametrize(
    "changes",
    [{}, {"pad_token_id": 3}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}],
    ids=["plain", "padding", "tied", "biases"],
)
def test_the_weights_are_those_of_transformers(changes):
    torch.manual_seed(7)
    reference = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **changes, initializer_range=0.3))
    model = llama_jp.Llama(llama_jp.LlamaConfig(**SMALL, **changes, initializer_range=0.3))
    before = torch.get_rng_state()
    initialise(model, 7)
    assert torch.equal(torch.get_rng_state(), before), "torch's own random state is left as it was"
    names = {name.removeprefix("model."): weight for name, weight in reference.state_dict().items()}
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, names[name]), name
    initialise(model, 8)
    assert not torch.equal(model.lm_head.weight, reference.lm_head.weight)


def test_initializer_range_is_kept(tmp_path):
    config = llama_jp.LlamaConfig(**SMALL, initializer_range=0.3)
    llama_jp.Llama(config).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["initializer_range"] == 0.3
    assert llama_jp.Llama.from_pretrained(tmp_path).config.initializer_range == 0.3
    assert transformers.AutoConfig.from_pretrained(tmp_path).initializer_range == 0.3


def test_models_without_weights_to_train_are_refused(quantizable, tmp_path):
    with torch.device("meta"):
        model = llama_jp.Llama(llama_jp.LlamaConfig(**SMALL))
    with pytest.raises(ValueError, match="meta device"):
        initialise(model, 0)
    llama_jp.quantize(quantizable, tmp_path / "int8")
    with pytest.raises(ValueError, match="quantised"):
        initialise(llama_jp.Llama.from_pretrained(tmp_path / "int8"), 0)
    assert dataclasses.replace(llama_jp.LlamaConfig(**SMALL)).initializer_range == 0.02
