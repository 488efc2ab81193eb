"""The content of a tokenizer.model: pieces with scores and types, and the rules of its normaliser.

The file is a message of sentencepiece_model.proto. The SentencePiece library does not expose all of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

BPE = 2  # TrainerSpec.ModelType


class Piece(NamedTuple):
    text: str
    score: float
    type: int  # NORMAL, UNKNOWN, …; the numbers are those of GGUF


class SentencePieceModel(NamedTuple):
    """What decides the ids of a text."""

    pieces: list[Piece]
    is_bpe: bool
    charsmap: bytes  # the rules that replace characters; empty for the identity
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool


def parse_model(content: bytes) -> SentencePieceModel:
    """Parse a tokenizer.model. The defaults of missing fields are those of the message's definition."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value in fields(content):
        if number == 1:
            piece = dict(fields(value))
            (score,) = struct.unpack("<f", piece.get(2, bytes(4)))
            pieces.append(Piece(piece.get(1, b"").decode("utf-8"), score, piece.get(3, 1)))
        elif number == 2:
            trainer = dict(fields(value))
        elif number == 3:
            normalizer = dict(fields(value))
    return SentencePieceModel(
        pieces,
        is_bpe=trainer.get(3, 1) == BPE,
        charsmap=normalizer.get(2, b""),
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
    )


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer: (number, value). A value is an int, or bytes for everything else."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        if tag & 7 == 0:
            value, at = varint(message, at)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(tag & 7)
        if size is None:
            size, at = varint(message, at)
        yield tag >> 3, message[at : at + size]
        at += size


def varint(message: bytes, at: int) -> tuple[int, int]:
    """The number at a byte, and the byte after it. Each byte has seven bits, the lowest first."""
    number = shift = 0
    while True:
        byte = message[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
