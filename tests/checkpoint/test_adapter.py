"""A PEFT folder merged at loading, against PEFT's own merge into transformers' model, and folders that do not fit."""

from __future__ import annotations

import pytest
import torch
from helpers.adapters import ATTENTION, difference, merged_by_peft, train
from helpers.checkpoint_files import IDS
from helpers.reference import DTYPES, SMALL, save_random

from llama_jp.checkpoint.load import load_model

MLP = ["gate_proj", "up_proj", "down_proj"]
KINDS = {
    "plain": {},
    "all-linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r"model\.layers\.[02]\.(mlp\.(up|down)_proj|self_attn\.o_proj)"},
    "layers": {"target_modules": [*ATTENTION, "up_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "one layer": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 1},
    "excluded": {"target_modules": [*ATTENTION, *MLP], "exclude_modules": ["layers.1.mlp.up_proj", "v_proj"]},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True, "target_modules": [*ATTENTION, "down_proj"]},
    "dora, rslora, bias": {"use_dora": True, "use_rslora": True, "bias": "all"},
    "patterns": {
        "target_modules": [*ATTENTION, *MLP],
        "rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 3, "^model.layers.2.mlp.down_proj": 7, "v_proj": 2},
        "alpha_pattern": {"up_proj": 1.5, r".*\.1\..*": 10},
    },
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"], "use_rslora": True},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "saved block": {"modules_to_save": ["layers.1.mlp"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "mica": {"init_lora_weights": "mica"},
}


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A small checkpoint with biases and grouped heads."""
    return save_random(tmp_path_factory.mktemp("base"), seed=6, attention_bias=True, **SMALL)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trained_in", [torch.float32, torch.bfloat16], ids=str)
def test_a_merge_is_bit_identical_to_peft(base, tmp_path, kind, dtype, trained_in):
    folder = train(base, tmp_path / "adapter", trained_in, **KINDS[kind])
    ours, their = load_model(base, dtype, "cpu", adapter=folder), merged_by_peft(base, folder, dtype)
    plain = load_model(base, dtype, "cpu").state_dict()
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in ours.state_dict().items())
    assert difference(ours, their) == []
    with torch.no_grad():
        assert torch.equal(ours(IDS), their(IDS).logits)
