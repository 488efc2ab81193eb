"""The command line: `llama-jp COMMAND`. Each command is one module of this folder.

A command module has EXAMPLE (a command that works as typed), add_arguments(parser), and run(args), which returns the
exit status. Results go to standard output, and everything else to standard error. A module whose status 1 is a result
sets FAILURE_STATUS for its failures.
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
from .console import Signals, delayed_signals, discard_output, say, tolerant_output
from .failures import describe, shorten_words
from .language import LANGUAGES, choose_language, speaking, split_language, translate, translate_help
from .parser import CommandParser, did_you_mean

# The commands and their help lines. Most command modules import torch, which takes seconds, so the lines stand here.
COMMANDS = {
    "generate": "answer an instruction or continue a text, streamed token by token",
    "chat": "chat with an instruction-tuned model",
    "info": "show a checkpoint's sizes, files, memory and tokenizer, without loading the weights",
    "tokenize": "show the tokens of a text: pieces, ids, bytes, characters per token",
    "convert": "convert a checkpoint to safetensors or to a GGUF file, in the same or another dtype",
    "quantize": "write int8 or int4 weights with a certificate of the numerical deviation, or verify a certificate",
    "evaluate": "measure perplexity and bits per byte on a text, the distance from a reference, or answer tasks",
    "finetune": "train a model, or a LoRA adapter for it, on a JSONL file",
    "inspect": "write one HTML page that shows a prompt's way through the model",
    "parity": "compare a model with transformers or another: equal, or the first difference and whether it is a bug",
    "bench": "measure loading, prefill and decoding, beside the machine's bandwidth and arithmetic",
}
SHELLS = ("bash", "zsh", "tcsh")
NO_COMPLETION = "--print-completion needs shtab: pip install 'llama-jp[chat]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. `argv` defaults to the words after the program's name.

    Exit status: 0 done; 1 refused or failed, with one line on standard error; 2 wrong usage; 130 interrupted.
    """
    asked, words = split_language(sys.argv[1:] if argv is None else argv)
    with tolerant_output(), speaking(choose_language(asked, os.environ)), Signals() as signals:
        failed = 1
        try:
            if asked is not None and asked not in LANGUAGES:
                make_parser([]).error(f"--lang: invalid choice: {asked!r} (choose from {', '.join(LANGUAGES)})")
            args = parse(words)
            failed = args.failure_status
            with one_line_warnings():
                status: int = args.run(args)
            sys.stdout.flush()
            return status
        except BrokenPipeError:  # the process that reads our output has ended, as in `llama-jp … | head`
            return 0 if failed == 1 else failed  # parity's 0 would claim that the models are equal
        except KeyboardInterrupt:
            if sys.stderr.isatty():
                say("")  # the next prompt of the shell begins on its own line
            return 130
        except Exception as error:
            if signals.status is not None:  # code in C has replaced the exception of the signal by its own
                return signals.status
            sentence = describe(error)
            if sentence is None:
                raise
            say(f"llama-jp: {shorten_words(translate(sentence))}")
            return failed
        finally:
            discard_output()


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line. Imports the module of its command only."""
    command = words[0] if words and not words[0].startswith("-") else None
    parser = make_parser([command] if command in COMMANDS else [])
    if command is not None and command not in COMMANDS:
        parser.error(f"there is no command {command}{did_you_mean(command, COMMANDS)}")
    if words and command is None and not parser.knows(words[0]):
        parser.error(f"{words[0]} is unknown{parser.hint(words[0])}")
    args: argparse.Namespace = parser.parse_args(words)
    return args


def make_parser(commands: Iterable[str] = tuple(COMMANDS)) -> CommandParser:
    """The parser of the whole command line.

    Only the modules of `commands` are imported, and only these commands have their arguments. The others are listed in
    the help: `llama-jp --help` starts without torch, and each command imports only its own module.
    """
    parser = CommandParser(
        prog="llama-jp",
        description="Llama 2 from scratch in plain PyTorch, for ELYZA's Japanese models.",
        epilog="llama-jp COMMAND --help shows the options of a command and an example that works as typed.",
    )
    parser.add_argument(
        "--lang",
        choices=LANGUAGES,
        help="language of the help and the errors, before or after COMMAND (default: LLAMA_JP_LANG, else the locale's)",
    )
    parser.add_argument("--version", action="version", version=f"llama-jp {__version__}")
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help='print a script for tab completion; bash: eval "$(llama-jp --print-completion bash)"',
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    commands = set(commands)
    for name, line in COMMANDS.items():
        english, japanese = f"{line[0].upper()}{line[1:]}.", translate_help(line)
        command = subparsers.add_parser(name, help=line, description=english if japanese == line else f"{japanese}。")
        if name in commands:
            with delayed_signals():
                module = importlib.import_module(f".{name}", __name__)
            command.epilog = f"example:\n  {module.EXAMPLE}"
            module.add_arguments(command)
            command.set_defaults(run=module.run, parser=command, failure_status=getattr(module, "FAILURE_STATUS", 1))
    return parser


class PrintCompletion(argparse.Action):
    """Print the completion script of a shell, and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ImportError:
            parser.exit(1, f"llama-jp: {translate(NO_COMPLETION)}\n")
        print(shtab.complete(make_parser(), shell=str(values)))
        parser.exit()


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
    print(f"llama-jp: {translate(str(message))}", file=sys.stderr)
