"""config.json to a `LlamaConfig`, and back.

This module imports torch, which takes seconds, for a scaled rope only.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import LlamaConfig
from ..linear.scheme import Scheme
from .gguf.header import is_gguf
from .json_files import has_file, read_json
from .meta import config_from_params, is_meta
from .packed_weights import Packing, is_packing
from .parts import recorded_parts, without_parts
from .recognise import describe_folder

if TYPE_CHECKING:
    import torch


class Kind(NamedTuple):
    """The kind of value that a key needs: its name in error messages, and the test for it."""

    name: str
    holds: Callable[[Any], bool]


def is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def as_list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


SIZE = Kind("a positive whole number below 2^63", lambda value: is_int(value) and 0 < value < 2**63)
POSITIVE = Kind("a positive number", lambda value: is_number(value) and value > 0)
NUMBER = Kind("a number of at least 0", lambda value: is_number(value) and value >= 0)
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
NAME = Kind("a string", lambda value: isinstance(value, str))
DIVISORS = Kind(
    "a list of positive numbers",
    lambda value: isinstance(value, list) and all(is_number(each) and each > 0 for each in value),
)
ID = Kind("a whole number", is_int)
IDS = Kind("a whole number or a list of them", lambda value: all(map(is_int, as_list(value))))

# The keys of config.json, judged once. The judge is transformers: tests/checkpoint/test_config.py sets each key alone
# and compares whole texts, cached steps and training. A key with the value null counts as absent.

# These keys change the numbers and are supported. They are the fields of LlamaConfig.
SUPPORTED = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "intermediate_size": SIZE,
    "num_hidden_layers": SIZE,
    "num_attention_heads": SIZE,
    "num_key_value_heads": SIZE,
    "head_dim": SIZE,
    "max_position_embeddings": SIZE,
    "rms_norm_eps": POSITIVE,
    "rope_theta": POSITIVE,
    "rope_scaling": Kind("an object", lambda value: isinstance(value, dict)),  # see ROPE_KEYS
    "attention_bias": SWITCH,
    "mlp_bias": SWITCH,
    "tie_word_embeddings": SWITCH,
    "initializer_range": NUMBER,  # of training from the beginning only
    "bos_token_id": ID,
    "eos_token_id": IDS,
    "pad_token_id": ID,
    "torch_dtype": NAME,
}


class Refusal(NamedTuple):
    """The supported values of a key, and advice for the others."""

    supported: tuple[object, ...]
    advice: str = ""


# These keys change the numbers, and only some values are supported.
REFUSED = {
    "model_type": Refusal(("llama",)),
    "hidden_act": Refusal(("silu", "swish")),  # two names of one function
    "attention_dropout": Refusal((0,), "set it to 0 in config.json to train without dropout"),
    "is_causal": Refusal((True,)),
    "partial_rotary_factor": Refusal((1,)),  # transformers ignores it for the plain rope only
    "per_layer_config": Refusal(({},)),
    "layer_types": Refusal(("full_attention",)),  # in every layer
}

# These keys shorten the cache of transformers: a token does not see keys that are further back.
WINDOWS = ("sliding_window", "attention_chunk_size")

# All other keys change nothing and are ignored. Some look as if they did:
IGNORED = (
    "pretraining_tp",  # splits matrix products in transformers 4; transformers 5 ignores it
    "use_cache",
    "use_sliding_window",  # of Qwen; transformers' Llama looks at sliding_window alone
    "max_window_layers",
    "num_kv_shared_layers",
    "attn_implementation",  # the argument `attention` of the loader decides
    "_attn_implementation",
    "hidden_dropout",
    "attn_pdrop",
    "resid_pdrop",
    "embd_pdrop",
    "chunk_size_feed_forward",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "is_decoder",
    "is_encoder_decoder",
    "add_cross_attention",
    "pruned_heads",
    "logits_scaling",  # of Granite
    "embedding_multiplier",
    "residual_multiplier",
    "attention_multiplier",
    "final_logit_softcapping",  # of Gemma
    "attn_logit_softcapping",
    "query_pre_attn_scalar",
    "no_rope_layers",  # of SmolLM3
    "use_qk_norm",
    "rope_interleaved",
    "original_max_position_embeddings",  # for the plain rope
    "temperature",  # generation_config.json has the settings of generation
    "do_sample",
    "repetition_penalty",
)

# The keys of rope_scaling that each type uses, and whether they are required.
TRAINED = "original_max_position_embeddings"
ROPE_KEYS: dict[str, dict[str, Kind]] = {
    "linear": {"factor": POSITIVE},
    "dynamic": {"factor": POSITIVE},
    "llama3": {"factor": POSITIVE, "low_freq_factor": POSITIVE, "high_freq_factor": POSITIVE, TRAINED: POSITIVE},
    "yarn": {
        "factor": POSITIVE,
        TRAINED: POSITIVE,
        "beta_fast": NUMBER,
        "beta_slow": NUMBER,
        "attention_factor": NUMBER,
        "mscale": NUMBER,
        "mscale_all_dim": NUMBER,
        "truncate": SWITCH,
    },
    "longrope": {
        "factor": POSITIVE,
        TRAINED: POSITIVE,
        "short_factor": DIVISORS,
        "long_factor": DIVISORS,
        "attention_factor": NUMBER,
    },
}


OTHERS_QUANTISED = "are not supported; GPTQ, AWQ and llama_jp's own are, and so are the weights before quantisation"


def read_config(folder: str | Path, changed_ok: bool = False) -> LlamaConfig:
    """The configuration of the checkpoint in a folder. See `parse_config`; errors name the file.

    changed_ok  the caller takes `read_parts` into account; otherwise a changed model raises ValueError
    """
    raw, file = read_raw_config(folder), config_file(folder)
    try:
        if (parts := recorded_parts(raw)) and not changed_ok:
            names = ", ".join(f"{role} {name}" for role, name in parts.items())
            raise ValueError(f"the model is a changed one ({names}), and only a plain Llama can be used here")
        return parse_config(without_parts(raw))
    except (ValueError, KeyError) as error:
        raise ValueError(error.args[0] if str(file) in str(error) else f"{file}: {error.args[0]}") from error


def config_file(folder: str | Path) -> Path:
    """The file that describes the model: config.json, params.json of Meta's layout, or the GGUF file itself."""
    folder = Path(folder)
    return folder if is_gguf(folder) else folder / ("params.json" if is_meta(folder) else "config.json")


def read_raw_config(folder: str | Path) -> dict[str, Any]:
    """The content of config.json; for Meta's layout and GGUF, the one that the files make.

    Raises FileNotFoundError for a folder without a model.
    """
    folder = Path(folder)
    if is_meta(folder):
        return config_from_params(folder)
    if not has_file(folder / "config.json"):
        wanted = "model" if folder.is_file() else "config.json"
        raise FileNotFoundError(f"there is no {wanted} in {folder}{describe_folder(folder)}")
    return read_json(folder / "config.json")


def read_parts(folder: str | Path) -> dict[str, str]:
    """The recorded parts of the checkpoint in a folder; nothing for a plain model. See parts.py."""
    file = config_file(folder)
    try:
        return recorded_parts(read_raw_config(folder))
    except ValueError as error:
        raise ValueError(error.args[0] if str(file) in str(error) else f"{file}: {error.args[0]}") from error


def read_scheme(folder: str | Path) -> Scheme | None:
    """The quantisation scheme of the checkpoint in a folder, or None for weights that are plain once loaded."""
    return parse_scheme(read_raw_config(folder))


def parse_scheme(raw: dict[str, Any]) -> Scheme | None:
    """The quantisation scheme in the content of config.json, or None for weights that are plain once they are loaded.

    Raises ValueError for weights that another library quantised, unless they are dequantised at loading.
    """
    if isinstance(raw.get("quantization"), dict) and raw["quantization"]:
        raise ValueError(f"weights quantised by MLX {OTHERS_QUANTISED}")
    quantized = raw.get("quantization_config")
    if quantized is None:
        return None
    if is_packing(quantized):
        Packing.from_json(quantized)
        return None
    if isinstance(quantized, dict):
        old_bitsandbytes = "bitsandbytes" if {"load_in_4bit", "load_in_8bit"} & quantized.keys() else "llama_jp"
        if (method := quantized.get("quant_method", old_bitsandbytes)) != "llama_jp":
            raise ValueError(f"weights quantised by {method} {OTHERS_QUANTISED}")
    return Scheme.from_json(quantized)


def parse_config(raw: dict[str, Any]) -> LlamaConfig:
    """Make a `LlamaConfig` from the content of config.json, in the spelling of transformers 4 or 5.

    A key that cannot change the logits is ignored.

    Raises ValueError, with the key and its value, for a setting that changes the logits and is not supported, for a
    value of the wrong type, and for a missing or impossible size.
    """
    refuse_unsupported(raw)
    if raw.get("dtype") is not None:
        check_kinds(raw, {"dtype": NAME})
    parse_scheme(raw)
    values = {key: value for key, value in raw.items() if key in SUPPORTED}
    values["torch_dtype"] = raw.get("dtype", raw.get("torch_dtype"))  # `dtype` is the newer name
    values |= parse_rope(raw)
    values = {key: value for key, value in values.items() if value is not None}

    required = [field.name for field in dataclasses.fields(LlamaConfig) if field.default is dataclasses.MISSING]
    if missing := [key for key in required if key not in values]:
        raise ValueError(f"no value for {', '.join(missing)}")
    check_kinds(values, SUPPORTED)
    # A null says "none" for these two ids; LlamaConfig has other defaults.
    values |= {key: None for key in ("bos_token_id", "eos_token_id") if key in raw and raw[key] is None}
    config = LlamaConfig(**values)
    if config.rope_scaling is not None:
        check_scaling(config)
    refuse_windows(raw, config)
    return config


def check_scaling(config: LlamaConfig) -> None:
    """Raise ValueError for a `rope_scaling` without a needed key, or with numbers that give no rotation."""
    from ..rope import make_rope  # late, because it imports torch

    try:
        make_rope(config)
        _ = config.context_length
    except ArithmeticError as error:
        raise ValueError(f"rope_scaling {config.rope_scaling} gives no rotation: {error}") from error


def check_kinds(values: dict[str, Any], kinds: dict[str, Kind], inside: str = "") -> None:
    """Raise ValueError for a value of the wrong kind. `inside` names the object that holds the keys."""
    for key, kind in kinds.items():
        if key in values and not kind.holds(values[key]):
            raise ValueError(f"{inside}{key} is {values[key]!r}, but it has to be {kind.name}")


def refuse_unsupported(raw: dict[str, Any]) -> None:
    """Raise ValueError for a key whose value changes the logits in a way that this model does not implement."""
    for key, (supported, advice) in REFUSED.items():
        value = raw.get(key)
        values = as_list(value) if key == "layer_types" else [value]
        if value is not None and any(each not in supported for each in values):
            only = f"{key} {value!r} is not supported; only {' or '.join(map(repr, supported))} is"
            raise ValueError(f"{only}; {advice}" if advice else only)


def refuse_windows(raw: dict[str, Any], config: LlamaConfig) -> None:
    """Raise ValueError for a window that is shorter than the context. A longer one changes nothing."""
    for key in WINDOWS:
        value, context = raw.get(key), config.context_length
        if value is not None and not (is_int(value) and value >= context):
            raise ValueError(
                f"{key} {value!r} is not supported; only null, or at least the context of {context:,} tokens, is"
            )


def parse_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields `rope_theta` and `rope_scaling` of `LlamaConfig`, from either spelling in config.json.

    transformers 4 has two keys, `rope_theta` and `rope_scaling: {type or rope_type: …}`.
    transformers 5 has one key, `rope_parameters: {rope_theta, rope_type, …}`.
    """
    spelling = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    given = raw.get(spelling) or {}
    if not isinstance(given, dict):
        raise ValueError(f"{spelling} is {given!r}, but it has to be an object or null")
    scaling = {key: value for key, value in given.items() if value is not None}
    theta = scaling.pop("rope_theta", raw.get("rope_theta"))
    theta = 10000.0 if theta is None else theta
    rope_type = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    if scaling.pop("partial_rotary_factor", 1) != 1:
        raise ValueError("partial_rotary_factor other than 1 is not supported")
    if rope_type == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if not isinstance(rope_type, str) or rope_type not in ROPE_KEYS:
        raise ValueError(f"rope_type {rope_type!r} is not supported; known are default, {', '.join(ROPE_KEYS)}")
    if (trained := raw.get(TRAINED)) is not None:
        scaling[TRAINED] = trained  # the outer key has priority, as in transformers
    check_kinds(scaling, ROPE_KEYS[rope_type] | {TRAINED: POSITIVE}, f"{spelling}: ")
    return {"rope_theta": theta, "rope_scaling": {"rope_type": rope_type, **scaling}}


def config_to_json(config: LlamaConfig, dtype: torch.dtype) -> dict[str, Any]:
    """The content of config.json, in the older spelling, which this project and transformers 4 and 5 load."""
    values = dataclasses.asdict(config) | {"torch_dtype": dtype_name(dtype)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **dict(sorted(values.items())),
    }


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype as config.json has it, such as "float16"."""
    return str(dtype).removeprefix("torch.")
