"""The vocabulary of a tokenizer as the keys of a GGUF file.

llama.cpp has one algorithm for SentencePiece's pieces: of all neighbours that form a piece, the piece with the highest
score is merged first. A tokenizer.model has these scores. A tokenizer.json, as of ELYZA's fast models, has merges in
order of priority; the score of a piece is then the place of its first merge. llama.cpp's own converter gives all pieces
of a tokenizer.json one score, which loses this order, and with it the ids.

A byte-level BPE is written with its merges and the name of its pre-tokenizer: the first known one with the same ids.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from ..checkpoint.gguf.pre_tokenizers import PRE_TOKENIZERS
from ..checkpoint.gguf.vocabulary import (
    ADDED_SCORE,
    BYTE,
    CONTROL,
    NORMAL,
    SPACE,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
)
from ..checkpoint.gguf.writer import write_gguf
from ..checkpoint.json_files import read_json, read_small_file
from ..text.tokenizer import PROBES, Tokenizer
from .sentencepiece_model import Piece, parse_model

PADDING_SCORE = -10000.0
# Texts that the rules of pre-tokenizers split in different ways.
PRE_TOKENIZER_PROBES = (
    "1 12 123 1234 12345 ３４５ ١٢٣٤ ½²³ x9y99z",
    "don't DON'T I'll we'RE it's 'quoted' l'été",
    "a  b   c\t\td\n\n  e\r\nf \n g   \n",
    "!!! ... (a) [b] {c} <d> a+b=c ~|^` 「猫」、。！？ ――",
    " naïve Straße ΑΒΓ абв עברית हिन्दी 한국어 ไทย 👨‍👩‍👧 é",
)
WAY_OUT = "name another tokenizer (tokenizer=…, --tokenizer)"


def vocabulary_keys(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The keys of a vocabulary for a model with `rows` rows in its embedding.

    The list is padded to the rows. The ids of texts are checked against the tokenizer's own, see `check_ids`.

    Raises ValueError for a tokenizer whose ids llama.cpp cannot give.
    """
    if tokenizer.vocabulary.byte_level:
        return byte_level_keys(tokenizer, rows)
    read = scored_pieces if tokenizer.kind == "sentencepiece" else ranked_pieces
    pieces, adds_prefix = read(tokenizer)
    if len(tokenizer.vocabulary.byte_values) < 256:
        raise ValueError(
            f"{tokenizer.folder}: its vocabulary has no piece for each byte, as llama.cpp needs; {WAY_OUT}"
        )
    complete = complete_pieces(tokenizer, pieces, rows)
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [piece.text for piece in complete],
        "tokenizer.ggml.scores": [piece.score for piece in complete],
        "tokenizer.ggml.token_type": [piece.type for piece in complete],
    }
    config = read_json(tokenizer.folder / "tokenizer_config.json", missing_ok=True)
    keys["tokenizer.ggml.add_bos_token"] = bool(config.get("add_bos_token", tokenizer.bos_id is not None))
    keys["tokenizer.ggml.add_eos_token"] = bool(config.get("add_eos_token", False))
    keys["tokenizer.ggml.add_space_prefix"] = adds_prefix
    keys |= role_keys(tokenizer, rows) | template_keys(tokenizer)
    check_ids(tokenizer, keys)
    return keys


def byte_level_keys(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The keys of a byte-level BPE. Raises ValueError if no known pre-tokenizer gives the ids of its texts."""
    file = tokenizer.folder / "tokenizer.json"
    spec = read_json(file)
    if spec.get("normalizer") is not None:
        raise ValueError(f"{file} changes characters before encoding, which llama.cpp does not do; {WAY_OUT}")
    pieces = {i: Piece(piece, 0.0, NORMAL) for piece, i in spec["model"]["vocab"].items()}
    complete = complete_pieces(tokenizer, pieces, rows)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "",
        "tokenizer.ggml.tokens": [piece.text for piece in complete],
        "tokenizer.ggml.token_type": [piece.type for piece in complete],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": tokenizer.adds_bos,
    }
    keys |= role_keys(tokenizer, rows) | template_keys(tokenizer)
    ignore_merges = bool(spec["model"].get("ignore_merges"))
    texts = [*PROBES, *PRE_TOKENIZER_PROBES, *texts_of_pieces(tokenizer)]
    for name, rules in PRE_TOKENIZERS.items():
        keys["tokenizer.ggml.pre"] = name
        if rules.ignore_merges != ignore_merges:
            continue
        written = read_back(keys)
        if different_text(tokenizer, written, texts) is None:
            warn_of_added_tokens(tokenizer, written, rows)
            return keys
    raise ValueError(
        f"{file}: none of llama.cpp's pre-tokenizers that are known here gives its ids: {', '.join(PRE_TOKENIZERS)}; "
        f"{WAY_OUT}"
    )


def complete_pieces(tokenizer: Tokenizer, pieces: dict[int, Piece], rows: int) -> list[Piece]:
    """The pieces of all rows; those without a token are padding."""
    names = set(tokenizer.vocabulary.pieces.values())
    return [piece_of_row(tokenizer, pieces, i) or padding(i, names) for i in range(rows)]


def role_keys(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The keys of the special ids."""
    roles = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: getattr(tokenizer, f"{role}_id") for role, name in roles.items()}
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None and i < rows}


def scored_pieces(tokenizer: Tokenizer) -> tuple[dict[int, Piece], bool]:
    """The pieces of a tokenizer.model, and whether a space is added before a text."""
    file = tokenizer.folder / "tokenizer.model"
    model = parse_model(read_small_file(file))
    unsupported = {
        "is a unigram model": not model.is_bpe,
        "replaces characters before encoding": bool(model.charsmap),
        "removes spaces": model.remove_extra_whitespaces,
    }
    if problem := next((name for name, is_so in unsupported.items() if is_so), None):
        raise ValueError(f"{file} {problem}, which llama.cpp does not do; {WAY_OUT}")
    return dict(enumerate(model.pieces)), model.add_dummy_prefix


def ranked_pieces(tokenizer: Tokenizer) -> tuple[dict[int, Piece], bool]:
    """The pieces of a tokenizer.json with scores in the order of its merges, and whether a space is added."""
    file = tokenizer.folder / "tokenizer.json"
    spec = read_json(file)
    model = spec["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise ValueError(f"{file} has a vocabulary without byte pieces, which is not written as GGUF; {WAY_OUT}")
    rank: dict[str, int] = {}
    for merge in model["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ", 1)
        rank.setdefault(left + right, len(rank))
    last = len(rank)  # of pieces that no merge makes: characters, and special tokens
    pieces = {i: Piece(piece, -float(rank.get(piece, last)), NORMAL) for piece, i in model["vocab"].items()}
    rules = {step["type"] for key in ("normalizer", "pre_tokenizer") for step in steps_of(spec.get(key))}
    return pieces, bool(rules & {"Prepend", "Metaspace"})


def steps_of(rule: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normaliser or of a pre-tokenizer that is a sequence, or the rule itself."""
    if rule is None:
        return []
    return rule.get("normalizers") or rule.get("pretokenizers") or [rule]


def piece_of_row(tokenizer: Tokenizer, pieces: dict[int, Piece], i: int) -> Piece | None:
    """The piece of an id: that of the tokenizer's file or an added token, with its type. None for an id without one."""
    vocabulary = tokenizer.vocabulary
    if i not in vocabulary.pieces:
        return None
    text, score, kind = pieces.get(i, Piece(vocabulary.pieces[i], ADDED_SCORE, NORMAL))
    if vocabulary.byte_level:  # its pieces of one byte, and its unknown token, are like all others
        kind = CONTROL if i in vocabulary.special else USER_DEFINED if i in vocabulary.added else NORMAL
        return Piece(vocabulary.pieces[i] if i in vocabulary.added else text, score, kind)
    if i in vocabulary.byte_values:
        kind = BYTE
    elif i == tokenizer.unk_id:
        kind = UNKNOWN
    elif i in vocabulary.special:
        kind = CONTROL
    elif i in vocabulary.added:
        text, score, kind = vocabulary.pieces[i], ADDED_SCORE, USER_DEFINED
    return Piece(text.replace(SPACE, " ") if kind == USER_DEFINED else text, score, kind)


def padding(i: int, names: Collection[str]) -> Piece:
    """The piece of a row that has no token. llama.cpp needs a name of its own for each."""
    name = f"[PAD{i}]"
    return Piece(name if name not in names else f"[PAD{i}]" * 2, PADDING_SCORE, UNUSED)


def template_keys(tokenizer: Tokenizer) -> dict[str, Any]:
    """The keys of the chat templates."""
    templates = {name: template.text for name, template in tokenizer.chat_templates.items()}
    default = templates.pop("default", None)
    keys: dict[str, Any] = {} if default is None else {"tokenizer.chat_template": default}
    if templates:
        keys["tokenizer.chat_templates"] = list(templates)
        keys |= {f"tokenizer.chat_template.{name}": text for name, text in templates.items()}
    return keys


def check_ids(tokenizer: Tokenizer, keys: dict[str, Any]) -> None:
    """Compare the ids of the written vocabulary with the tokenizer's own, on Japanese texts and on all of its pieces.

    The written vocabulary is encoded by the SentencePiece library, whose algorithm llama.cpp has. Other ids of a text
    raise ValueError. Other ids next to an added token are a warning.
    """
    written = read_back(keys)
    if (text := different_text(tokenizer, written, [*PROBES, *texts_of_pieces(tokenizer)])) is not None:
        raise ValueError(
            f"{tokenizer.folder}: llama.cpp would encode {text[:40]!r} otherwise, because its rules are not "
            f"SentencePiece's; {WAY_OUT}"
        )
    vocabulary, kinds, pieces = tokenizer.vocabulary, keys["tokenizer.ggml.token_type"], keys["tokenizer.ggml.tokens"]
    own = [piece for i, piece in enumerate(pieces) if kinds[i] == USER_DEFINED and i not in vocabulary.added]
    if own and keys["tokenizer.ggml.add_space_prefix"]:
        warnings.warn(
            f"{tokenizer.folder}: llama.cpp adds a space after the user-defined piece {own[0]!r}, unlike SentencePiece",
            stacklevel=4,
        )
    warn_of_added_tokens(tokenizer, written, len(pieces))


def read_back(keys: dict[str, Any]) -> Tokenizer:
    """The tokenizer of written keys."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocabulary.gguf"
        write_gguf(file, {"general.architecture": "llama", **keys}, [])
        return Tokenizer.from_pretrained(file)


def texts_of_pieces(tokenizer: Tokenizer) -> list[str]:
    """All ordinary pieces, in texts of 64."""
    vocabulary = tokenizer.vocabulary
    ordinary = [i for i in sorted(vocabulary.pieces) if i not in vocabulary.added and i not in vocabulary.byte_values]
    spelt = [vocabulary.text(i) for i in ordinary]
    return ["".join(spelt[k : k + 64]) for k in range(0, len(spelt), 64)]


def different_text(tokenizer: Tokenizer, written: Tokenizer, texts: Iterable[str]) -> str | None:
    """The first text for which the written tokenizer has other ids."""
    return next((text for text in texts if tokenizer.encode(text, bos=False) != written.encode(text, bos=False)), None)


def warn_of_added_tokens(tokenizer: Tokenizer, written: Tokenizer, rows: int) -> None:
    """Warn of an added token beside which the written tokenizer has other ids."""
    vocabulary = tokenizer.vocabulary
    for i in sorted(i for i in vocabulary.added if i < rows):
        name = vocabulary.pieces[i]
        text = f"猫 {name} 犬{name}a{name}"
        if any(tokenizer.encode(text, False, parse) != written.encode(text, False, parse) for parse in (False, True)):
            warnings.warn(
                f"{tokenizer.folder}: llama.cpp encodes a text next to the added token {name!r} otherwise, because a "
                "GGUF file does not hold the rules for spaces beside it",
                stacklevel=5,
            )
            return
