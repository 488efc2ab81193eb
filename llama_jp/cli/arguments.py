"""Flags and value types that several commands share. This module does not import torch, which takes seconds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..checkpoint.hub import SHORT_NAMES

DTYPES = ("auto", "stored", "float32", "bfloat16", "float16")


def add_source_arguments(parser: argparse._ActionsContainer) -> None:
    """--model and --revision. The parser may be an argument group."""
    parser.add_argument(
        "--model",
        default="demo",
        metavar="MODEL",
        help=f"folder, hub repository (owner/name), or one of demo, {', '.join(SHORT_NAMES)} (default: demo)",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a hub repository, such as refs/pr/2 (default: main)"
    )


# Value types. argparse prints the message of an ArgumentTypeError beside the flag's name.


def positive_int(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def int_list(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 2,13")
    return [int(part) for part in text.split(",")]


def json_list(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise argparse.ArgumentTypeError(f"{text!r} is JSON, but not a list")
    return value
