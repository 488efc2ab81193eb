"""The command line: `llama-jp COMMAND`. Each command is one module of this folder.

A command module has EXAMPLE (a command that works as typed), add_arguments(parser), and run(args), which returns the
exit status. Results go to standard output, and everything else to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from ..version import __version__

# The commands and their help lines. Most command modules import torch, which takes seconds, so the lines stand here.
COMMANDS = {
    "generate": "answer an instruction or continue a text, streamed token by token",
    "chat": "chat with an instruction-tuned model",
    "info": "show a checkpoint's sizes, files, memory and tokenizer, without loading the weights",
    "tokenize": "show the tokens of a text: pieces, ids, bytes, characters per token",
    "convert": "convert a checkpoint to safetensors, in the same or another dtype",
    "quantize": "write int8 or int4 weights with a certificate of the numerical deviation, or verify a certificate",
    "parity": "compare a model with transformers or another: equal, or the first difference and whether it is a bug",
    "bench": "measure loading, prefill and decoding, beside the machine's bandwidth and arithmetic",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `argv` defaults to the words after the program's name.

    Exit status: 0 done; 1 refused or failed, with one line on standard error; 2 wrong usage; 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    command = next((word for word in words if not word.startswith("-")), None)
    args = make_parser([command] if command in COMMANDS else []).parse_args(words)
    try:
        with one_line_warnings():
            status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the process that reads our output has ended, as in `llama-jp … | head`
        # Python flushes standard output at exit. Into the closed pipe, the flush would print another error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        print(f"llama-jp: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1


def make_parser(commands: Iterable[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Only the modules of `commands` are imported, and only these commands have their arguments. The others are listed in
    the help: `llama-jp --help` starts without torch, and each command imports only its own module.
    """
    parser = argparse.ArgumentParser(
        prog="llama-jp",
        description="Llama 2 from scratch in plain PyTorch, for ELYZA's Japanese models.",
        epilog="llama-jp COMMAND --help shows the options of a command and an example that works as typed.",
    )
    parser.add_argument("--version", action="version", version=f"llama-jp {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    commands = set(commands)
    for name, line in COMMANDS.items():
        command = subparsers.add_parser(
            name,
            help=line,
            description=f"{line[0].upper()}{line[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in commands:
            module = importlib.import_module(f".{name}", __name__)
            command.epilog = f"example:\n  {module.EXAMPLE}"
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print each warning as one line on standard error, without file and line number."""
    with warnings.catch_warnings():  # puts `showwarning` back, also when the command fails
        warnings.showwarning = show_warning
        yield


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A replacement for `warnings.showwarning`, which fixes these parameters."""
    print(f"llama-jp: {message}", file=sys.stderr)
