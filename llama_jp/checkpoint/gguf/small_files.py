"""The small files of a checkpoint, derived from the keys of a GGUF file.

A path in a GGUF file, such as model.gguf/config.json, stands for the file that the folder of the same model would have.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .header import is_gguf, read_header
from .keys import describe_config
from .vocabulary import GgufVocabulary


def derived_content(file: Path) -> bytes | None:
    """The content of a small file of the GGUF file `file.parent`; None if that is no GGUF file or gives no such file.

    Raises the errors of `read_header`, and ValueError for keys that cannot be expressed in this file.
    """
    if not is_gguf(file.parent):
        return None
    header = read_header(file.parent)
    if file.name == "config.json":
        return to_json(describe_config(header))
    if file.name not in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        return None
    vocabulary = GgufVocabulary.of(header)
    if vocabulary is None:
        return None
    if file.name == "tokenizer_config.json":
        return to_json(vocabulary.tokenizer_config())
    return vocabulary.tokenizer_file() if file.name == vocabulary.file_name else None


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")


def derived_tokenizer(folder: Path) -> dict[str, bytes]:
    """The tokenizer files of a GGUF file by name; nothing for one without a vocabulary."""
    names = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json")
    contents = {name: derived_content(folder / name) for name in names}
    return {name: content for name, content in contents.items() if content is not None}
