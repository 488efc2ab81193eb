"""Flags and value types that several commands share. This module does not import torch, which takes seconds."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from ..checkpoint.hub import SHORT_NAMES
from ..text_files import parse_json

DTYPES = ("auto", "stored", "float32", "bfloat16", "float16")
GGUF_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")


MOST_DIGITS = 100
LARGEST = 2**63 - 1  # of a 64-bit integer, which torch needs
MOST_THREADS = 1024  # the operating system refuses many more, and OpenMP then ends the process

MODEL_HELP = (
    f"folder, GGUF file, hub repository (owner/name), one of demo, {', '.join(SHORT_NAMES)}, "
    "or module:function, which returns a model"
)


def add_source_arguments(parser: argparse._ActionsContainer) -> None:
    """--model and --revision. The parser may be an argument group."""
    parser.add_argument("--model", default="demo", metavar="MODEL", help=f"{MODEL_HELP} (default: demo)")
    add_revision_argument(parser)


def add_positional_source_arguments(
    parser: argparse.ArgumentParser, several: bool = False
) -> argparse._MutuallyExclusiveGroup:
    """MODEL, --model and --revision, for a command without other positional arguments.

    several  take more than one MODEL, as the list `models`

    Returns the group of everything that names the model, which excludes one another.
    """
    parser.set_defaults(model="demo")  # first, because it would replace the defaults of the two arguments
    group = parser.add_mutually_exclusive_group()
    if several:
        group.add_argument("models", nargs="*", default=[], action=Models, metavar="MODEL", help=MODEL_HELP)
    else:
        group.add_argument("model", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=MODEL_HELP)
    group.add_argument("--model", default=argparse.SUPPRESS, metavar="MODEL", help="the same (default: demo)")
    add_revision_argument(parser)
    return group


class Models(argparse.Action):
    """Any number of models: `models` is their list, and a single one is `model` as well."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        namespace.models = values
        if len(values) == 1:
            namespace.model = values[0]


def add_conversion_arguments(parser: argparse.ArgumentParser, source: str, target: str, kinds: str = "folder") -> None:
    """The source and the target of a command that writes a checkpoint. The source may also be named with --model.

    kinds  what the target may be
    """
    parser.add_argument("source", nargs="?", metavar=source, help=MODEL_HELP)
    parser.add_argument(
        "target", nargs="?", metavar=target, type=Path, help=f"{kinds} to write; it must be new or empty"
    )
    parser.add_argument("--model", metavar="MODEL", help=f"the source, in place of {source}")
    add_revision_argument(parser)
    add_tokenizer_argument(parser)
    add_adapter_argument(parser)


def take_model_as_source(args: argparse.Namespace) -> None:
    """Put --model in the place of the source: the only positional argument is then the target."""
    if args.model is None:
        return
    if args.target is not None:
        args.parser.error(f"the source is named twice, as {args.source} and as --model {args.model}")
    args.source, args.target = args.model, None if args.source is None else Path(args.source)


def add_revision_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a hub repository, such as refs/pr/2 (default: main)"
    )


def add_adapter_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--adapter", type=Path, metavar="FOLDER", help="PEFT (LoRA) adapter to merge into the weights at loading"
    )


def add_tokenizer_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--tokenizer",
        metavar="MODEL",
        help="take the tokenizer of this folder or repository (default: the model's own)",
    )


def add_trust_argument(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--trust-parts",
        action="store_true",
        help="import the functions and the class that the checkpoint of a changed model names, and run their code",
    )


# Value types. argparse prints the message of an ArgumentTypeError beside the flag's name.


def positive_int(text: str) -> int:
    if not is_whole(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    if int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is too large; no tensor has more than {LARGEST} of anything")
    return int(text)


def is_whole(text: str) -> bool:
    """Whether a text is a whole number of at least 0. Python converts no number of many thousand digits."""
    return text.isdecimal() and len(text) <= MOST_DIGITS


def int_from_0(text: str) -> int:
    if not is_whole(text) or int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST}")
    return int(text)


def number_from_0(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number


def positive_number(text: str) -> float:
    if not number_from_0(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return float(text)


def thread_count(text: str) -> int:
    if positive_int(text) > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{text} threads are more than {MOST_THREADS}; take one for each CPU core")
    return int(text)


def int_list(text: str) -> list[int]:
    if not all(is_whole(part.strip()) for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers, such as 2,13")
    return [int(part) for part in text.split(",")]


def json_list(text: str) -> list[Any]:
    try:
        value = parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise argparse.ArgumentTypeError(f"{text!r} is JSON, but not a list")
    return value
