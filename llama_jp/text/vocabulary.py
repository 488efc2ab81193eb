"""What the ids of a tokenizer stand for."""

from __future__ import annotations

import operator
from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """What the ids of a tokenizer stand for.

    pieces       id -> the piece as the file spells it
    byte_values  id -> byte, for pieces such as <0xE3> that stand for a single byte of UTF-8
    special      ids that are no text: <s>, </s>, <unk>, …
    spaces       what to replace in a piece, and by what: ▁ by a space
    strip        how many leading spaces decoding takes off (1 where encoding adds one; math.inf for all)
    """

    pieces: dict[int, str]
    byte_values: dict[int, int]
    special: frozenset[int]
    spaces: tuple[tuple[str, str], ...]
    strip: float

    def piece(self, token_id: int) -> str:
        token_id = operator.index(token_id)
        if token_id not in self.pieces:
            raise ValueError(f"id {token_id} is not in the tokenizer, which has {len(self.pieces)} ids, from 0 on")
        return self.pieces[token_id]

    def spell(self, piece: str) -> str:
        for old, new in self.spaces:
            piece = piece.replace(old, new)
        return piece

    def text_bytes(self, token_id: int) -> int:
        """How many bytes of UTF-8 text a token stands for, a ▁ being one space; 0 for specials."""
        token_id = operator.index(token_id)
        piece = self.piece(token_id)
        if token_id in self.special:
            return 0
        return 1 if token_id in self.byte_values else len(self.spell(piece).encode("utf-8"))
