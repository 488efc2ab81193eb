"""llama-jp info: the sizes, files, memory and tokenizer of a checkpoint, without loading its weights.

This module does not import torch, which takes seconds. Only `.bin` and `.pth` files, a scaled rope and a function need
it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.config import read_config, read_parts, read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.json_files import read_json
from ..checkpoint.layouts import find_tensors
from ..checkpoint.meta import is_meta, read_params
from ..checkpoint.packed_weights import read_packing
from ..checkpoint.parts import is_function_name
from ..checkpoint.recognise import shorten
from ..config import LlamaConfig
from ..linear.scheme import Scheme
from ..loading import find_mismatch
from ..text.tokenizer import Tokenizer
from .arguments import add_positional_source_arguments

EXAMPLE = "llama-jp info demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_positional_source_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    if is_function_name(args.model):
        info = inspect_function(args.model, args.revision)
    else:
        info = inspect_checkpoint(find_checkpoint(args.model, args.revision, weights=False))
    if args.json:
        print(json.dumps(dataclasses.asdict(info), ensure_ascii=False, indent=2))
    else:
        rows = table(info)
        width = max(len(name) for name, _ in rows)
        print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    return 0


@dataclass
class WeightsInfo:
    """The weight files of a checkpoint."""

    tensors: int
    dtypes: list[str]
    parameters_stored: int
    files: dict[str, int]  # name -> bytes


@dataclass
class TokenizerInfo:
    """The tokenizer of a checkpoint."""

    kind: str
    files: list[str]
    byte_level: bool  # the vocabulary of a byte-level BPE, as Llama 3's
    vocab_size: int
    bos_id: int | None
    adds_bos: bool  # texts begin with BOS
    eos_id: int | None
    pad_id: int | None
    added_tokens: dict[str, int]  # name -> id
    mismatch: str | None  # why the tokenizer does not belong to the model


@dataclass
class CheckpointInfo:
    """The facts that `info` shows. The fields are the keys of its JSON object."""

    folder: str | None  # None: a function made the model from no checkpoint
    layout: str  # of the files: "transformers", or "meta" for params.json with consolidated.*
    parts: dict[str, str]  # of a changed model: "class", "attention", "rope" or "norm" -> "module:name"
    config: dict[str, Any]
    parameters: int | None  # None: the class of a changed model decides it, and `info` does not import the class
    memory_bytes: dict[str, int]  # for the weights, by dtype
    cache_bytes_per_token: dict[str, int]  # by dtype
    context_length: int
    context_origin: str  # how the context length follows from config.json
    generation_config: dict[str, Any]
    quantization: dict[str, Any] | None
    weights: WeightsInfo | None
    weights_missing: str | None  # the reason for the absence of `weights`
    tokenizer: TokenizerInfo | None
    tokenizer_missing: str | None  # the reason for the absence of `tokenizer`, where there is more to say than "none"


def inspect_checkpoint(folder: Path) -> CheckpointInfo:
    """The facts about a checkpoint, from its small files and the headers of its weight files.

    The parts of a changed model are named, and not imported.
    """
    config, scheme, parts = read_config(folder, changed_ok=True), read_scheme(folder), read_parts(folder)
    weights, missing = None, None
    try:
        stored = find_tensors(folder)
        files = sorted({source.file for tensor in stored.values() for source in tensor.sources})
        weights = WeightsInfo(
            tensors=len(stored),
            dtypes=sorted({source.stored_as for tensor in stored.values() for source in tensor.sources}),
            parameters_stored=sum(math.prod(tensor.shape) for tensor in stored.values()),
            files={file.name: file.stat().st_size for file in files},
        )
    except FileNotFoundError as error:  # the weights of a hub repository are not downloaded for this command
        missing = str(error)
    parameters: int | None = count_parameters(config)
    if "class" in parts:
        parameters = weights.parameters_stored if weights else None
    info = describe_model(config, parameters, read_json(folder / "generation_config.json", missing_ok=True), scheme)
    info.folder, info.parts, info.weights, info.weights_missing = str(folder), parts, weights, missing
    try:
        info.tokenizer = inspect_tokenizer(folder, config)
    except ValueError as error:
        if not folder.is_file():
            raise
        info.tokenizer_missing = str(error)  # the model of a GGUF file is usable with another tokenizer
    if is_meta(folder):
        info.layout = "meta"
        if "max_position_embeddings" not in read_params(folder / "params.json"):
            info.context_origin = "assumed from the other numbers, because Meta's files do not hold it"
    if packing := read_packing(folder):
        info.quantization = dataclasses.asdict(packing) | {"description": str(packing)}
    if scheme and weights:
        info.memory_bytes = {"as stored": sum(tensor.nbytes for tensor in stored.values())}
    return info


def inspect_function(spec: str, revision: str | None) -> CheckpointInfo:
    """The facts about the model that "module:function" returns."""
    from ..checkpoint.load import load_model  # late, because it imports torch

    model = load_model(spec, revision=revision)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    scheme: Scheme | None = getattr(model, "quantization", None)
    info = describe_model(model.config, parameters, model.generation_config, scheme)
    info.weights_missing = f"in memory, made by {spec}"
    if model.folder is not None:
        info.folder, info.tokenizer = str(model.folder), inspect_tokenizer(model.folder, model.config)
    return info


def describe_model(
    config: LlamaConfig, parameters: int | None, generation_config: dict[str, Any], scheme: Scheme | None
) -> CheckpointInfo:
    """The facts that follow from the configuration of a model."""
    element_bytes = {"float32": 4, "bfloat16 or float16": 2}
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim  # numbers per token: K and V
    return CheckpointInfo(
        folder=None,
        layout="transformers",
        parts={},
        config=dataclasses.asdict(config),
        parameters=parameters,
        memory_bytes={dtype: parameters * size for dtype, size in element_bytes.items()} if parameters else {},
        cache_bytes_per_token={dtype: cached * size for dtype, size in element_bytes.items()},
        context_length=config.context_length,
        context_origin=context_origin(config),
        generation_config=generation_config,
        quantization=scheme.to_json() | {"description": str(scheme)} if scheme else None,
        weights=None,
        weights_missing=None,
        tokenizer=None,
        tokenizer_missing=None,
    )


def count_parameters(config: LlamaConfig) -> int:
    """The number of parameters of a plain Llama. Tied matrices count once."""
    V, C, F, D = config.vocab_size, config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * D, config.num_key_value_heads * D
    attention = 2 * C * (queries + keys) + (queries + 2 * keys + C) * config.attention_bias
    mlp = 3 * C * F + (2 * F + C) * config.mlp_bias
    matrices = 1 if config.tie_word_embeddings else 2
    return matrices * V * C + config.num_hidden_layers * (attention + mlp + 2 * C) + C


def context_origin(config: LlamaConfig) -> str:
    """How `context_length` follows from the keys of config.json."""
    longest, scaling = config.max_position_embeddings, config.rope_scaling
    if scaling is None:
        return "max_position_embeddings"
    rope_type, factor = scaling["rope_type"], scaling.get("factor") or 1
    trained = scaling.get("original_max_position_embeddings")
    key = "max_position_embeddings" if trained is None else "original_max_position_embeddings"
    product = f"{key} {trained or longest:,} times factor {factor:g} of {rope_type} rope_scaling"
    if config.context_length == longest:
        return "max_position_embeddings" if trained is None else f"max_position_embeddings; {product} is not more"
    return f"{product}; {longest:,} if max_position_embeddings already includes the factor"


def inspect_tokenizer(folder: Path, config: LlamaConfig) -> TokenizerInfo | None:
    """The facts about the tokenizer in a folder, or None for a folder without one."""
    try:
        tokenizer = Tokenizer.from_pretrained(folder)
    except FileNotFoundError:
        return None
    return TokenizerInfo(
        kind=tokenizer.kind,
        files=[file.name for file in tokenizer.files],
        byte_level=tokenizer.vocabulary.byte_level,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        adds_bos=tokenizer.adds_bos,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        added_tokens={tokenizer.vocabulary.pieces[i]: i for i in sorted(tokenizer.vocabulary.added)},
        mismatch=find_mismatch(tokenizer, config),
    )


def table(info: CheckpointInfo) -> list[tuple[str, str]]:
    """The lines of the report: (name, value)."""
    lines: list[tuple[str, str]] = []
    if info.folder is not None:
        lines.append(("GGUF file" if Path(info.folder).is_file() else "folder", info.folder))
    if info.layout == "meta":
        lines.append(("layout", "Meta's own files: params.json and consolidated.*"))
    lines += [("changed part", f"{role} {name}") for role, name in info.parts.items()]
    lines += [(name, json.dumps(value)) for name, value in info.config.items()]
    lines.append(("context", f"{info.context_length:,} tokens: {info.context_origin}"))
    of_class = f"unknown without the weights: the class {info.parts.get('class')} is not imported"
    lines.append(("parameters", of_class if info.parameters is None else count(info.parameters)))
    if info.weights is None:
        lines.append(("weights", str(info.weights_missing)))
    else:
        lines.append(("tensors", f"{info.weights.tensors}, stored as {', '.join(info.weights.dtypes)}"))
        lines += [("file", f"{name}, {size:,} bytes") for name, size in info.weights.files.items()]
    if info.quantization:
        lines.append(("quantised", info.quantization["description"]))
    memory = [
        f"{in_binary_units(size)} {dtype if dtype == 'as stored' else f'in {dtype}'}"
        for dtype, size in info.memory_bytes.items()
    ]
    if memory:
        lines.append(("memory for weights", ", ".join(memory)))
    cache = [f"{size:,} bytes in {dtype}" for dtype, size in info.cache_bytes_per_token.items()]
    lines.append(("cache per token", ", ".join(cache)))
    generation = info.generation_config
    sampling = {name: generation[name] for name in ("temperature", "top_k", "top_p") if name in generation}
    lines.append(("generation", f"sampling, {json.dumps(sampling)}" if generation.get("do_sample") else "greedy"))
    if info.tokenizer is None:
        return [*lines, ("tokenizer", info.tokenizer_missing or "none")]
    rows = info.config["vocab_size"]
    spare = rows - info.tokenizer.vocab_size
    rest = f", and {spare:,} more rows in the embedding" if spare > 0 else ""
    kind = f"{info.tokenizer.kind}, byte-level BPE" if info.tokenizer.byte_level else info.tokenizer.kind
    lines.append(("tokenizer", f"{kind}, {info.tokenizer.vocab_size:,} pieces{rest}"))
    if info.tokenizer.mismatch:
        lines.append(("MISMATCH", info.tokenizer.mismatch))
    added = [
        f"{name} = {i}{' (not in the model)' if i >= rows else ''}" for name, i in info.tokenizer.added_tokens.items()
    ]
    lines.append(("added tokens", shorten(added)))
    lines += [("tokenizer file", name) for name in info.tokenizer.files]
    added_by = "added at the start of a text by default, never twice"
    use = added_by if info.tokenizer.adds_bos else "not added to a text by default"
    lines.append(("BOS", f"id {info.tokenizer.bos_id}, {use}"))
    lines.append(("EOS", f"id {info.tokenizer.eos_id}"))
    lines.append(
        ("pad", f"id {info.tokenizer.pad_id} in the files; padding is marked by the attention mask, not by it")
    )
    return lines


def count(parameters: int) -> str:
    """The exact number and, for large models, ELYZA's billions: divided by 2^30 and cut to two decimals."""
    hundredths = parameters * 100 // 2**30
    card = f"{hundredths // 100}.{hundredths % 100:02}B as ELYZA's cards count: divided by 2^30"
    return f"{parameters:,} ({card})" if hundredths else f"{parameters:,}"


def in_binary_units(size: int) -> str:
    """A number of bytes in GiB, or in MiB below one GiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
