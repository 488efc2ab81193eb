"""The language of the help and of the errors: English, or Japanese for a Japanese locale.

The sentences of the package are English. The command line translates them where it prints them, so the library's
exceptions stay as they are. `japanese.py` has one entry for each sentence; a name in braces stands for the numbers and
names in it.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from .columns import display_width

LANGUAGES = ("en", "ja")
VARIABLE = "LLAMA_JP_LANG"  # before the locale, and after --lang
SPOKEN: ContextVar[str] = ContextVar("language", default="en")

NOT_FIRST = "、。・）」ーぁぃぅぇぉっゃゅょァィゥェォッャュョ…:,.;)]"  # in a line
NOT_LAST = "（「(["
WORD = "[!-~]+|[ァ-ヴー]+|[一-龠々]+|."  # English, katakana and kanji words stay whole
UNIT = re.compile(rf"[{re.escape(NOT_LAST)}]*(?:{WORD})[{re.escape(NOT_FIRST)}]* *")  # between two line breaks
PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What a name in braces stands for, where it is not any text.
STANDS_FOR = {"hint": "|; .*", "number": r"\d+", "line": r"line \d+", "byte": "[0-9a-f]{2}"}


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Translate into this language inside the block."""
    token = SPOKEN.set(language)
    try:
        yield
    finally:
        SPOKEN.reset(token)


def split_language(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The value of --lang, and the words without it.

    --lang may stand before and after the command, and it decides the language of the errors of all other words.
    Behind "--", it is text. "" stands for a value that is missing.
    """
    rest, value = list(words), None
    end = rest.index("--") if "--" in rest else len(rest)
    for i in reversed(range(end)):
        if rest[i] == "--lang":
            value = value if value is not None else "".join(rest[i + 1 : min(i + 2, end)])
            del rest[i : min(i + 2, end)]
        elif rest[i].startswith("--lang="):
            value = value if value is not None else rest[i].partition("=")[2]
            del rest[i]
    return value, rest


def choose_language(asked: str | None, environment: Mapping[str, str]) -> str:
    """The language that is asked for, else that of the environment; English if an output cannot show Japanese."""
    name = asked if asked in LANGUAGES else language_of(environment)
    return name if all(shows_japanese(stream) for stream in (sys.stdout, sys.stderr)) else "en"


def language_of(environment: Mapping[str, str]) -> str:
    """The language of LLAMA_JP_LANG, else of the locale: the first of LC_ALL, LC_MESSAGES and LANG that is set.

    As in gettext, LANGUAGE (a list such as "ja:en") precedes a locale other than C.
    """
    if (name := environment.get(VARIABLE, "").lower()) in LANGUAGES:
        return name
    locale = next((environment[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(name)), "C")
    names = [re.split(r"[_.@]", locale)[0]]
    if names[0] not in ("C", "POSIX"):
        names = [re.split(r"[_.@]", name)[0] for name in environment.get("LANGUAGE", "").split(":") if name] + names
    return next((name for name in names if name in LANGUAGES), "en")


def shows_japanese(stream: object) -> bool:
    """Whether the encoding of a stream has Japanese characters. A closed stream shows nothing."""
    try:
        "日本語ひらがな".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def translate(sentence: str) -> str:
    """An error, a warning or a message in the language of the block. A sentence without an entry stays English."""
    return sentence if SPOKEN.get() == "en" else tables()[1].translate(sentence)


def translate_help(text: str) -> str:
    """A text of the help in the language of the block."""
    return text if SPOKEN.get() == "en" else tables()[0].translate(text)


@functools.cache
def tables() -> tuple[Table, Table]:
    """The tables of the help and of the messages."""
    from .japanese import HELP, MESSAGES  # late: English needs no table

    return Table(HELP), Table(MESSAGES)


class Table:
    """English sentences and their Japanese. The entry with the most fixed characters translates a sentence."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.entries = entries
        patterns = [english for english in entries if PLACEHOLDER.search(english)]
        patterns.sort(key=lambda english: len(PLACEHOLDER.sub("", english)), reverse=True)
        self.patterns = [(as_pattern(english), entries[english]) for english in patterns]

    def translate(self, sentence: str) -> str:
        """The Japanese of a sentence, and of the sentences inside it; the sentence itself if it has no entry."""
        if sentence in self.entries:
            return self.entries[sentence]
        for pattern, japanese in self.patterns:
            if match := pattern.fullmatch(sentence):
                values = {name: self.translate(value) for name, value in match.groupdict().items()}
                return PLACEHOLDER.sub(lambda place: values[place[1]], japanese)  # noqa: B023 (called at once)
        return sentence


def as_pattern(english: str) -> re.Pattern[str]:
    """The pattern of an entry. A name in braces stands for any text, or for what `STANDS_FOR` has."""
    parts = PLACEHOLDER.split(english)  # fixed text and names take turns
    for i in range(0, len(parts), 2):
        parts[i] = re.escape(parts[i])
    for i in range(1, len(parts), 2):
        parts[i] = f"(?P<{parts[i]}>{STANDS_FOR.get(parts[i], '.*?')})"
    return re.compile("".join(parts), re.DOTALL)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's formatter in the language of the block, with Japanese lines measured in terminal columns.

    Indented lines of a description, such as an example, stay as they are.
    """

    def add_usage(self, usage: Any, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, translate_help("usage: ") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and translate_help(heading))

    def add_text(self, text: str | None) -> None:
        super().add_text(text and translate_help(text))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help and translate_help(action.help)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(" ".join(text.split()), width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(
            indent + each
            for line in lines
            for each in ([line] if line.startswith(" ") else wrap(line, width - len(indent)))
        )


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` columns: English at spaces, Japanese between words as well.

    A line begins with no closing mark and ends with no opening one. A word longer than a line stays whole.
    """
    if SPOKEN.get() == "en":
        return textwrap.wrap(text, width)
    lines = [""]
    for unit in UNIT.findall(text):
        if lines[-1] and display_width(lines[-1] + unit.rstrip()) > width:
            lines.append("")
        lines[-1] += unit if lines[-1] else unit.lstrip()
    return [line.rstrip() for line in lines]
