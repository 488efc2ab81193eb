"""The vocabulary of a GGUF file as the tokenizer file of a checkpoint.

Pieces with scores become a tokenizer.model, so that the SentencePiece library encodes as it did for the original.
Pieces with merges become a tokenizer.json: those of ELYZA's fast models in SentencePiece's spelling, and the byte-level
BPE of Llama 3 and others, see pre_tokenizers.py.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from .header import GgufHeader
from .pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # the same numbers in GGUF and SentencePiece
ADDED_SCORE = -1000.0  # llama.cpp's converter gives it to tokens that tokenizer.model has not
MOST_EQUAL_SCORES = 100  # a vocabulary with more pieces and one score for all has lost its order

SPACE = "▁"  # U+2581
DEFAULT_IDS = {"bos": 1, "eos": 2, "unknown": 0, "padding": None}  # of a vocabulary in SentencePiece's spelling
WAY_OUT = "name the folder of the original tokenizer (tokenizer=…, --tokenizer FOLDER)"


@dataclass(frozen=True)
class GgufVocabulary:
    """The vocabulary in the keys of a GGUF file.

    pieces         of all ids, in the spelling of SentencePiece or of a byte-level BPE; user-defined ones are plain text
    merges         of two pieces each, in order of priority; empty for a vocabulary with scores
    scores         of all ids: of two possible merges, the one that makes the piece with the higher score comes first
    types          of all ids: NORMAL, UNKNOWN, …
    pre_tokenizer  of a byte-level BPE; None for a vocabulary in SentencePiece's spelling
    """

    header: GgufHeader
    pieces: list[str]
    merges: list[str]
    scores: list[float]
    types: list[int]
    pre_tokenizer: PreTokenizer | None = None

    @classmethod
    @lru_cache(maxsize=4)
    def of(cls, header: GgufHeader) -> GgufVocabulary | None:
        """The vocabulary of a file; None if it has none.

        Raises ValueError for a vocabulary of another kind, for a pre-tokenizer that is not known, and for a vocabulary
        whose order of merges is lost.
        """
        keys, file = header.keys, header.file
        model, pieces = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.tokens")
        if model in (None, "none", "no_vocab") or not pieces:
            return None
        if model not in ("llama", "gpt2"):
            raise ValueError(f"{file}: a vocabulary of the kind {model!r} is not supported; {WAY_OUT}")
        if len(set(pieces)) < len(pieces):
            ((twice, _),) = Counter(pieces).most_common(1)
            raise ValueError(f"{file}: its vocabulary has {twice!r} twice; {WAY_OUT}")
        merges = [merge for merge in keys.get("tokenizer.ggml.merges", []) if merge.strip()]  # some are empty
        if broken := next((merge for merge in merges if " " not in merge[1:]), None):
            raise ValueError(f"{file} is damaged: the merge {broken!r} has no two pieces; {WAY_OUT}")
        scores = keys.get("tokenizer.ggml.scores", [])
        types = keys.get("tokenizer.ggml.token_type", [])
        for name, values in (("scores", scores), ("token_type", types)):
            if values and len(values) != len(pieces):
                raise ValueError(
                    f"{file} is damaged: {len(values):,} {name} for a vocabulary of {len(pieces):,} pieces"
                )
        vocabulary = cls(header, pieces, merges, scores, types or [NORMAL] * len(pieces))
        spelt_as_sentencepiece = "<0x0A>" in pieces and any(SPACE in piece for piece in pieces)
        if model == "gpt2" and not spelt_as_sentencepiece:
            if not merges:
                raise ValueError(f"{file}: its vocabulary is a byte-level BPE, but it has no merges; {WAY_OUT}")
            return replace(vocabulary, pre_tokenizer=find_pre_tokenizer(header))
        ranked = {score for score, kind in zip(scores, vocabulary.kinds, strict=bool(scores)) if kind == NORMAL}
        if model == "llama" and len(ranked) > 1:
            return replace(vocabulary, merges=[])  # as in llama.cpp, the scores count
        if not merges and len(ranked) < 2 and vocabulary.kinds.count(NORMAL) > MOST_EQUAL_SCORES:
            raise ValueError(
                f"{file}: its vocabulary has no merges, and all scores are equal, so the order of merges is lost; "
                f"{WAY_OUT}"
            )
        return vocabulary

    def id_of(self, role: str) -> int | None:
        """The id of "bos", "eos", "unknown" or "padding"; None if there is none."""
        default = DEFAULT_IDS[role] if self.pre_tokenizer is None else None
        token_id: int | None = self.header.keys.get(f"tokenizer.ggml.{role}_token_id", default)
        return token_id if token_id is not None and 0 <= token_id < len(self.pieces) else None

    @property
    def adds_bos(self) -> bool:
        """Whether texts begin with BOS."""
        default = self.pre_tokenizer is None or self.pre_tokenizer.adds_bos
        return bool(self.header.keys.get("tokenizer.ggml.add_bos_token", default))

    @cached_property
    def has_bytes(self) -> bool:
        """Whether there is a piece for each byte."""
        return {f"<0x{byte:02X}>" for byte in range(256)} <= set(self.pieces)

    @cached_property
    def kinds(self) -> list[int]:
        """The types of all ids, corrected: some files type every piece as NORMAL or as USER_DEFINED."""
        unknown: int | None
        says_nothing = len(set(self.types)) == 1
        kinds = [NORMAL] * len(self.types) if says_nothing else list(self.types)
        if UNKNOWN in kinds and "tokenizer.ggml.unknown_token_id" not in self.header.keys:
            unknown = kinds.index(UNKNOWN)
        else:
            unknown = self.id_of("unknown")
        control = (self.id_of("bos"), self.id_of("eos"))
        for i, piece in enumerate(self.pieces):
            if self.has_bytes and re.fullmatch("<0x[0-9A-F]{2}>", piece):
                kinds[i] = BYTE
            elif i == unknown:
                kinds[i] = UNKNOWN
            elif kinds[i] == UNKNOWN or i in control:
                kinds[i] = CONTROL
        return kinds

    @cached_property
    def count(self) -> int:
        """The number of ids without the padding at the end, which fills the vocabulary to the rows of the embedding."""
        return max((i + 1 for i, kind in enumerate(self.kinds) if kind != UNUSED), default=0)

    @cached_property
    def added(self) -> dict[int, bool]:
        """The added tokens: id -> whether it is special. User-defined pieces with a score belong to SentencePiece."""
        return {
            i: kind != USER_DEFINED
            for i, kind in enumerate(self.kinds)
            if kind in (UNKNOWN, CONTROL)
            or (kind == USER_DEFINED and (bool(self.merges) or not self.scores or self.scores[i] == ADDED_SCORE))
        }

    def tokenizer_config(self) -> dict[str, Any]:
        """The content of tokenizer_config.json: special and added tokens, and chat templates."""
        keys = self.header.keys
        roles = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
        config: dict[str, Any] = {
            name: None if (i := self.id_of(role)) is None else self.pieces[i] for role, name in roles.items()
        }
        config |= {
            # the second class follows tokenizer.json to the letter
            "tokenizer_class": "LlamaTokenizer" if self.pre_tokenizer is None else "PreTrainedTokenizerFast",
            "add_bos_token": self.adds_bos,
            "add_eos_token": keys.get("tokenizer.ggml.add_eos_token", False),
            "clean_up_tokenization_spaces": False,
            "legacy": False,
            "added_tokens_decoder": {str(i): token(self.pieces[i], special) for i, special in self.added.items()},
        }
        default = keys.get("tokenizer.chat_template")
        names = [name for name in keys.get("tokenizer.chat_templates", []) if f"tokenizer.chat_template.{name}" in keys]
        templates = {name: keys[f"tokenizer.chat_template.{name}"] for name in names}
        if templates:
            templates = ({} if default is None else {"default": default}) | templates
            config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
        elif default is not None:
            config["chat_template"] = default
        return config

    def tokenizer_json(self) -> dict[str, Any]:
        """The content of tokenizer.json: with the rules of the pre-tokenizer, or with those of Llama 2."""
        if self.pre_tokenizer is not None:
            return self.byte_level_json(self.pre_tokenizer)
        prefix = self.header.keys.get("tokenizer.ggml.add_space_prefix", True)
        space_in = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        space_out = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        unknown = self.id_of("unknown")
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i} | token(self.pieces[i], special) for i, special in self.added.items()],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [*([{"type": "Prepend", "prepend": SPACE}] if prefix else []), space_in],
            },
            "pre_tokenizer": None,
            "post_processor": self.post_processor(),
            "decoder": {
                "type": "Sequence",
                "decoders": [space_out, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if prefix else [])],
            },
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None if unknown is None else self.pieces[unknown],
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": True,
                "byte_fallback": True,
                "vocab": {piece: i for i, piece in enumerate(self.pieces[: self.count])},
                "merges": self.ranked_merges(),
            },
        }

    def byte_level_json(self, pre_tokenizer: PreTokenizer) -> dict[str, Any]:
        """The content of tokenizer.json for a byte-level BPE."""
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i} | token(self.pieces[i], special) for i, special in self.added.items()],
            "normalizer": None,
            "pre_tokenizer": pre_tokenizer.to_json(),
            "post_processor": self.post_processor(),
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": pre_tokenizer.ignore_merges,
                # an added token is no word, which `ignore_merges` would make it
                "vocab": {piece: i for i, piece in enumerate(self.pieces[: self.count_without_added])},
                "merges": self.ranked_merges(),
            },
        }

    def post_processor(self) -> dict[str, Any] | None:
        """The rule of tokenizer.json that puts BOS before a text; None without BOS. This project does not use it."""
        bos = self.id_of("bos")
        if bos is None or not self.adds_bos:
            return None
        name = self.pieces[bos]
        parts = {part: {"Sequence": {"id": part, "type_id": i}} for i, part in enumerate("AB")}
        begin = {part: {"SpecialToken": {"id": name, "type_id": i}} for i, part in enumerate("AB")}
        return {
            "type": "TemplateProcessing",
            "single": [begin["A"], parts["A"]],
            "pair": [begin["A"], parts["A"], begin["B"], parts["B"]],
            "special_tokens": {name: {"id": name, "ids": [bos], "tokens": [name]}},
        }

    def ranked_merges(self) -> list[list[str]]:
        """The merges in order of priority: those of the file, or each pair that forms a piece with a score."""
        if self.merges:
            # the first character may be a space itself, so the separator is the first one after it
            return [[merge[: (cut := merge.index(" ", 1))], merge[cut + 1 :]] for merge in self.merges]
        ids = {piece: i for i, piece in enumerate(self.pieces) if self.kinds[i] == NORMAL}
        found = []
        for piece, i in ids.items():
            halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
            pairs = [(ids[left], ids[right]) for left, right in halves if left in ids and right in ids]
            found += [(-self.scores[i], *pair) for pair in sorted(pairs)]
        return [[self.pieces[left], self.pieces[right]] for _, left, right in sorted(found, key=lambda each: each[0])]

    @cached_property
    def count_without_added(self) -> int:
        """The number of ids without the added tokens at the end, and without padding."""
        count = self.count
        # in SentencePiece's files, <unk>, <s> and </s> come first
        first = 0 if self.pre_tokenizer is not None else max(self.id_of("unknown") or 0, 2) + 1
        while count > first and count - 1 in self.added:
            count -= 1
        return count

    @cached_property
    def sentencepiece_model(self) -> bytes:
        """The bytes of a tokenizer.model: a message of sentencepiece_model.proto.

        Added tokens at the end are left out, as in the original: tokenizer_config.json has them. Padding at the end is
        left out as well.
        """
        keys = self.header.keys
        count = self.count_without_added
        content = []
        for i in range(count):
            kind, piece = self.kinds[i], self.pieces[i]
            if kind == USER_DEFINED:
                # the text is split at added tokens before SentencePiece sees it
                kind, piece = (CONTROL, piece) if i in self.added else (kind, piece.replace(" ", SPACE))
            score = self.scores[i] if self.scores else 0.0
            content.append(field(1, field(1, piece) + float_field(2, score) + field(3, kind)))
        trainer = field(3, 2) + field(4, count) + field(35, int(self.has_bytes))  # 2: BPE
        for number, role in ((45, "unknown"), (46, "bos"), (47, "eos"), (48, "padding")):
            token_id = self.id_of(role)
            trainer += field(number, self.pieces[token_id]) if token_id is not None and token_id < count else b""
        charsmap = bytes(byte & 255 for byte in keys.get("tokenizer.ggml.precompiled_charsmap", []))
        normalizer = (
            field(2, charsmap)
            + field(3, int(keys.get("tokenizer.ggml.add_space_prefix", True)))
            + field(4, int(keys.get("tokenizer.ggml.remove_extra_whitespaces", False)))
        )
        return b"".join([*content, field(2, trainer), field(3, normalizer)])


def find_pre_tokenizer(header: GgufHeader) -> PreTokenizer:
    """The pre-tokenizer that a file names. Raises ValueError for a file that names none, or one that is not known."""
    name = header.keys.get("tokenizer.ggml.pre")
    if name not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        problem = "names no pre-tokenizer" if name is None else f"names the pre-tokenizer {name!r}, which is not known"
        raise ValueError(
            f"{header.file}: its vocabulary is a byte-level BPE and {problem} (tokenizer.ggml.pre; known are {known}); "
            f"{WAY_OUT}"
        )
    return PRE_TOKENIZERS[name]


def token(name: str, special: bool) -> dict[str, Any]:
    """An added token with its flags, as in tokenizer_config.json and tokenizer.json."""
    return {
        "content": name,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
        "special": special,
    }


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a protocol buffer: a number as a varint, a text or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode("utf-8") if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def float_field(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)


def varint(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first; all bytes but the last have the eighth bit."""
    content = bytearray()
    while value > 127:
        content.append(value & 127 | 128)
        value >>= 7
    return bytes([*content, value])
