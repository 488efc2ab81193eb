"""The keys of a GGUF file as the content of config.json, and back."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

from ...config import LlamaConfig
from .header import GgufHeader, GgufTensor

CONTROL = 3  # in tokenizer.ggml.token_type
ENDS_OF_TURN = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>")

DTYPES = {"F16": "float16", "BF16": "bfloat16"}

# Scalings of Llama 3 differ in `factor` and in this length only; the other two are 1 and 4 in all of them.
TRAINED_LENGTHS = (8192, 4096, 2048, 16384, 32768, 65536, 131072, 1024)


def describe_config(header: GgufHeader) -> dict[str, Any]:
    """The content of config.json for the model in a GGUF file.

    Raises ValueError, with the key and its value, for another architecture, and for a setting that changes the logits
    and is not supported.
    """
    keys = header.keys
    check_architecture(header)
    heads, key_heads = head_counts(header)
    hidden, embedding = keys.get("llama.embedding_length"), header.tensors["token_embd.weight"]
    vocab_size = embedding.shape[0]
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": uniform(header, "llama.feed_forward_length"),
        "num_hidden_layers": keys.get("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_dim(header, heads),
        "max_position_embeddings": keys.get("llama.context_length"),
        "rms_norm_eps": number(keys.get("llama.attention.layer_norm_rms_epsilon")),
        "rope_theta": number(keys.get("llama.rope.freq_base", 10000.0)),
        "rope_scaling": describe_scaling(header),
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "torch_dtype": DTYPES.get(embedding.type_name, "float32"),
        "sliding_window": keys.get("llama.attention.sliding_window") or None,
    }
    byte_level = keys.get("tokenizer.ggml.model") == "gpt2" and "tokenizer.ggml.pre" in keys
    for role, default in (("bos", 1), ("eos", 2), ("padding", None)):
        token_id = keys.get(f"tokenizer.ggml.{role}_token_id", None if byte_level else default)
        in_range = token_id is not None and 0 <= token_id < vocab_size
        config[f"{role.removesuffix('ding')}_token_id"] = token_id if in_range else None
    if ends := ends_of_turn(header, vocab_size):
        eos = config["eos_token_id"]
        every = list(dict.fromkeys([*([] if eos is None else [eos]), *ends]))
        config["eos_token_id"] = every[0] if len(every) == 1 else every
    check_sizes(header, config)
    return config


def ends_of_turn(header: GgufHeader, vocab_size: int) -> list[int]:
    """The ids that end an answer beside EOS: a file has one EOS, and Llama 3 ends a turn with `<|eot_id|>`.

    As in llama.cpp, keys name them, and control tokens with the usual names count as well.
    """
    keys = header.keys
    ids = [keys.get(f"tokenizer.ggml.{role}_token_id", -1) for role in ("eot", "eom")]
    pieces, types = keys.get("tokenizer.ggml.tokens", []), keys.get("tokenizer.ggml.token_type", [])
    ids += [i for i, kind in enumerate(types[: len(pieces)]) if kind == CONTROL and pieces[i] in ENDS_OF_TURN]
    return [i for i in ids if 0 <= i < vocab_size]


def check_sizes(header: GgufHeader, config: dict[str, Any]) -> None:
    """Raise ValueError for sizes that the tensors contradict. A damaged key could ask for more than all memory."""
    tensors, way_out = header.tensors, "download or convert the file again"
    layers = {match[1] for name in tensors if (match := re.match(r"blk\.(\d+)\.", name))}
    found = {
        "num_hidden_layers": ("llama.block_count", len(layers)),
        "hidden_size": ("llama.embedding_length", tensors["token_embd.weight"].shape[-1]),
    }
    if (up := tensors.get("blk.0.ffn_up.weight")) is not None:
        found["intermediate_size"] = ("llama.feed_forward_length", up.shape[0])
    for field, (key, size) in found.items():
        if config[field] is not None and config[field] != size:
            raise ValueError(f"{header.file}: {key} is {config[field]}, and its tensors have {size}; {way_out}")
    for letter, key, field in (
        ("q", "head_count", "num_attention_heads"),
        ("k", "head_count_kv", "num_key_value_heads"),
    ):
        tensor, heads, size = tensors.get(f"blk.0.attn_{letter}.weight"), config[field], config["head_dim"]
        if tensor is not None and size is not None and tensor.shape[0] != heads * size:
            raise ValueError(
                f"{header.file}: llama.attention.{key} is {heads}, and {tensor.name} has {tensor.shape[0]} rows, not "
                f"{heads * size} ({heads} heads of {size}); {way_out}"
            )


def check_architecture(header: GgufHeader) -> None:
    """Raise ValueError for a file that holds no Llama, with what it holds."""
    keys, file = header.keys, header.file
    architecture = keys.get("general.architecture")
    if architecture != "llama":
        raise ValueError(f"{file} holds a model of the architecture {architecture!r}; only 'llama' is supported")
    if keys.get("general.type", "model") != "model":
        raise ValueError(
            f"{file} holds no model (general.type is {keys['general.type']!r}); name the file of its model"
        )
    if keys.get("llama.expert_count"):
        raise ValueError(
            f"{file} holds a mixture of {keys['llama.expert_count']} experts (Mixtral), which is not supported"
        )
    if keys.get("llama.attention.causal", True) is not True:
        raise ValueError(f"{file}: llama.attention.causal is false, which is not supported; only true is")
    if "token_embd.weight" not in header.tensors:
        raise ValueError(f"{file} has no token_embd.weight, which every model has")


def head_counts(header: GgufHeader) -> tuple[int, int]:
    """The numbers of query heads and of key heads."""
    heads = uniform(header, "llama.attention.head_count")
    if heads is None or heads < 1:
        raise ValueError(f"{header.file}: llama.attention.head_count is {heads!r}, but it has to be a positive number")
    key_heads = uniform(header, "llama.attention.head_count_kv")
    return heads, heads if key_heads is None else key_heads


def head_dim(header: GgufHeader, heads: int) -> int | None:
    """The size of a head. Raises ValueError for keys and values of two sizes, and for a rotation of a part of it."""
    keys, hidden = header.keys, header.keys.get("llama.embedding_length")
    default = None if hidden is None else hidden // heads
    size: int | None = keys.get("llama.attention.key_length", default)
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if keys.get(key, size) != size:
            raise ValueError(f"{header.file}: {key} {keys[key]} is not supported; only the size of a head, {size}, is")
    return size


def uniform(header: GgufHeader, key: str) -> Any:
    """The value of a key that may have one for each layer. Raises ValueError for layers that differ."""
    value = header.keys.get(key)
    if not isinstance(value, list):
        return value
    if len(set(value)) != 1:
        raise ValueError(f"{header.file}: {key} {value} is not supported; only one value for all layers is")
    return value[0]


def number(value: Any) -> Any:
    """The shortest decimal of a float32: the file has 9.999999747378752e-06 where config.json has 1e-05."""
    if not isinstance(value, float) or not abs(value) < 1e38:  # next to the largest float32, a decimal may not fit
        return value
    stored = struct.pack("<f", value)
    return next(short for digits in range(1, 18) if struct.pack("<f", short := float(f"{value:.{digits}g}")) == stored)


def describe_scaling(header: GgufHeader) -> dict[str, Any] | None:
    """The content of `rope_scaling`; None for the plain rope.

    As in llama.cpp, a factor without a type is a linear one, and the type "none" switches a factor off.
    """
    keys, prefix = header.keys, "llama.rope.scaling."
    kind = keys.get(f"{prefix}type", "linear")
    factor = number(keys.get(f"{prefix}factor") or keys.get("llama.rope.scale_linear") or 1.0)
    divisors = header.tensors.get("rope_freqs.weight")
    scaling = None
    if kind == "yarn":
        scaling = {"rope_type": "yarn", "factor": factor} | yarn_settings(header)
    elif kind not in ("none", "linear"):
        raise ValueError(f"{header.file}: {prefix}type {kind!r} is not supported; only none, linear and yarn are")
    elif kind == "linear" and factor != 1:
        scaling = {"rope_type": "linear", "factor": factor}
    divided = None if divisors is None else divided_frequencies(header, divisors)
    if scaling and divided:
        raise ValueError(
            f"{header.file} has rope_freqs.weight and {prefix}type {kind!r}; only one of them is supported"
        )
    return scaling or divided


def yarn_settings(header: GgufHeader) -> dict[str, Any]:
    """The settings of the yarn scaling that transformers has too. Raises ValueError for those of llama.cpp alone."""
    keys, prefix = header.keys, "llama.rope.scaling."
    for key, neutral in (
        ("attn_factor", 1),
        ("yarn_attn_factor", 1),
        ("yarn_ext_factor", 1),
        ("yarn_log_multiplier", 0),
    ):
        if (value := keys.get(f"{prefix}{key}", neutral)) != neutral:
            raise ValueError(f"{header.file}: {prefix}{key} {value} is not supported; only {neutral} is")
    names = {
        "original_context_length": "original_max_position_embeddings",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    }
    return {name: number(keys[f"{prefix}{key}"]) for key, name in names.items() if f"{prefix}{key}" in keys}


def divided_frequencies(header: GgufHeader, tensor: GgufTensor) -> dict[str, Any] | None:
    """The `rope_scaling` for rope_freqs.weight, the divisors of the frequencies; None if all are 1.

    The file has the divisors and not the settings. Divisors that the usual settings of Llama 3 give are "llama3". All
    others are a "longrope" with one list for every length.
    """
    if tensor.type_name != "F32":
        raise ValueError(f"{header.file} stores rope_freqs.weight as {tensor.type_name}, not as F32")
    with tensor.file.open("rb") as opened:
        opened.seek(tensor.start)
        order = ">" if tensor.big_endian else "<"
        divisors = struct.unpack(f"{order}{tensor.nbytes // 4}f", opened.read(tensor.nbytes))
    size = head_dim(header, head_counts(header)[0])
    if not all(0 < divisor < math.inf for divisor in divisors) or size != 2 * len(divisors):
        raise ValueError(
            f"{header.file}: rope_freqs.weight has {len(divisors)} numbers from {min(divisors):g} to "
            f"{max(divisors):g}, but heads of {size} need {(size or 0) // 2} positive ones"
        )
    if all(divisor == 1 for divisor in divisors):
        return None
    base = number(header.keys.get("llama.rope.freq_base", 10000.0))
    factor = number(max(divisors))
    for length in TRAINED_LENGTHS:
        expected = llama3_divisors(base, len(divisors), factor, length)
        if all(math.isclose(one, two, rel_tol=1e-5) for one, two in zip(divisors, expected, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": length,
            }
    shortest = [number(divisor) for divisor in divisors]
    return {
        "rope_type": "longrope",
        "factor": 1.0,
        "attention_factor": 1.0,
        "short_factor": shortest,
        "long_factor": shortest,
        "original_max_position_embeddings": header.keys.get("llama.context_length"),
    }


def llama3_divisors(base: float, count: int, factor: float, length: int) -> list[float]:
    """The divisors that llama.cpp's converter writes for low_freq_factor 1 and high_freq_factor 4."""
    low, high = 1.0, 4.0
    divisors = []
    for i in range(count):
        turns = length / (2 * math.pi * base ** (i / count))  # full turns within the trained length
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        divisors.append(1 / ((1 - smooth) / factor + smooth))
    return divisors


def config_keys(config: LlamaConfig) -> dict[str, Any]:
    """The keys of a GGUF file for a configuration, as llama.cpp's converter names them. See `describe_config`.

    The scalings of Llama 3 and of equal lists in longrope are the tensor rope_freqs.weight, and not keys.

    Raises ValueError for a scaling of the rope that a GGUF file cannot say.
    """
    return {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        **scaling_keys(config),
        "llama.rope.freq_base": float(config.rope_theta),
        "llama.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.vocab_size": config.vocab_size,
        "llama.rope.dimension_count": config.head_dim,
    }


def scaling_keys(config: LlamaConfig) -> dict[str, Any]:
    """The keys for `rope_scaling`."""
    scaling, prefix = config.rope_scaling or {}, "llama.rope.scaling."
    kind = scaling.get("rope_type")
    if kind in (None, "llama3") or has_one_list(config):
        return {}
    if kind == "linear":
        return {f"{prefix}type": "linear", f"{prefix}factor": float(scaling["factor"])}
    lost = {key for key in ("attention_factor", "mscale", "mscale_all_dim") if scaling.get(key) is not None}
    lost |= {key for key in ("truncate",) if scaling.get(key) is False}
    if kind != "yarn" or lost:
        settings = f" with {', '.join(sorted(lost))}" if kind == "yarn" else ""
        raise ValueError(f"a GGUF file cannot hold the rope_scaling {kind!r}{settings} of this model")
    trained = scaling.get("original_max_position_embeddings", config.max_position_embeddings)
    names = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
    return {
        f"{prefix}type": "yarn",
        f"{prefix}factor": float(scaling.get("factor") or config.max_position_embeddings / trained),
        f"{prefix}original_context_length": trained,
        **{f"{prefix}{name}": float(scaling[key]) for key, name in names.items() if scaling.get(key)},
    }


def has_one_list(config: LlamaConfig) -> bool:
    """Whether the rope is a longrope that divides the frequencies in the same way at every length."""
    scaling = config.rope_scaling or {}
    lists_are_equal = scaling.get("short_factor") == scaling.get("long_factor")
    return scaling.get("rope_type") == "longrope" and lists_are_equal and scaling.get("attention_factor") == 1
