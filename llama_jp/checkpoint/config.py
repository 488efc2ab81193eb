"""config.json to a `LlamaConfig`, and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..linear.scheme import Scheme
from ..model import LlamaConfig
from ..rope import ROPE_TYPES, make_rope
from .json_files import read_json


def read_config(folder: str | Path) -> LlamaConfig:
    file = Path(folder) / "config.json"
    try:
        return parse_config(read_json(file))
    except (ValueError, KeyError) as error:
        raise ValueError(error.args[0] if str(file) in str(error) else f"{file}: {error.args[0]}") from error


def read_scheme(folder: str | Path) -> Scheme | None:
    """How the weights in a folder are quantised, or None where they are not."""
    from ..linear.scheme import Scheme

    raw = read_json(Path(folder) / "config.json").get("quantization_config")
    return None if raw is None else Scheme.from_json(raw)


def parse_config(raw: dict) -> LlamaConfig:
    """config.json's keys, old and new, to a `LlamaConfig`.

    Keys that cannot change the numbers are ignored. Those that would change them and are not supported are refused by
    name, and so is a missing or impossible size.
    """
    from ..linear.scheme import Scheme

    refuse_unsupported(raw)
    if (quantized := raw.get("quantization_config")) is not None:
        Scheme.from_json(quantized)
    known = {field.name for field in dataclasses.fields(LlamaConfig)}
    values = {key: value for key, value in raw.items() if key in known}
    values["torch_dtype"] = raw.get("dtype", raw.get("torch_dtype"))  # `dtype` is the newer name
    values |= parse_rope(raw)
    for key in ("attention_bias", "mlp_bias", "tie_word_embeddings", "max_position_embeddings"):
        if values.get(key, 0) is None:
            del values[key]

    required = [field.name for field in dataclasses.fields(LlamaConfig) if field.default is dataclasses.MISSING]
    if missing := [key for key in required if values.get(key) is None]:
        raise ValueError(f"no value for {', '.join(missing)}")
    sizes = [key for key in required if key != "rms_norm_eps"] + [
        "max_position_embeddings",
        "num_key_value_heads",
        "head_dim",
    ]
    for key in sizes:
        value = values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{key} is {value!r}, but it has to be a positive whole number")
    for key in ("rms_norm_eps", "rope_theta"):
        value = values[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{key} is {value!r}, but it has to be a positive number")
    config = LlamaConfig(**values)
    make_rope(config)  # refuses a scaling with a missing key
    return config


def refuse_unsupported(raw: dict) -> None:
    supported = {
        "model_type": ("llama",),
        "hidden_act": ("silu", "swish"),  # two names of one function
        "pretraining_tp": (1,),
        "partial_rotary_factor": (1,),
        "is_causal": (True,),
        "per_layer_config": (),
    }
    for key, values in supported.items():
        value = raw.get(key)
        if value is not None and value not in values:
            only = f"; only {' or '.join(map(repr, values))} is" if values else ""
            raise ValueError(f"{key} {value!r} is not supported{only}")


def parse_rope(raw: dict) -> dict:
    """`rope_theta` and `rope_scaling` from either way of writing them.

    Old: two keys, `rope_theta` and `rope_scaling: {type or rope_type: …}`.
    New: one key, `rope_parameters: {rope_theta, rope_type, …}`.
    """
    scaling = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise ValueError(f"rope_scaling is {scaling!r}, but it has to be an object or null")
    scaling = dict(scaling)
    theta = scaling.pop("rope_theta", None)
    theta = raw.get("rope_theta") if theta is None else theta
    rope_type = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    if scaling.pop("partial_rotary_factor", None) not in (None, 1):
        raise ValueError("partial_rotary_factor other than 1 is not supported")
    if rope_type == "default":
        scaling = None
    elif rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type {rope_type!r} is not supported; known are default, {', '.join(ROPE_TYPES)}")
    else:
        if (trained := raw.get("original_max_position_embeddings")) is not None:
            scaling["original_max_position_embeddings"] = trained  # transformers gives the outer key priority
        scaling = {"rope_type": rope_type, **scaling}
    return {"rope_theta": 10000.0 if theta is None else theta, "rope_scaling": scaling}


def config_to_json(config: LlamaConfig, dtype: torch.dtype) -> dict:
    """What config.json has to say for this project and for transformers, old and new."""
    values = dataclasses.asdict(config) | {"torch_dtype": dtype_name(dtype)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **dict(sorted(values.items())),
    }


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
