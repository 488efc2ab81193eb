"""config.json to a LlamaConfig: both spellings, and settings that are refused or ignored."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import transformers
from helpers.checkpoint_files import ELYZA
from helpers.reference import SMALL

import llama_jp
from llama_jp.bridge import CACHE
from llama_jp.checkpoint.config import IGNORED, REFUSED, SUPPORTED, WINDOWS, parse_config, read_config


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
        ({"model_type": ["llama"]}, "model_type \\['llama'\\] is not supported"),
        ({"attention_dropout": 0.5}, "attention_dropout 0.5 is not supported; only 0 is; set it to 0 in config.json"),
        ({"sliding_window": 16}, "sliding_window 16 is not supported; only null, or at least the context of 4,096"),
        ({"sliding_window": "4096"}, "sliding_window '4096' is not supported"),
        (
            {"rope_scaling": {"type": "proportional", "factor": 2}},
            "rope_type 'proportional' is not supported; known are default, ",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1, 0], "long_factor": [1]}},
            "rope_scaling: short_factor is \\[1, 0\\], but it has to be a list of positive numbers",
        ),
        (
            {"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1], "factor": 1}},
            "rope_scaling has 1 numbers in short_factor, and a head has 64 pairs",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type 'linear' needs the key 'factor'"),
        ({"rope_scaling": [1]}, "rope_scaling is \\[1\\]"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported"),
        ({"is_causal": False}, "is_causal False is not supported"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "weights quantised by MLX are not supported"),
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


def linear(**keys: object) -> dict[str, object]:
    return {"rope_scaling": {"rope_type": "linear", "factor": 2.0} | keys}


def yarn(**keys: object) -> dict[str, object]:
    return {"rope_scaling": {"rope_type": "yarn", "factor": 2.0} | keys}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (linear(factor="2.0"), "rope_scaling: factor is '2.0', but it has to be a positive number"),
        (linear(factor=None), "rope_scaling of type 'linear' needs the key 'factor'"),
        (linear(factor=True), "rope_scaling: factor is True, but"),
        (linear(factor=0), "rope_scaling: factor is 0, but"),
        (linear(factor=float("nan")), "rope_scaling: factor is nan, but"),
        (linear(rope_type=["linear"]), r"rope_type \['linear'\] is not supported"),
        (linear(rope_theta="1e4"), "rope_theta is '1e4', but it has to be a positive number"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, "rope_parameters: factor is '2', but"),
        ({"rope_parameters": "linear"}, "rope_parameters is 'linear', but it has to be an object or null"),
        (yarn(beta_fast="32"), "rope_scaling: beta_fast is '32', but it has to be a number of at least 0"),
        (yarn(truncate="no"), "rope_scaling: truncate is 'no', but it has to be true or false"),
        (yarn(original_max_position_embeddings=[4096]), r"original_max_position_embeddings is \[4096\], but"),
        (yarn(rope_theta=1), "rope_scaling .* gives no rotation: .*division by zero"),
        (yarn() | {"original_max_position_embeddings": "4k"}, "original_max_position_embeddings is '4k', but"),
        ({"attention_bias": "false"}, "attention_bias is 'false', but it has to be true or false"),
        ({"mlp_bias": 1}, "mlp_bias is 1, but it has to be true or false"),
        ({"tie_word_embeddings": "true"}, "tie_word_embeddings is 'true', but"),
        ({"eos_token_id": "2"}, "eos_token_id is '2', but it has to be a whole number or a list of them"),
        ({"eos_token_id": [2, "3"]}, r"eos_token_id is \[2, '3'\], but"),
        ({"bos_token_id": [1]}, r"bos_token_id is \[1\], but it has to be a whole number"),
        ({"pad_token_id": 0.5}, "pad_token_id is 0.5, but"),
        ({"vocab_size": 45043.0}, "vocab_size is 45043.0, but it has to be a positive whole number"),
        ({"rms_norm_eps": float("inf")}, "rms_norm_eps is inf, but"),
        ({"torch_dtype": 16}, "torch_dtype is 16, but it has to be a string"),
        ({"dtype": {"": "float16"}}, r"(?<!torch_)dtype is \{'': 'float16'\}, but it has to be a string"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(tmp_path, change, sentence):
    """Guards against a TypeError from the arithmetic, and against the string "false" that counts as true."""
    (tmp_path / "config.json").write_text(json.dumps(ELYZA | change))
    with pytest.raises(ValueError, match=f"config.json: .*{sentence}") as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_a_null_counts_as_an_absent_key():
    """Guards against a TypeError for null, except for the ids, where it means that there is none."""
    nulls = dict.fromkeys(["head_dim", "num_key_value_heads", "attention_bias", "attention_dropout", "sliding_window"])
    assert parse_config(ELYZA | nulls) == parse_config(ELYZA)
    assert parse_config(ELYZA | {"eos_token_id": None}).eos_token_id is None
    assert parse_config(ELYZA | {"bos_token_id": None}).bos_token_id is None
    assert parse_config(ELYZA | yarn(attention_factor=None, mscale=None)) == parse_config(ELYZA | yarn())


# Each key alone: "ignored" leaves transformers' numbers as they are, "refused" changes them or makes it fail, and with
# "supported" both models have the same numbers.
JUDGED = [
    ("supported", linear()),
    ("supported", linear(beta_fast="unused")),
    ("supported", yarn()),
    ("supported", yarn(factor=None, original_max_position_embeddings=64)),
    ("supported", yarn(attention_factor=0.7, beta_fast=16, beta_slow=2, truncate=False)),
    ("supported", yarn(original_max_position_embeddings=64) | {"original_max_position_embeddings": 32}),
    ("supported", {"rope_theta": 500}),
    ("supported", {"tie_word_embeddings": True}),
    ("supported", {"hidden_act": "swish"}),
    ("supported", {"eos_token_id": [3, 5]}),
    ("supported", {"pad_token_id": -1}),
    ("supported", {"dtype": "bfloat16"}),
    ("supported", {"attention_dropout": 0}),
    ("supported", {"layer_types": ["full_attention"] * 3}),
    ("supported", {"sliding_window": 128}),
    ("supported", {"attention_chunk_size": 4096}),
    ("refused", {"sliding_window": 4}),
    ("refused", {"sliding_window": 0}),
    ("refused", {"attention_chunk_size": 4}),
    ("refused", {"layer_types": ["sliding_attention"] * 3, "sliding_window": 4}),
    ("refused", {"attention_dropout": 0.5}),
    ("refused", {"hidden_act": "gelu"}),
    ("refused", {"hidden_act": "SiLU"}),
    ("refused", {"is_causal": False}),
    ("refused", {"per_layer_config": {"0": {"num_key_value_heads": 1}}}),
    ("refused", {"partial_rotary_factor": 0.5} | linear()),
    ("refused", {"rope_scaling": {"rope_type": "mrope", "mrope_section": [1, 1, 2]}}),
    *[("ignored", {key: 2}) for key in IGNORED if key.endswith(("multiplier", "scaling", "capping", "tp", "layers"))],
    *[("ignored", {key: 0.5}) for key in IGNORED if key.endswith(("dropout", "pdrop", "temperature", "penalty"))],
    *[
        ("ignored", {key: True})
        for key in IGNORED
        if key.startswith(("use_", "output_", "do_", "is_", "add_", "rope_"))
    ],
    ("ignored", {"use_cache": False}),
    ("ignored", {"use_sliding_window": False}),
    ("ignored", {"query_pre_attn_scalar": 2}),
    ("ignored", {"original_max_position_embeddings": 8}),
    ("ignored", {"chunk_size_feed_forward": 1}),
    ("ignored", {"no_rope_layers": [0, 1, 0]}),
    ("ignored", {"pruned_heads": {"0": [0]}}),
    ("supported", {"initializer_range": 0.9}),
    ("ignored", {"rope_scaling": False}),
    ("ignored", {"rope_scaling": {"type": "default", "factor": 2.0}}),
]
# Keys that a Llama's config.json may have beside those that count, written by transformers, fine-tuning programs and
# converters, with usual values.
PUBLISHED = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "_attn_implementation_autoset": True,
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"},
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "diversity_penalty": 0.0,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "end_token_id": 2,
    "exponential_decay_length_penalty": None,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_encoder_decoder": False,
    "keys_to_ignore_at_inference": ["past_key_values"],
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0,
    "max_length": 4096,
    "max_sequence_length": 2048,
    "min_length": 0,
    "model_max_length": 4096,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_scores": False,
    "prefix": None,
    "pretraining_tp": 1,
    "problem_type": None,
    "pruned_heads": {},
    "quantization": {},
    "quantization_config": None,
    "remove_invalid_values": False,
    "return_dict_in_generate": False,
    "rope_scaling_factor": 1.0,
    "rope_scaling_type": None,
    "rotary_base": 10000,
    "rotary_emb_base": 10000,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "tensor_parallel_degree": 1,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tokenizer_class": "LlamaTokenizer",
    "top_k": 50,
    "torchscript": False,
    "transformers_version": "4.31.0.dev0",
    "typical_p": 1.0,
    "unsloth_fixed": True,
    "unsloth_version": "2024.9",
    "use_bfloat16": False,
    "use_flash_attention": True,
    "use_fused_rms_norm": True,
}
# transformers takes these from config.json; here they are arguments of a call.
ARGUMENTS = {"attn_implementation", "_attn_implementation", "return_dict"}


def numbers(model, step) -> dict[str, torch.Tensor]:
    """The logits of a whole text, of the same text in cached steps, and of the whole text in training."""
    ids = torch.arange(2, 42).view(1, 40)
    with torch.no_grad():
        whole = model(ids)
        steps = torch.cat([step(ids[:, :20]), *[step(ids[:, i : i + 1]) for i in range(20, 40)]], dim=1)
        torch.manual_seed(0)
        return {"whole": getattr(whole, "logits", whole), "steps": steps, "train": trained(model, ids)}


def trained(model, ids: torch.Tensor) -> torch.Tensor:
    logits = model.train()(ids)
    return getattr(logits, "logits", logits)


def reference_numbers(folder) -> dict[str, torch.Tensor]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cache = transformers.DynamicCache(config=model.config)
    return numbers(model, lambda ids: model(ids, **{CACHE: cache}, use_cache=True).logits)


def our_numbers(folder) -> dict[str, torch.Tensor]:
    model = llama_jp.Llama.from_pretrained(folder, dtype="float32", device="cpu")
    cache = model.new_cache(1, 40)
    return numbers(model, lambda ids: model(ids, cache))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def plain_numbers(small):
    return reference_numbers(small)


@pytest.mark.filterwarnings("ignore:tie_word_embeddings is true")
@pytest.mark.parametrize(
    ("verdict", "change"), JUDGED, ids=lambda value: value if isinstance(value, str) else repr(value)
)
def test_each_key_is_judged_as_transformers_uses_it(copy, plain_numbers, verdict, change):
    """Guards against a key that is ignored and changes the numbers, and against one that is refused and does not."""
    raw = json.loads((copy / "config.json").read_text())
    if "rope_theta" in change or "rope_scaling" in change:
        raw.pop("rope_parameters")
    (copy / "config.json").write_text(json.dumps(raw | change))
    if verdict == "refused":
        with pytest.raises(ValueError, match=f"config.json: .*{'|'.join(change)}|rope_type"):
            our_numbers(copy)
        try:
            reference = reference_numbers(copy)
        except (ValueError, KeyError, RuntimeError):  # transformers cannot use it either
            return
        assert not equal(reference, plain_numbers)
    else:
        reference = reference_numbers(copy)
        assert equal(our_numbers(copy), reference)
        assert verdict == "supported" or equal(reference, plain_numbers)


@pytest.mark.parametrize("key", PUBLISHED)
def test_a_key_of_published_files_is_accepted(key):
    """Guards against refusing a published checkpoint for a key that has no effect."""
    assert parse_config(ELYZA | {key: PUBLISHED[key]}) == parse_config(ELYZA)


def test_the_keys_of_published_files_have_no_effect_in_transformers(copy, plain_numbers):
    raw = json.loads((copy / "config.json").read_text())
    others = {key: value for key, value in PUBLISHED.items() if key not in ("auto_map", "quantization_config")}
    (copy / "config.json").write_text(json.dumps(raw | others))
    assert equal(reference_numbers(copy), plain_numbers) and equal(our_numbers(copy), plain_numbers)


def test_every_key_of_the_tables_is_judged():
    """Guards against a key that is added to a table and never compared with transformers."""
    judged = {key for _, change in JUDGED for key in change} | ARGUMENTS
    always = {"model_type", *SMALL, "mlp_bias", "attention_bias", "bos_token_id", "torch_dtype"}
    assert {*IGNORED, *REFUSED, *WINDOWS, *SUPPORTED} <= judged | always
    assert set(SUPPORTED) == {field.name for field in dataclasses.fields(llama_jp.LlamaConfig)}


def test_keys_that_do_not_change_the_logits_are_ignored():
    """Guards against refusing a checkpoint for a key that has no effect here."""
    harmless = {
        "use_cache": False,
        "attention_dropout": 0.0,
        "pretraining_tp": 2,
        "_name_or_path": "x",
        "foo": [1],
    }
    assert parse_config(ELYZA | harmless) == parse_config(ELYZA)
    assert parse_config({key: value for key, value in ELYZA.items() if key != "model_type"}) == parse_config(ELYZA)
