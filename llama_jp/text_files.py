"""Texts from files and streams: decode the bytes, or name the first wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_text_file(file: str | Path) -> str:
    """The text of a UTF-8 file, with its line ends. Raises ValueError with the position of the first wrong byte."""
    return decode_text(Path(file).read_bytes(), str(file))


def decode_text(data: bytes, name: str, encoding: str = "utf-8", way_out: str = "") -> str:
    """Decode a text. Raises ValueError with the position of the first wrong byte.

    name     of the file or stream, for the message
    way_out  besides the conversion of the text
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(wrong_byte(name, encoding, error.start, data[error.start]) + way_out) from error


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for a text that is no JSON, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def wrong_byte(name: str, encoding: str, position: int, byte: int) -> str:
    """The sentence for a byte that is no part of a text in this encoding."""
    way_out = "convert it, as iconv -f SHIFT_JIS -t UTF-8 does"
    return f"{name} is not {encoding.upper()}: byte {position} is 0x{byte:02x}; {way_out}"
