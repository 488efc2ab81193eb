"""Read and write the JSON files of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..text_files import parse_json, read_text_file
from .recognise import check_file


def read_json(file: Path, missing_ok: bool = False) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    With `missing_ok`, a missing file counts as an empty object.

    Raises the errors of `check_file`, and ValueError for invalid JSON or a value that is not an object.
    """
    if missing_ok and not file.is_file():
        return {}
    check_file(file)
    text = read_text_file(file)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__} where an object was expected")
    return content


def write_json(content: dict[str, Any], file: Path) -> None:
    """Write one JSON object, indented, with Japanese text unescaped."""
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
