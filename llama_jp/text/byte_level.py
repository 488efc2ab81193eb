"""The spelling of a byte-level BPE, as GPT-2, Llama 3 and SmolLM2 have: one character for each byte of UTF-8.

A printable character of Latin-1 stands for the byte of its number. The other 68 bytes have the characters from U+0100
on, so a space is `Ġ` and a line end `Ċ`. Reference: `bytes_to_unicode`, openai/gpt-2 `src/encoder.py`.
"""

from __future__ import annotations

PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
OTHERS = (byte for byte in range(256) if byte not in PRINTABLE)
BYTES = {chr(byte): byte for byte in PRINTABLE} | {chr(0x100 + i): byte for i, byte in enumerate(OTHERS)}


def piece_bytes(piece: str) -> bytes:
    """The bytes of a piece. A piece with any other character, such as an added token with a space, is plain text."""
    try:
        return bytes([BYTES[character] for character in piece])
    except KeyError:
        return piece.encode("utf-8")
