"""Ids to text, one token at a time."""

from __future__ import annotations

import codecs
import operator

from .vocabulary import Vocabulary

REPLACEMENT = "\ufffd"  # stands for a byte that is no part of any character


class TextStream:
    """Text from ids that come one at a time.

    `push(id)` returns what that token makes certain: a character comes with the token that completes it, "" means not
    yet. `finish()` returns what is left, one U+FFFD for each byte still waiting. The pieces joined are exactly the full
    decode, for every sequence of ids, and nothing is ever taken back. At most three bytes wait at any time.
    """

    def __init__(self, vocabulary: Vocabulary, skip_special: bool = True) -> None:
        self._vocabulary = vocabulary
        self._skip_special = skip_special
        self._waiting = b""  # the beginning of a character
        self._strip = vocabulary.strip  # leading spaces still to be taken off

    def push(self, token_id: int) -> str:
        vocabulary = self._vocabulary
        token_id = operator.index(token_id)  # a 0-d tensor would not be found in a set
        piece = vocabulary.piece(token_id)
        if self._skip_special and token_id in vocabulary.special:
            return ""  # as if it were not there: bytes before and after it still meet
        if token_id in vocabulary.byte_values:
            byte = vocabulary.byte_values[token_id]
            text, self._waiting = whole_characters(self._waiting + bytes([byte]))
        else:
            text = self._give_up_waiting() + vocabulary.spell(piece)
        return self._without_leading_spaces(text)

    def finish(self) -> str:
        return self._without_leading_spaces(self._give_up_waiting())

    def _give_up_waiting(self) -> str:
        text = REPLACEMENT * len(self._waiting)
        self._waiting = b""
        return text

    def _without_leading_spaces(self, text: str) -> str:
        while self._strip and text:
            if not text.startswith(" "):
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text


def whole_characters(data: bytes) -> tuple[str, bytes]:
    """Decode UTF-8 as far as it is certain: (text, bytes that may still become a character).

    A byte that no continuation can save is one U+FFFD on its own, and reading goes on with the next byte. (Python's
    errors="replace" would put a single U+FFFD for e3 81 before a space; sentencepiece puts two, and so do we.)
    """
    text = ""
    while True:
        try:
            certain, used = codecs.utf_8_decode(data, "strict", False)
            return text + certain, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode("utf-8") + REPLACEMENT
            data = data[error.start + 1 :]
