"""llama-jp convert: write any checkpoint that loads as safetensors, or as a GGUF file."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ..checkpoint.config import dtype_name
from ..checkpoint.gguf.header import read_header
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.load import load_model
from ..checkpoint.save import check_target_is_new
from ..export.gguf import save_gguf
from .arguments import (
    DTYPES,
    GGUF_TYPES,
    add_conversion_arguments,
    add_trust_argument,
    take_model_as_source,
)
from .console import note
from .output import check_folder_name, check_writable, count

EXAMPLE = "llama-jp convert demo demo-float32 --dtype float32"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion_arguments(parser, "SRC", "DST", "folder or GGUF file (NAME.gguf)")
    parser.add_argument(
        "--dtype", choices=[name for name in DTYPES if name != "auto"], help="dtype of a folder (default: stored)"
    )
    parser.add_argument(
        "--type", choices=GGUF_TYPES, help="type of a GGUF file, with DST such as out.gguf (default: as stored)"
    )
    add_trust_argument(parser)
    parser.add_argument(
        "--max-shard-size", metavar="SIZE", help="largest file of a folder, such as 5GB or 500MB (default: 5GB)"
    )


def run(args: argparse.Namespace) -> int:
    take_model_as_source(args)
    if args.target is None:
        args.parser.error("SRC and DST are needed")
    if args.target.name.lower() == ".gguf":
        raise ValueError(f"{args.target} is an ending without a name; name the file, such as model.gguf")
    if args.target.suffix.lower() == ".gguf":
        return write_gguf_file(args)
    if args.type is not None:
        raise ValueError(
            f"--type is of GGUF files, and {args.target} is a folder; name it {as_gguf(args.target)}, or use --dtype"
        )
    check_folder_name(args.target, "")
    check_target_is_new(args.target)
    check_writable(args.target)
    model = load_model(
        args.source,
        dtype=args.dtype or "stored",
        device="cpu",
        revision=args.revision,
        adapter=args.adapter,
        trust_parts=args.trust_parts,
    )
    if args.tokenizer is not None:
        # a save copies the tokenizer files of this folder
        model.folder = find_checkpoint(args.tokenizer, weights=False)
    model.save_pretrained(args.target, max_shard_size=args.max_shard_size or "5GB")
    files = sorted(file for file in args.target.iterdir() if file.suffix == ".safetensors")
    size = sum(file.stat().st_size for file in files)
    dtype = dtype_name(model.embed_tokens.weight.dtype)
    note(f"{args.target}: {count(len(files), 'safetensors file')}, {size:,} bytes, {dtype}")
    return 0


def as_gguf(target: Path) -> Path:
    """The GGUF file to name in the place of a folder: in the folder if it exists, else beside it."""
    return target / "model.gguf" if target.is_dir() else target.with_name(f"{target.name}.gguf")


def write_gguf_file(args: argparse.Namespace) -> int:
    """Write a GGUF file, and print its size and types."""
    of_folders = (
        ("dtype", args.dtype, "use --type"),
        ("max-shard-size", args.max_shard_size, "drop it"),
        ("trust-parts", args.trust_parts or None, "llama.cpp runs no changed model"),
    )
    for flag, given, instead in of_folders:
        if given is not None:
            raise ValueError(f"--{flag} is of folders, and {args.target} is a GGUF file; {instead}")
    check_writable(args.target)
    save_gguf(
        args.source,
        args.target,
        args.type or "auto",
        tokenizer=args.tokenizer,
        revision=args.revision,
        adapter=args.adapter,
    )
    tensors = read_header(args.target).tensors.values()
    types = ", ".join(f"{count} {name}" for name, count in Counter(tensor.type_name for tensor in tensors).items())
    note(f"{args.target}: {args.target.stat().st_size:,} bytes, {len(tensors)} tensors ({types})")
    return 0
