"""Read and write the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..text_files import decode_text, parse_json
from .gguf.small_files import derived_content
from .recognise import check_file


def read_json(file: Path, missing_ok: bool = False) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    A path in a GGUF file is derived from its keys, see gguf/small_files.py. With `missing_ok`, a missing file counts as
    an empty object.

    Raises the errors of `check_file`, and ValueError for invalid JSON or a value that is not an object.
    """
    if missing_ok and not has_file(file):
        return {}
    text = decode_text(read_small_file(file), str(file))
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__} where an object was expected")
    return content


def has_file(file: Path) -> bool:
    """Whether a small file of a checkpoint is there, or is derived from a GGUF file."""
    return file.is_file() or derived_content(file) is not None


def read_small_file(file: Path) -> bytes:
    """The content of a small file of a checkpoint, derived if `file.parent` is a GGUF file.

    Raises the errors of `check_file`.
    """
    if (content := derived_content(file)) is not None:
        return content
    check_file(file)
    return file.read_bytes()


def write_json(content: dict[str, Any], file: Path) -> None:
    """Write one JSON object, indented, with Japanese text unescaped."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
