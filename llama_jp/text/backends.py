"""The two tokenizer files and the libraries that read them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import tokenizers

from ..checkpoint.json_files import read_json
from .vocabulary import Vocabulary

SPACE = "▁"  # U+2581, how both files write a space inside a piece

KINDS = {"sentencepiece": "tokenizer.model", "json": "tokenizer.json"}


class SentencePieceFile:
    """tokenizer.model: SentencePiece, with the normaliser and flags that the file carries."""

    def __init__(self, path: Path) -> None:
        try:
            sp = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path} is damaged or not a SentencePiece model ({_one_line(error)})") from error
        ids = range(sp.get_piece_size())
        pieces = {i: sp.id_to_piece(i) for i in ids}
        self._sp = sp
        self.vocabulary = Vocabulary(
            pieces=pieces,
            byte_values={i: int(pieces[i][3:5], 16) for i in ids if sp.is_byte(i)},
            special=frozenset(i for i in ids if sp.is_control(i) or sp.is_unknown(i)),
            spaces=((SPACE, " "),),
            strip=_spaces_stripped(sp),
        )
        own = {"bos": sp.bos_id(), "eos": sp.eos_id(), "unk": sp.unk_id(), "pad": sp.pad_id()}
        self.own_special = {role: i for role, i in own.items() if i >= 0}  # -1: the file has none
        self._special_ids = {pieces[i]: i for i in self.vocabulary.special}

    def encode(self, text: str, parse_special: bool) -> list[int]:
        # SentencePiece itself never takes text for a control piece; parsing means to keep the specials away from it.
        ids: list[int] = []
        for _, part, special_id in _split_special(text, self._special_ids if parse_special else {}):
            ids.extend([special_id] if special_id is not None else self._sp.encode(part))
        return ids

    def as_transformers5(self, scheme: str) -> SentencePieceAsTransformers5:
        return SentencePieceAsTransformers5(self._sp, self._special_ids, scheme)


class SentencePieceAsTransformers5:
    """What transformers 5 would make of the text, from a tokenizer.model. For comparison only."""

    # Protocol buffers merge what is appended: normalizer_spec { precompiled_charsmap: "", add_dummy_prefix: false,
    # remove_extra_whitespaces: false }. What is left is BPE over the pieces, and the spaces are ours to place.
    NO_NORMALISER = bytes([0x1A, 6, 0x12, 0, 0x18, 0, 0x20, 0])

    def __init__(self, sp: sentencepiece.SentencePieceProcessor, special_ids: dict[str, int], scheme: str) -> None:
        proto = sp.serialized_model_proto() + self.NO_NORMALISER
        self._sp = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self._special_ids = special_ids
        self._scheme = scheme

    def encode(self, text: str, parse_special: bool) -> list[int]:
        ids: list[int] = []
        for start, part, special_id in _split_special(text, self._special_ids if parse_special else {}):
            if special_id is not None:
                ids.append(special_id)
                continue
            part = part.replace(" ", SPACE)
            wants_space = self._scheme == "always" or (self._scheme == "first" and start == 0)
            if wants_space and not part.startswith(SPACE):
                part = SPACE + part
            ids.extend(self._sp.encode(part))
        return ids


class JsonFile:
    """tokenizer.json: the `tokenizers` library, with everything that the file says about text -> ids.

    Its post-processor is not used, BOS being an argument; nor are truncation and padding, which would change what is
    encoded behind everyone's back.

    An added token that the file does not call special is cut out of any text, and a new part begins after it, with a
    space of its own. SentencePiece cuts out its user-defined symbols likewise but puts no space: the one case where a
    tokenizer.model and its tokenizer.json differ. Llama's vocabulary has no such symbols.
    """

    def __init__(self, path: Path, spec: dict | None = None) -> None:
        spec = spec or read_json(path)
        self._path, self._spec = path, spec
        self._text_only = self._open()
        # <s> in text stays text. Added tokens that the file does not call special are cut out all the same.
        self._text_only.encode_special_tokens = True
        self._parsing: tokenizers.Tokenizer | None = None  # a second one: the property is no argument of encode

        added = self._text_only.get_added_tokens_decoder()
        pieces = {i: piece for piece, i in self._text_only.get_vocab(with_added_tokens=True).items()}
        spaces, bytes_are_pieces, strip = _decoder_rules(path, spec.get("decoder"))
        is_byte = re.compile("<0x([0-9A-Fa-f]{2})>").fullmatch
        self.vocabulary = Vocabulary(
            pieces=pieces,
            byte_values={i: int(m[1], 16) for i, piece in pieces.items() if (m := is_byte(piece)) and bytes_are_pieces},
            special=frozenset(i for i, token in added.items() if token.special),
            spaces=spaces,
            strip=strip,
        )
        # A tokenizer.json names only its <unk>. The other names are Llama's, for a folder with no other file.
        names = {"bos": "<s>", "eos": "</s>", "unk": spec["model"].get("unk_token")}
        special = {pieces[i]: i for i in self.vocabulary.special}
        self.own_special = {role: special[name] for role, name in names.items() if name in special}

    def _open(self) -> tokenizers.Tokenizer:
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(self._spec))
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{self._path} is damaged or not a tokenizer.json ({_one_line(error)})") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def encode(self, text: str, parse_special: bool) -> list[int]:
        tokenizer = self._text_only
        if parse_special:
            tokenizer = self._parsing = self._parsing or self._open()
        return tokenizer.encode(text, add_special_tokens=False).ids

    def as_transformers5(self, scheme: str) -> JsonFile:
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}
        model = self._spec["model"] | {"fuse_unk": True, "byte_fallback": True, "dropout": None}
        return JsonFile(self._path, self._spec | {"normalizer": None, "pre_tokenizer": metaspace, "model": model})


def _spaces_stripped(sp: sentencepiece.SentencePieceProcessor) -> float:
    """How many leading spaces a tokenizer.model takes off again (add_dummy_prefix, remove_extra_whitespaces).

    Asked of the library by decoding spaces, since it has no function that tells the flags.
    """
    space = sp.piece_to_id(SPACE)
    if sp.id_to_piece(space) != SPACE:  # a vocabulary without it has no space to strip but a piece's first
        return 1
    missing = 3 - len(sp.decode([space] * 3))
    return math.inf if missing == 3 else missing


def _decoder_rules(path: Path, decoder: dict | None) -> tuple[tuple[tuple[str, str], ...], bool, int]:
    """Read the decoder of a tokenizer.json: (replacements in pieces, are <0x..> bytes?, leading spaces to strip).

    Known is what Llama's files are made of, in the order they have: Replace, ByteFallback, Fuse, Strip. Another decoder
    would give another text, so it is refused by name.
    """
    steps = decoder["decoders"] if decoder and decoder.get("type") == "Sequence" else [decoder or {"type": None}]
    types = [step["type"] for step in steps]
    replaces = [step for step in steps if step["type"] == "Replace"]
    strips = [step for step in steps if step["type"] == "Strip"]
    readable = (
        re.fullmatch("(Replace )*(ByteFallback )?(Fuse (Strip )?)?", "".join(f"{name} " for name in types))
        and all("String" in step["pattern"] for step in replaces)
        and all(step["content"] == " " and step["stop"] == 0 for step in strips)
    )
    if not readable:
        raise ValueError(
            f"{path}: its decoder is {json.dumps(decoder, ensure_ascii=False)}; only Replace (of a string), "
            "ByteFallback, Fuse and Strip (of leading spaces), in this order, can be followed"
        )
    spaces = tuple((step["pattern"]["String"], step["content"]) for step in replaces)
    return spaces, "ByteFallback" in types, sum(step["start"] for step in strips)


def _split_special(text: str, special_ids: dict[str, int]) -> Iterator[tuple[int, str, int | None]]:
    """Cut text at its special tokens: (where it starts, the part, its id or None for text). The longest name wins."""
    start = 0
    if special_ids:
        names = sorted(special_ids, key=len, reverse=True)
        for match in re.finditer("|".join(map(re.escape, names)), text):
            if match.start() > start:
                yield start, text[start : match.start()], None
            yield match.start(), match[0], special_ids[match[0]]
            start = match.end()
    if start < len(text):
        yield start, text[start:], None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
