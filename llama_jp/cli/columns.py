"""Text in columns of a terminal, where a full-width character takes two."""

from __future__ import annotations

import unicodedata


def visible(piece: str) -> str:
    """The piece with line ends, tabs and other control characters as escapes, so that it fits in one row."""
    return "".join(c if c.isprintable() or c == "\u3000" else c.encode("unicode_escape").decode() for c in piece)


def display_width(text: str) -> int:
    """The width in terminal columns: two for a full-width character, none for a combining mark."""
    marks = ("Mn", "Me")
    wide = ("W", "F")
    return sum(1 + (unicodedata.east_asian_width(c) in wide) for c in text if unicodedata.category(c) not in marks)


def pad(text: str, width: int) -> str:
    """Fill a text with spaces up to a width in terminal columns."""
    return text + " " * (width - display_width(text))
