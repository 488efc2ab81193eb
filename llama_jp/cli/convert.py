"""llama-jp convert: write any checkpoint that loads as safetensors."""

from __future__ import annotations

import argparse
import sys

from ..checkpoint.config import dtype_name
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.load import load_model
from ..checkpoint.save import check_target_is_new
from .arguments import (
    DTYPES,
    add_conversion_arguments,
    add_trust_argument,
    take_model_as_source,
)
from .output import check_writable

EXAMPLE = "llama-jp convert demo demo-float32 --dtype float32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion_arguments(parser, "SRC", "DST")
    parser.add_argument(
        "--dtype", choices=[name for name in DTYPES if name != "auto"], default="stored", help="default: stored"
    )
    add_trust_argument(parser)
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="largest file, such as 5GB or 500MB (default: 5GB)"
    )


def run(args: argparse.Namespace) -> int:
    take_model_as_source(args)
    if args.target is None:
        args.parser.error("SRC and DST are needed")
    if args.target.suffix == ".gguf":
        raise ValueError(
            f"convert writes folders, and no GGUF file such as {args.target}; write a folder, and give it to "
            "llama.cpp's convert_hf_to_gguf.py"
        )
    check_target_is_new(args.target)
    check_writable(args.target)
    model = load_model(
        args.source,
        dtype=args.dtype,
        device="cpu",
        revision=args.revision,
        adapter=args.adapter,
        trust_parts=args.trust_parts,
    )
    if args.tokenizer is not None:
        # a save copies the tokenizer files of this folder
        model.folder = find_checkpoint(args.tokenizer, weights=False)
    model.save_pretrained(args.target, max_shard_size=args.max_shard_size)
    files = sorted(file for file in args.target.iterdir() if file.suffix == ".safetensors")
    size = sum(file.stat().st_size for file in files)
    dtype = dtype_name(model.embed_tokens.weight.dtype)
    print(
        f"{args.target}: {len(files)} safetensors file{'s' * (len(files) > 1)}, {size:,} bytes, {dtype}",
        file=sys.stderr,
    )
    return 0
