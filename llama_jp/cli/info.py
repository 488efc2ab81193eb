"""llama-jp info: what a checkpoint is, from its files alone; no weight is read."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch

from ..checkpoint.config import dtype_name, read_config, read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.json_files import read_json
from ..checkpoint.tensors import find_tensors
from ..model import Llama
from ..rope import context_length
from ..text.tokenizer import Tokenizer
from .arguments import add_source_arguments

EXAMPLE = "llama-jp info --model demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    content = describe(find_checkpoint(args.model, args.revision, weights=False))
    if args.json:
        print(json.dumps(content, ensure_ascii=False, indent=2))
    else:
        print("\n".join(f"{name:<22} {value}" for name, value in lines(content)))
    return 0


def describe(folder: Path) -> dict:
    """Everything that `info` shows, as numbers and names."""
    config, scheme = read_config(folder), read_scheme(folder)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Llama(config).parameters())
    content = {
        "folder": str(folder),
        "config": dataclasses.asdict(config),
        "parameters": parameters,
        "memory_bytes": {name: parameters * size for name, size in (("float32", 4), ("bfloat16 or float16", 2))},
        "cache_bytes_per_token": {
            name: 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
            for name, size in (("float32", 4), ("bfloat16 or float16", 2))
        },
        "context_length": context_length(config),
        "generation_config": read_json(folder / "generation_config.json", missing_ok=True),
        "quantization": scheme and scheme.to_json(),
        "weights": None,
        "tokenizer": None,
    }
    try:
        stored = find_tensors(folder)
    except FileNotFoundError as error:  # not fetched from the hub, or not there at all
        content["weights_missing"] = str(error)
    else:
        files = sorted({tensor.file for tensor in stored.values()})
        content["weights"] = {
            "tensors": len(stored),
            "dtypes": sorted({dtype_name(tensor.dtype) for tensor in stored.values()}),
            "parameters_stored": sum(math.prod(tensor.shape) for tensor in stored.values()),
            "files": {file.name: file.stat().st_size for file in files},
        }
        if scheme:
            content["quantization"]["description"] = str(scheme)
            content["memory_bytes"] = {"as stored": sum(tensor.nbytes for tensor in stored.values())}
    try:
        tokenizer = Tokenizer.from_pretrained(folder)
    except FileNotFoundError:
        return content
    content["tokenizer"] = {
        "kind": tokenizer.kind,
        "files": [file.name for file in tokenizer.files],
        "vocab_size": tokenizer.vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
    }
    return content


def lines(content: dict) -> list[tuple[str, str]]:
    """The table that a person reads."""
    weights, tokenizer = content["weights"], content["tokenizer"]
    shown = [("folder", content["folder"])]
    shown += [(name, json.dumps(value)) for name, value in content["config"].items()]
    shown.append(("context", f"{content['context_length']:,} tokens"))
    shown.append(("parameters", count(content["parameters"])))
    if weights is None:
        shown.append(("weights", content["weights_missing"]))
    else:
        shown.append(("tensors", f"{weights['tensors']}, stored as {', '.join(weights['dtypes'])}"))
        shown += [("file", f"{name}, {size:,} bytes") for name, size in weights["files"].items()]
    quantized = content["quantization"]
    if quantized:
        shown.append(("quantised", quantized["description"]))
    memory, cache = content["memory_bytes"], content["cache_bytes_per_token"]
    of = "" if quantized else "in "
    shown.append(("memory for weights", ", ".join(f"{human(size)} {of}{kind}" for kind, size in memory.items())))
    shown.append(("cache per token", ", ".join(f"{cache[dtype]:,} bytes in {dtype}" for dtype in cache)))
    generation = content["generation_config"]
    sampling = {name: generation[name] for name in ("temperature", "top_k", "top_p") if name in generation}
    shown.append(("generation", f"sampling, {json.dumps(sampling)}" if generation.get("do_sample") else "greedy"))
    if tokenizer is None:
        return [*shown, ("tokenizer", "none")]
    shown.append(("tokenizer", f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} pieces"))
    shown += [("tokenizer file", name) for name in tokenizer["files"]]
    shown.append(("BOS", f"id {tokenizer['bos_id']}, put before every text unless told otherwise, never twice"))
    shown.append(("EOS", f"id {tokenizer['eos_id']}"))
    shown.append(("pad", f"id {tokenizer['pad_id']}, by the files; padding is known by its mask, not by its id"))
    return shown


def count(parameters: int) -> str:
    """The exact number and, for large models, ELYZA's billions: divided by 2^30 and cut to two decimals."""
    hundredths = parameters * 100 // 2**30
    card = f"{hundredths // 100}.{hundredths % 100:02}B as ELYZA's cards count: divided by 2^30"
    return f"{parameters:,} ({card})" if hundredths else f"{parameters:,}"


def human(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
