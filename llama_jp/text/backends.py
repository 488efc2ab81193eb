"""The two tokenizer files, and the libraries that encode text by their rules."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken

from ..checkpoint.json_files import read_small_file
from .added_tokens import AddedTokens, TokenSplitter
from .byte_level import BYTES
from .vocabulary import Vocabulary

SPACE = "▁"  # U+2581: a space inside a piece, in both files

KINDS = {"sentencepiece": "tokenizer.model", "json": "tokenizer.json"}


class SentencePieceFile:
    """tokenizer.model, encoded by the SentencePiece library with the normaliser and the flags in the file.

    SentencePiece has no added tokens and never parses special tokens, so the text is split at them first. Each part
    between two of them is then a text of its own.

    special_ids  the ids that the file names, by role: "bos", "eos", "unk", "pad"
    base_pieces  the pieces of the file, without the added tokens of other files
    """

    def __init__(self, path: Path, added: AddedTokens) -> None:
        content = read_small_file(path)
        try:
            if not content:
                raise RuntimeError("it is empty")
            processor = sentencepiece.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            if is_tiktoken(path):
                raise ValueError(
                    f"{path} is a tiktoken vocabulary, as Llama 3 has, and not a SentencePiece model; name a folder "
                    "with the tokenizer.json of the same model (tokenizer=…, --tokenizer FOLDER)"
                ) from error
            raise ValueError(f"{path} is damaged or not a SentencePiece model ({on_one_line(error)})") from error
        ids = range(processor.get_piece_size())
        self.base_pieces = {i: processor.id_to_piece(i) for i in ids}
        tokens = {
            i: AddedToken(self.base_pieces[i], special=True, normalized=False)
            for i in ids
            if processor.is_control(i) or processor.is_unknown(i)
        }
        known = {piece: i for i, piece in self.base_pieces.items()}
        # a role gives the piece <s> the flags of its token
        roles = {token.content for token in added.named.values()}
        for token in added.missing_from([token for token in tokens.values() if token.content not in roles]):
            # tokenizer.json also lists the file's own user-defined symbols; SentencePiece finds these itself
            if token.special or token.content not in known or token.content not in added.only_in_json:
                tokens[known.setdefault(token.content, len(known))] = token
        self._processor, self._tokens = processor, tokens
        self._splitter = TokenSplitter(tokens)
        self.vocabulary = Vocabulary(
            pieces=self.base_pieces | {i: token.content for i, token in tokens.items()},
            byte_values={i: int(self.base_pieces[i][3:5], 16) for i in ids if processor.is_byte(i)},
            added=frozenset(tokens),
            special=frozenset(i for i, token in tokens.items() if token.special),
            replacements=((SPACE, " "),),
            strip=count_stripped_spaces(processor),
        )
        named = {"bos": processor.bos_id(), "eos": processor.eos_id(), "unk": processor.unk_id()}
        named["pad"] = processor.pad_id()
        self.special_ids = {role: i for role, i in named.items() if i >= 0}  # -1: the file names none

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """The ids of a text. With `parse_special`, the names of special tokens in the text become their ids."""
        ids: list[int] = []
        for _, part, token_id in self._splitter.split(text, parse_special):
            ids.extend([token_id] if token_id is not None else self._processor.encode(part))
        return ids

    def encode_spelled(self, text: str, spellings: dict[str, int]) -> list[int]:
        """The ids of a text in which special tokens have other spellings: spelling -> id. Their names are text."""
        ids: list[int] = []
        for _, part, token_id in TokenSplitter(respelled(self._tokens, spellings)).split(text, parse_special=True):
            ids.extend([token_id] if token_id is not None else self._processor.encode(part))
        return ids

    def as_transformers5(self, prepend_scheme: str) -> SentencePieceAsTransformers5:
        """The same vocabulary with the encoding of transformers 5."""
        return SentencePieceAsTransformers5(self._processor, self._splitter, prepend_scheme)


class SentencePieceAsTransformers5:
    """The encoding of transformers 5, from a tokenizer.model. For comparison only.

    prepend_scheme  where a space is added: "always" before each part, "first" at the start of the text, or "never"
    """

    # Protocol buffers merge appended fields: normalizer_spec { precompiled_charsmap: "", add_dummy_prefix: false,
    # remove_extra_whitespaces: false }. BPE over the pieces remains, and `encode` adds the spaces.
    NO_NORMALISER = bytes([0x1A, 6, 0x12, 0, 0x18, 0, 0x20, 0])

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, splitter: TokenSplitter, prepend_scheme: str
    ) -> None:
        proto = processor.serialized_model_proto() + self.NO_NORMALISER
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self._splitter = splitter
        self._prepend_scheme = prepend_scheme

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """The ids of a text. With `parse_special`, the names of special tokens in the text become their ids."""
        ids: list[int] = []
        for start, part, token_id in self._splitter.split(text, parse_special):
            if token_id is not None:
                ids.append(token_id)
                continue
            part = part.replace(" ", SPACE)
            prepend = self._prepend_scheme == "always" or (self._prepend_scheme == "first" and start == 0)
            if prepend and not part.startswith(SPACE):
                part = SPACE + part
            ids.extend(self._processor.encode(part))
        return ids


class JsonFile:
    """tokenizer.json, encoded by the `tokenizers` library with the normaliser, pre-tokenizer and model in the file.

    special_ids  the ids that the file names, by role: "bos", "eos", "unk"
    first_id     the id that the file puts before each text; None for a file that puts none

    The post-processor only decides `first_id`, because BOS is an argument of `Tokenizer.encode`. Truncation and padding
    are not used, because they would silently change the ids.

    An added token that is not marked as special is always split off from the text, and the next part begins with a
    space of its own. SentencePiece splits off its user-defined symbols without such a space; Llama's vocabulary has
    none. The file's normaliser also applies to the names of added tokens with the flag `normalized`. Nothing else
    differs between the two files of one tokenizer.
    """

    def __init__(self, path: Path, added: AddedTokens, spec: dict[str, Any]) -> None:
        self._path, self._spec, self._added = path, spec, added
        self._text_only = self._make_tokenizer()
        self._text_only.encode_special_tokens = True  # <s> in a text stays text
        self._parsing: tokenizers.Tokenizer | None = None  # a second one, since the line above is not an argument

        tokens = self._text_only.get_added_tokens_decoder()
        pieces = {i: piece for piece, i in self._text_only.get_vocab(with_added_tokens=True).items()}
        byte_level = is_byte_level(spec)
        replacements, bytes_are_pieces, strip = decoder_rules(path, spec.get("decoder"))
        match_byte = re.compile("<0x([0-9A-Fa-f]{2})>").fullmatch
        spellings = {i: self._normalize(token.content) for i, token in tokens.items() if token.normalized}
        matches = {i: match_byte(spellings.get(i, piece)) for i, piece in pieces.items()} if bytes_are_pieces else {}
        byte_values = {i: int(match[1], 16) for i, match in matches.items() if match}
        if byte_level:  # an ASCII byte is a character
            byte_values = {i: value for i, piece in pieces.items() if (value := BYTES.get(piece, 0)) > 0x7F}
        self.vocabulary = Vocabulary(
            pieces=pieces,
            byte_values=byte_values,
            added=frozenset(tokens),
            special=frozenset(i for i, token in tokens.items() if token.special),
            replacements=replacements,
            strip=strip,
            spellings=spellings,
            byte_level=byte_level,
        )
        # A tokenizer.json names only its <unk>. The other names are Llama's, for a folder without other files.
        names = {"bos": "<s>", "eos": "</s>", "unk": spec["model"].get("unk_token")}
        special_pieces = {pieces[i]: i for i in self.vocabulary.special}
        self.special_ids = {role: special_pieces[name] for role, name in names.items() if name in special_pieces}
        plain, processed = (self._text_only.encode("a", add_special_tokens=add).ids for add in (False, True))
        self.first_id = processed[0] if processed[:1] != plain[:1] else None

    def _make_tokenizer(self) -> tokenizers.Tokenizer:
        tokenizer = self._read_spec(self._spec)
        tokenizer.add_tokens(self._added.missing_from(tokenizer.get_added_tokens_decoder().values()))
        return tokenizer

    def _read_spec(self, spec: dict[str, Any]) -> tokenizers.Tokenizer:
        try:
            tokenizer = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises no narrower class
            raise ValueError(f"{self._path} is damaged or not a tokenizer.json ({on_one_line(error)})") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def _normalize(self, name: str) -> str:
        """The name of an added token in a normalised text, where the library finds it and from where it decodes it."""
        normalizer = self._text_only.normalizer
        return name if normalizer is None else str(normalizer.normalize_str(name))

    def encode(self, text: str, parse_special: bool) -> list[int]:
        """The ids of a text. With `parse_special`, the names of special tokens in the text become their ids."""
        tokenizer = self._text_only
        if parse_special:
            tokenizer = self._parsing = self._parsing or self._make_tokenizer()
        return tokenizer.encode(text, add_special_tokens=False).ids

    def encode_spelled(self, text: str, spellings: dict[str, int]) -> list[int]:
        """The ids of a text in which special tokens have other spellings: spelling -> id. Their names are text.

        A part's ids can depend on the special tokens around it, so the file's own rules run over the whole text: in a
        copy of the file whose special tokens are renamed.
        """
        tokens = respelled(self._text_only.get_added_tokens_decoder(), spellings)
        renamed = self._read_spec(self._spec | {"added_tokens": [], "post_processor": None})
        renamed.add_tokens([*tokens.values()])
        ids = {renamed.token_to_id(token.content): token_id for token_id, token in tokens.items()}
        return [ids.get(i, i) for i in renamed.encode(text, add_special_tokens=False).ids]

    def as_transformers5(self, prepend_scheme: str) -> JsonFile:
        """The same vocabulary with the encoding of transformers 5. For comparison only.

        prepend_scheme  as in `SentencePieceAsTransformers5`

        transformers 5 encodes by the rules of a byte-level file as they are.
        """
        if self.vocabulary.byte_level:
            return self
        metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": prepend_scheme, "split": False}
        model = self._spec["model"] | {"fuse_unk": True, "byte_fallback": True, "dropout": None}
        spec = self._spec | {"normalizer": None, "pre_tokenizer": metaspace, "model": model}
        return JsonFile(self._path, self._added, spec)


def count_stripped_spaces(processor: sentencepiece.SentencePieceProcessor) -> float:
    """The number of leading spaces that decoding with a tokenizer.model removes; math.inf: all.

    It follows from the flags add_dummy_prefix and remove_extra_whitespaces. The library does not expose them, so this
    function decodes three spaces and counts.
    """
    space = processor.piece_to_id(SPACE)
    if processor.id_to_piece(space) != SPACE:  # without a piece for a space, only the first piece begins with one
        return 1
    missing = 3 - len(processor.decode([space] * 3))
    return math.inf if missing == 3 else missing


def decoder_rules(path: Path, decoder: dict[str, Any] | None) -> tuple[tuple[tuple[str, str], ...], bool, int]:
    """The decoder of a tokenizer.json: (replacements in pieces, whether <0x..> are bytes, leading spaces to strip).

    The decoder of Llama 2 consists of Replace, ByteFallback, Fuse and Strip, in this order; each of them may be absent.
    That of Llama 3 is ByteLevel.

    Raises ValueError for any other decoder, because it would decode to other text.
    """
    steps = decoder_steps(decoder)
    types = [step["type"] for step in steps]
    if types == ["ByteLevel"]:
        return (), False, 0
    replaces = [step for step in steps if step["type"] == "Replace"]
    strips = [step for step in steps if step["type"] == "Strip"]
    supported = (
        re.fullmatch("(Replace )*(ByteFallback )?(Fuse (Strip )?)?", "".join(f"{name} " for name in types))
        and all("String" in step["pattern"] for step in replaces)
        and all(step["content"] == " " and step["stop"] == 0 for step in strips)
    )
    if not supported:
        raise ValueError(
            f"{path}: its decoder is {json.dumps(decoder, ensure_ascii=False)}; supported are ByteLevel, and Replace "
            "(of a string), ByteFallback, Fuse and Strip (of leading spaces), in this order"
        )
    replacements = tuple((step["pattern"]["String"], step["content"]) for step in replaces)
    return replacements, "ByteFallback" in types, sum(step["start"] for step in strips)


def decoder_steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a decoder; a decoder that is no sequence is one step."""
    steps: list[dict[str, Any]] = [decoder or {"type": None}]
    return decoder["decoders"] if decoder and decoder.get("type") == "Sequence" else steps


def is_byte_level(spec: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json has a byte-level BPE, as Llama 3's has."""
    return [step["type"] for step in decoder_steps(spec.get("decoder"))] == ["ByteLevel"]


def respelled(tokens: Mapping[int, AddedToken], spellings: Mapping[str, int]) -> dict[int, AddedToken]:
    """Added tokens with the same flags and other names, from spelling -> id. The others keep their names."""
    names = {token_id: name for name, token_id in spellings.items()}
    return {
        token_id: AddedToken(
            names.get(token_id, token.content),
            single_word=token.single_word,
            lstrip=token.lstrip,
            rstrip=token.rstrip,
            normalized=token.normalized,
            special=token.special,
        )
        for token_id, token in tokens.items()
    }


def is_tiktoken(path: Path) -> bool:
    """Whether a file begins as Llama 3's tokenizer.model: lines of a token in base64 and its rank."""
    if not path.is_file():  # a path in a GGUF file
        return False
    with path.open("rb") as file:
        return re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+\n?", file.readline(200)) is not None


def on_one_line(error: Exception) -> str:
    """The message of an exception with line ends replaced by spaces."""
    return " ".join(str(error).split())
