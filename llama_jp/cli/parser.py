"""An argument parser whose errors take one line: the mistake, the short usage, the way out."""

from __future__ import annotations

import argparse
import difflib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from .failures import shorten_words
from .help_format import HelpFormatter
from .language import translate


class CommandParser(argparse.ArgumentParser):
    """argparse's parser with short errors, and with positional arguments on both sides of the flags."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"formatter_class": HelpFormatter, **settings})

    def parse_args(  # type: ignore[override]  # one signature for argparse's three overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse all words. Unknown ones are an error of the command that they follow."""
        namespace, rest = self.parse_known_args(args, namespace)
        parser: CommandParser = getattr(namespace, "parser", self)
        for action in parser.open_positionals(namespace):
            # argparse gives an optional positional its default at the first flag: `quantize A --bits 4 B`
            if rest and not rest[0].startswith("-"):
                setattr(namespace, action.dest, parser._get_value(action, rest.pop(0)))
        if rest:
            parser.error(f"{rest[0]} is unknown{parser.hint(rest[0])}")
        return namespace

    def open_positionals(self, namespace: argparse.Namespace) -> list[argparse.Action]:
        """The optional positional arguments without a value."""
        return [
            action
            for action in self._get_positional_actions()
            if action.nargs == argparse.OPTIONAL and getattr(namespace, action.dest, None) is None
        ]

    def knows(self, word: str) -> bool:
        """Whether a word is a flag of this parser, or the beginning of one."""
        return any(flag.startswith(word.partition("=")[0]) for flag in self._option_string_actions)

    def hint(self, word: str) -> str:
        """The way out for an unknown word: the flag that is meant, or how to type a text that begins with a hyphen."""
        if word.startswith("--"):
            return did_you_mean(word.partition("=")[0], self._option_string_actions)
        if word.startswith("-") and self._get_positional_actions():
            return f"; a text that begins with - follows --: {self.prog} -- {shlex.quote(word)}"
        return ""

    def error(self, message: str) -> NoReturn:
        """Print the mistake and the short usage in one line, and exit with status 2."""
        message = " ".join(message.removeprefix("argument ").split())
        if message.endswith("expected one argument"):
            message = f"{message}; a value that begins with - follows =, as in {message.partition(':')[0]}=-1"
        usage = f"; usage: {self.short_usage()} (see {self.prog} --help)"
        self.exit(2, f"llama-jp: {shorten_words(translate(message))}{translate(usage)}\n")

    def short_usage(self) -> str:
        """The program, its positional arguments, and the word OPTIONS."""
        words = [
            str(action.metavar or action.dest) if action.required else f"[{action.metavar or action.dest}]"
            for action in self._get_positional_actions()
        ]
        return " ".join([self.prog, *words, "[OPTIONS]"])


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error sentence that names the most similar known word, if one is similar."""
    similar = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""
