"""The vocabulary of a tokenizer: the piece, the bytes and the kind of each id."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix

from .byte_level import piece_bytes


@dataclass(frozen=True)
class Vocabulary:
    """The vocabulary of a tokenizer, with the rules for decoding.

    An id without a piece has no text: the padding rows of a model's embedding can produce such ids.

    pieces        id -> piece, in the spelling of the file: ▁ is a space, <0xE3> is a byte. In a byte-level vocabulary,
                  each character stands for one byte, see byte_level.py
    byte_values   id -> byte, for pieces such as <0xE3>, which stand for one byte of UTF-8
    special       ids that are not text: <s>, </s>, <unk>, …
    replacements  (old, new) strings that turn a piece into text, usually ▁ into a space
    strip         the number of leading spaces that decoding removes: 1 if encoding adds one; math.inf removes all
    added         ids of added tokens, special or not: <s>, </s>, <unk>, <pad>, …
    spellings     id -> what decoding takes in the place of the piece, for a few added tokens
    byte_level    whether this is the vocabulary of a byte-level BPE
    """

    pieces: dict[int, str]
    byte_values: dict[int, int]
    special: frozenset[int]
    replacements: tuple[tuple[str, str], ...]
    strip: float
    added: frozenset[int] = frozenset()
    spellings: dict[int, str] = field(default_factory=dict)
    byte_level: bool = False

    def piece(self, token_id: int) -> str:
        """The piece of an id; "" for an id without a piece. Raises ValueError for a negative id."""
        token_id = operator.index(token_id)
        if token_id < 0:
            raise ValueError(f"id {token_id} is not in the tokenizer, which has {len(self.pieces)} ids, from 0 on")
        return self.pieces.get(token_id, "")

    def token_bytes(self, token_id: int) -> bytes:
        """The UTF-8 bytes of a token, a special one by its name. They may be a part of a character."""
        token_id = operator.index(token_id)  # a tensor is never found among integers
        if token_id in self.byte_values:
            return bytes([self.byte_values[token_id]])
        piece = self.spellings.get(token_id, self.piece(token_id))
        if self.byte_level:
            return piece_bytes(piece)
        for old, new in self.replacements:
            piece = piece.replace(old, new)
        return piece.encode("utf-8")

    def text(self, token_id: int) -> str:
        """The text of a token, with U+FFFD for a part of a character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def text_bytes(self, token_id: int) -> int:
        """The number of UTF-8 bytes of a token's text; ▁ counts as one space, and special tokens have no text."""
        return 0 if token_id in self.special else len(self.token_bytes(token_id))

    def display(self, token_id: int) -> str:
        """The piece for people, in SentencePiece's spelling: ▁ is a space, <0xE3> is a byte of a divided character."""
        if not self.byte_level or token_id in self.added:
            return self.piece(token_id)
        text = self.token_bytes(token_id).decode("utf-8", "surrogateescape").replace(" ", "▁")
        return re.sub("[\udc80-\udcff]", lambda match: f"<0x{ord(match[0]) - 0xDC00:02X}>", text)

    def is_part_of_character(self, token_id: int) -> bool:
        """Whether a token is a byte, or holds a part of a character."""
        if not self.byte_level:
            return token_id in self.byte_values
        try:
            self.token_bytes(token_id).decode("utf-8")
        except UnicodeDecodeError:
            return True
        return False


def first_other_piece(vocabulary: Vocabulary, other: Vocabulary) -> tuple[int, str, str] | None:
    """The first id with different pieces in two vocabularies, and the two pieces; None if there is no such id.

    An id that only one of them has is no difference: files may name a model's added tokens and padding rows, or not.
    """
    pieces, others = vocabulary.pieces, other.pieces
    different = (i for i in sorted(pieces.keys() & others.keys()) if pieces[i] != others[i])
    return next(((i, pieces[i], others[i]) for i in different), None)


def first_difference(ids: Sequence[int], others: Sequence[int]) -> int | None:
    """The index of the first id that differs, the end of the shorter list included; None for equal ids."""
    one, other = list(ids), list(others)
    return None if one == other else len(commonprefix([one, other]))
