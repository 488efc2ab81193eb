"""config.json to a `LlamaConfig`, and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from ..linear.scheme import Scheme
from ..model import LlamaConfig
from ..rope import ROPE_TYPES, make_rope
from .json_files import read_json
from .parts import recorded_parts, without_parts


def read_config(folder: str | Path, changed_ok: bool = False) -> LlamaConfig:
    """The configuration of the checkpoint in a folder. See `parse_config`; errors name the file.

    changed_ok  the caller takes `read_parts` into account; otherwise a changed model raises ValueError
    """
    file = Path(folder) / "config.json"
    try:
        raw = read_json(file)
        if (parts := recorded_parts(raw)) and not changed_ok:
            names = ", ".join(f"{role} {name}" for role, name in parts.items())
            raise ValueError(f"the model is a changed one ({names}), and only a plain Llama can be used here")
        return parse_config(without_parts(raw))
    except (ValueError, KeyError) as error:
        raise ValueError(error.args[0] if str(file) in str(error) else f"{file}: {error.args[0]}") from error


def read_parts(folder: str | Path) -> dict[str, str]:
    """The recorded parts of the checkpoint in a folder; nothing for a plain model. See parts.py."""
    file = Path(folder) / "config.json"
    try:
        return recorded_parts(read_json(file))
    except ValueError as error:
        raise ValueError(error.args[0] if str(file) in str(error) else f"{file}: {error.args[0]}") from error


def read_scheme(folder: str | Path) -> Scheme | None:
    """The quantisation scheme of the checkpoint in a folder, or None for plain weights."""
    raw = read_json(Path(folder) / "config.json").get("quantization_config")
    return None if raw is None else Scheme.from_json(raw)


def parse_config(raw: dict[str, Any]) -> LlamaConfig:
    """Make a `LlamaConfig` from the content of config.json, in the spelling of transformers 4 or 5.

    A key that cannot change the logits is ignored.

    Raises ValueError, with the key and its value, for a setting that changes the logits and is not supported, and for a
    missing or impossible size.
    """
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


def refuse_unsupported(raw: dict[str, Any]) -> None:
    """Raise ValueError for a key whose value changes the logits in a way that this model does not implement."""
    supported: dict[str, tuple[object, ...]] = {
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


def parse_rope(raw: dict[str, Any]) -> dict[str, Any]:
    """The fields `rope_theta` and `rope_scaling` of `LlamaConfig`, from either spelling in config.json.

    transformers 4 has two keys, `rope_theta` and `rope_scaling: {type or rope_type: …}`.
    transformers 5 has one key, `rope_parameters: {rope_theta, rope_type, …}`.
    """
    given = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(given, dict):
        raise ValueError(f"rope_scaling is {given!r}, but it has to be an object or null")
    scaling = dict(given)
    theta = scaling.pop("rope_theta", None)
    theta = raw.get("rope_theta") if theta is None else theta
    theta = 10000.0 if theta is None else theta
    rope_type = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    if scaling.pop("partial_rotary_factor", None) not in (None, 1):
        raise ValueError("partial_rotary_factor other than 1 is not supported")
    if rope_type == "default":
        return {"rope_theta": theta, "rope_scaling": None}
    if rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type {rope_type!r} is not supported; known are default, {', '.join(ROPE_TYPES)}")
    if (trained := raw.get("original_max_position_embeddings")) is not None:
        scaling["original_max_position_embeddings"] = trained  # the outer key has priority, as in transformers
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
