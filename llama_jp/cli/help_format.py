"""The layout of the help in English and in Japanese. This module does not import torch, which takes seconds."""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import Any

from .columns import display_width
from .language import SPOKEN, translate_help

NOT_FIRST = "、。・）」ーぁぃぅぇぉっゃゅょァィゥェォッャュョ…:,.;)]"  # in a line
NOT_LAST = "（「(["
WORD = "[!-~]+|[ァ-ヴー]+|[一-龠々]+|."  # English, katakana and kanji words stay whole
UNIT = re.compile(rf"[{re.escape(NOT_LAST)}]*(?:{WORD})[{re.escape(NOT_FIRST)}]* *")  # between two line breaks


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
