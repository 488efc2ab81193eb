"""Texts in files and streams: decode the bytes, or name the first wrong one; write a file complete or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def read_text_file(file: str | Path) -> str:
    """The text of a UTF-8 file, with its line ends. Raises ValueError with the position of the first wrong byte."""
    return decode_text(Path(file).read_bytes(), str(file))


def check_file_target(file: Path, example: str) -> None:
    """Raise FileNotFoundError or ValueError for a file that cannot be written: before the work, not after it.

    example  a file name, for the message about a folder
    """
    folder = file.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} for {file.name}; create it first")
    if file.is_dir():
        raise ValueError(f"{file} is a folder; name a file, such as {file / example}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} is not writable, so {file.name} cannot be written there; choose another place")


def write_whole(file: Path, text: str) -> None:
    """Write a text file complete or not at all: a full disk or an interruption leaves an earlier file as it was."""
    if file.exists() and not file.is_file():  # such as /dev/stdout, which cannot be replaced
        file.write_text(text, encoding="utf-8")
        return
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.absolute().parent) as folder:
            complete = Path(folder) / file.name
            complete.write_text(text, encoding="utf-8")
            complete.replace(file)
    except OSError as error:
        error.filename, error.filename2 = str(file), None  # the name that the caller knows
        raise


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
