"""A text as characters, bytes, pieces and ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..text.tokenizer import Tokenizer
from ..text.vocabulary import Vocabulary


def tokens_of_text(name: str, tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    """The tokens of a text by one tokenizer: id, piece and bytes; `begin` and `end` are offsets in the text's UTF-8.

    A tokenizer that rewrites a text (full-width letters, for example) has no offsets: begin and end are None.
    """
    ids = tokenizer.encode(text, bos=tokenizer.adds_bos)
    contents = [token_bytes(tokenizer.vocabulary, token) for token in ids]
    data, joined = text.encode("utf-8"), b"".join(contents)
    added = len(joined) - len(data)  # the space that many tokenizers put before a text
    aligned = joined[max(added, 0) :] == data and added in (0, 1)
    tokens, offset = [], -added
    for token, content in zip(ids, contents, strict=True):
        begin, offset = offset, offset + len(content)
        place = (max(begin, 0), max(offset, 0)) if aligned else (None, None)
        tokens.append({"id": token, "bytes": content.hex(), "begin": place[0], "end": place[1]})
    return {"name": name, "text": text, "tokens": tokens, "pieces": piece_names(tokenizer, ids)}


def token_bytes(vocabulary: Vocabulary, token: int) -> bytes:
    """The UTF-8 bytes of a token. Special tokens have none."""
    if token in vocabulary.special:
        return b""
    if token in vocabulary.byte_values:
        return bytes([vocabulary.byte_values[token]])
    return vocabulary.text(token).encode("utf-8")


def piece_names(tokenizer: Tokenizer, ids: Sequence[int]) -> dict[int, str]:
    """id -> piece, for display."""
    unique = sorted(set(ids))
    return dict(zip(unique, tokenizer.pieces(unique), strict=True))
