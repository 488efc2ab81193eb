"""Decode token ids to text, one token at a time."""

from __future__ import annotations

import codecs
import operator

from .vocabulary import Vocabulary

REPLACEMENT = "\ufffd"  # stands for a byte that belongs to no character


class TextStream:
    """The text of token ids that arrive one at a time.

    `push(id)` returns the text that the token completes: a character comes with its last byte, and "" means that none
    is complete. `finish()` returns U+FFFD for an incomplete character. The joined pieces equal the full decode for
    every sequence of ids, so no text is ever corrected later. The stream keeps three bytes at most.

    skip_special  True leaves out special tokens; False shows their names
    """

    def __init__(self, vocabulary: Vocabulary, skip_special: bool = True) -> None:
        self._vocabulary = vocabulary
        self._skip_special = skip_special
        self._incomplete = b""  # the first bytes of a character
        self._strip = vocabulary.strip  # leading spaces that are still to be removed

    def push(self, token_id: int) -> str:
        """The text that this token completes; "" for an id without a piece. Raises ValueError for a negative id."""
        vocabulary = self._vocabulary
        token_id = operator.index(token_id)  # a tensor is never found in a set of integers
        if self._skip_special and token_id in vocabulary.special:
            return ""  # an incomplete character continues after the skipped token
        data = self._incomplete + vocabulary.token_bytes(token_id)
        text, self._incomplete = decode_whole_characters(data, vocabulary.byte_level)
        return self._strip_leading_spaces(text)

    def finish(self) -> str:
        """The rest of the text: U+FFFD for an incomplete character, as often as `decode_whole_characters` says."""
        rest, self._incomplete = self._incomplete, b""
        byte_level = self._vocabulary.byte_level
        return self._strip_leading_spaces(rest.decode("utf-8", "replace") if byte_level else REPLACEMENT * len(rest))

    def _strip_leading_spaces(self, text: str) -> str:
        while self._strip and text:
            if not text.startswith(" "):
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text


def decode_whole_characters(data: bytes, byte_level: bool = False) -> tuple[str, bytes]:
    """Decode UTF-8 up to the last whole character: (text, bytes that may still become a character).

    byte_level  False is SentencePiece's rule: each byte that belongs to no character becomes one U+FFFD, two for e3 81
                before a space. True is the rule of Unicode, Python and byte-level tokenizers: the beginning of a
                character becomes one U+FFFD
    """
    text = ""
    while True:
        try:
            decoded, used = codecs.utf_8_decode(data, "strict", False)
            return text + decoded, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode("utf-8") + REPLACEMENT
            data = data[error.end if byte_level else error.start + 1 :]
