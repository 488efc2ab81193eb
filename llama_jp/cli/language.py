"""The language of the help and of the errors: English, or Japanese for a Japanese locale.

The sentences of the package are English. The command line translates them where it prints them, so the library's
exceptions stay as they are. The package `japanese` has one entry for each sentence; a name in braces stands for the
numbers and names in it.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

LANGUAGES = ("en", "ja")
VARIABLE = "LLAMA_JP_LANG"  # before the locale, and after --lang
SPOKEN: ContextVar[str] = ContextVar("language", default="en")

PLACEHOLDER = re.compile(r"\{(\w+)\}")
# What a name in braces stands for, where it is not any text.
STANDS_FOR = {
    "hint": "|; .*",
    "at_revision": "| with revision .*",
    "file_names": "[^(:]*",
    "number": r"\d+",
    "line": r"line \d+",
    "byte": "[0-9a-f]{2}",
    "steps": r"\d+ steps?",
    "trained_on": "|, trained on .*,",
    # names that stand side by side; two of any text would take quadratic time
    "inside": r"|rope_\w+: ",
    "prefix": r"[\w.]{0,30}",
    "quoted": r"'[^' ]*'",
    "quoted_too": r"'[^' ]*'",
    # problems with the tensors of a file
    "tensor": r"[^\s,]+",
    "weights_file": r"\S+",
    "config_file": r"[\w.]+",
    "wrong_shape": r"\([\d, ]*\)",
    "right_shape": r"\([\d, ]*\)",
    "misshape": r"\S+ (?:in \S+ )?is \([\d, ]*\) where [\w. ]* makes? it \([\d, ]*\)",
    "misshapes": r"\S+ (?:in \S+ )?is \([\d, ]*\) where .*",
    "tensor_names": r"[^\s:;]*\.[^;]*",
    "misfit": "(?:missing|unexpected|misshapen|the model has no module of target_modules) .*?",
    "misfits": "(?:unexpected|misshapen|no floats in) .*",
}


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

    --lang may stand before and after the command, since it decides the language of every error. Behind "--", it is
    text. "" is a value that is missing.
    """
    asked, rest, remaining = None, [], iter(words)
    for word in remaining:
        if word == "--":
            rest += [word, *remaining]
        elif word == "--lang":
            asked = next(remaining, "")
        elif word.startswith("--lang="):
            asked = word.partition("=")[2]
        else:
            rest.append(word)
    return asked, rest


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
    """English sentences and their Japanese. The entry with the most fixed characters and the fewest names decides."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self.entries = entries
        patterns = [english for english in entries if PLACEHOLDER.search(english)]
        patterns.sort(key=lambda english: (-len(PLACEHOLDER.sub("", english)), len(PLACEHOLDER.findall(english))))
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
