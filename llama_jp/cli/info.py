"""llama-jp info: what a checkpoint is, from its files alone; no weight is read."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path

import torch

from ..checkpoint import WEIGHT_FILES, dtype_name, find_checkpoint, find_tensors, read_config, read_json
from ..model import Llama
from ..rope_scaling import context_length
from ..tokenizer import Tokenizer
from .common import add_source_arguments

HELP = "show what a checkpoint is, without loading its weights: sizes, files, memory, tokenizer"
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
    config = read_config(folder)
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
        "weights": None,
        "tokenizer": None,
    }
    if any((folder / name).is_file() for name in WEIGHT_FILES):
        stored = find_tensors(folder)
        files = sorted({tensor.file for tensor in stored.values()})
        content["weights"] = {
            "tensors": len(stored),
            "dtypes": sorted({dtype_name(tensor.dtype) for tensor in stored.values()}),
            "parameters_stored": sum(math.prod(tensor.shape) for tensor in stored.values()),
            "files": {file.name: file.stat().st_size for file in files},
        }
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
    config, weights, tokenizer = content["config"], content["weights"], content["tokenizer"]
    shown = [("folder", content["folder"])]
    shown += [(name, json.dumps(value)) for name, value in config.items()]
    shown.append(("context", f"{content['context_length']:,} tokens"))
    shown.append(
        (
            "parameters",
            f"{content['parameters']:,} = {in_card_unit(content['parameters'])} (divided by 2^30, as on ELYZA's cards)",
        )
    )
    if weights is None:
        shown.append(("weights", "not here: only the small files were fetched"))
    else:
        shown.append(("tensors", f"{weights['tensors']}, stored as {', '.join(weights['dtypes'])}"))
        shown += [("file", f"{name}, {size:,} bytes") for name, size in weights["files"].items()]
    shown += [(f"memory in {name}", gib(size)) for name, size in content["memory_bytes"].items()]
    shown += [
        (f"cache in {name}", f"{size:,} bytes a token") for name, size in content["cache_bytes_per_token"].items()
    ]
    sampling = {
        k: v
        for k, v in content["generation_config"].items()
        if k in ("do_sample", "temperature", "top_k", "top_p", "max_length")
    }
    drawn = sampling.get("do_sample")
    shown.append(("generation", f"sampling, {json.dumps(sampling)}" if drawn else "greedy"))
    if tokenizer is None:
        shown.append(("tokenizer", "none"))
    else:
        shown.append(
            (
                "tokenizer",
                f"{tokenizer['kind']}, {tokenizer['vocab_size']:,} pieces, from {', '.join(tokenizer['files'])}",
            )
        )
        shown.append(("BOS", f"id {tokenizer['bos_id']}, put before every text unless told otherwise, never twice"))
        shown.append(
            (
                "EOS, pad",
                f"ids {tokenizer['eos_id']}, {tokenizer['pad_id']} (padding is known by its mask, not by its id)",
            )
        )
    return shown


def in_card_unit(parameters: int) -> str:
    """Billions as the model cards count them: divided by 2^30 and cut, not rounded, to two decimals."""
    return f"{math.floor(parameters / 2**30 * 100) / 100:.2f}B"


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
