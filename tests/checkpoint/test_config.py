"""config.json to a LlamaConfig: both spellings, and settings that are refused or ignored."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.checkpoint_files import ELYZA

import llama_jp
from llama_jp.checkpoint.config import parse_config, read_config


def test_elyza_config():
    """Guards against another shape, and against other defaults for the keys that ELYZA's config.json leaves out."""
    config = parse_config(ELYZA)
    assert (config.head_dim, config.rope_theta, config.rope_scaling, config.torch_dtype) == (
        128,
        10000.0,
        None,
        "float16",
    )
    assert not config.attention_bias and not config.mlp_bias and config.rms_norm_eps == 1e-6
    with torch.device("meta"):
        model = llama_jp.Llama(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_845_263_872
    assert len(model.state_dict()) == 291


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, {"rope_theta": 5.0}),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}},
            {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        ),
    ],
)
def test_the_spellings_of_transformers_4_and_5_give_the_same_config(new, old):
    """Guards against a key that is ignored because only its other name is known."""
    plain = {key: value for key, value in ELYZA.items() if key not in ("torch_dtype", "rope_scaling")}
    assert parse_config(plain | new) == parse_config(plain | old)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rms_norm_eps": None}, "no value for rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; only 'silu'"),
        ({"model_type": "mistral"}, "model_type 'mistral' is not supported; only 'llama' is"),
        ({"pretraining_tp": 2}, "pretraining_tp 2 is not supported; only 1 is"),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2}},
            "rope_type 'longrope' is not supported; known are default, ",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type 'linear' needs the key 'factor'"),
        ({"rope_scaling": [1]}, "rope_scaling is \\[1\\]"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported"),
        ({"is_causal": False}, "is_causal False is not supported"),
        ({"hidden_size": "4096"}, "hidden_size is '4096', but it has to be a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06, but it has to be a positive number"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
    ],
)
def test_unsupported_settings_are_refused_by_name(tmp_path, change, sentence):
    """Guards against wrong logits from a setting that is silently ignored."""
    (tmp_path / "config.json").write_text(json.dumps(ELYZA | change))
    with pytest.raises(ValueError, match=f"config.json: {sentence}"):
        read_config(tmp_path)


def test_keys_that_do_not_change_the_logits_are_ignored():
    """Guards against refusing a checkpoint for a key that has no effect here."""
    harmless = {
        "use_cache": False,
        "attention_dropout": 0.0,
        "_name_or_path": "x",
        "initializer_range": 1.0,
        "foo": [1],
    }
    assert parse_config(ELYZA | harmless) == parse_config(ELYZA)
    assert parse_config({key: value for key, value in ELYZA.items() if key != "model_type"}) == parse_config(ELYZA)
