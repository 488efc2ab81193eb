"""The small files of a checkpoint, derived from the keys of a GGUF file.

A path in a GGUF file, such as model.gguf/config.json, stands for the file that the folder of the same model would have.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from .header import GgufHeader, is_gguf, read_header
from .keys import describe_config
from .vocabulary import GgufVocabulary


def derived_content(file: Path) -> bytes | None:
    """The content of a small file of the GGUF file `file.parent`; None if that is no GGUF file or has no such file.

    Raises the errors of `read_header`, and ValueError for keys that this file cannot express.
    """
    if not is_gguf(file.parent):
        return None
    header = read_header(file.parent)
    if file.name == "config.json":
        return to_json(describe_config(header)) if header.tensors else None  # files with a vocabulary only exist
    return tokenizer_content(header, file.name)


@lru_cache(maxsize=8)
def tokenizer_content(header: GgufHeader, name: str) -> bytes | None:
    """The content of a tokenizer file; None for another file, and for one that this vocabulary does not need."""
    if name not in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        return None
    vocabulary = GgufVocabulary.of(header)
    if vocabulary is None:
        return None
    if name == "tokenizer_config.json":
        return to_json(vocabulary.tokenizer_config())
    if name == "tokenizer.json":
        return to_json(vocabulary.tokenizer_json()) if vocabulary.merges else None
    return None if vocabulary.merges else vocabulary.sentencepiece_model


def derived_tokenizer(file: Path) -> dict[str, bytes]:
    """The tokenizer files to save of a GGUF file, by name; nothing for one without a vocabulary.

    A vocabulary with scores has a tokenizer.json as well, so that transformers needs no further package to load it.
    """
    vocabulary = GgufVocabulary.of(read_header(file))
    if vocabulary is None:
        return {}
    contents = {"tokenizer_config.json": to_json(vocabulary.tokenizer_config())}
    contents["tokenizer.json"] = to_json(vocabulary.tokenizer_json())
    return contents if vocabulary.merges else contents | {"tokenizer.model": vocabulary.sentencepiece_model}


def to_json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
