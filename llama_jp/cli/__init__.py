"""The command line: `llama-jp COMMAND`, one module of this folder for each command.

A command module has HELP (a line), EXAMPLE (a command that works as typed), add_arguments(parser) and run(args) ->
exit status. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

COMMANDS = ("generate", "chat", "info", "tokenize", "convert", "quantize", "parity", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Exit status: 0 done, 1 refused or failed (one line says why), 2 wrong usage, 130 interrupted."""
    args = make_parser().parse_args(argv)
    warnings.showwarning = lambda message, *_: print(f"llama-jp: {message}", file=sys.stderr)
    try:
        status = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output has left: `llama-jp … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        print(f"llama-jp: {' '.join(str(error).split()) or type(error).__name__}", file=sys.stderr)
        return 1


def make_parser() -> argparse.ArgumentParser:
    from ..version import __version__

    parser = argparse.ArgumentParser(
        prog="llama-jp",
        description="Llama 2 from scratch in plain PyTorch, for ELYZA's Japanese models.",
        epilog="llama-jp COMMAND --help shows a command's options and an example that works as typed.",
    )
    parser.add_argument("--version", action="version", version=f"llama-jp {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".{name}", __name__)
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser
