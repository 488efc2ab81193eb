"""Text <-> ids, and text as it streams.

A checkpoint says how its text is cut in `tokenizer.model` (SentencePiece), in `tokenizer.json` (the `tokenizers`
library), or in both; each alone is enough. The two libraries do the cutting, as the file tells them to. Putting text
together again is done here, once for both, because it must also work one token at a time:

    Tokenizer            what everybody uses
    TextStream           ids -> text, one token at a time; `decode` is its output joined
    Vocabulary           what an id stands for, read from either file
    SentencePieceFile    tokenizer.model: text -> ids
    JsonFile             tokenizer.json: text -> ids
"""

from __future__ import annotations

import codecs
import json
import math
import operator
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import sentencepiece
import tokenizers

SPACE = "▁"  # U+2581, how both files write a space inside a piece
REPLACEMENT = "\ufffd"  # stands for a byte that is no part of any character
KINDS = {"sentencepiece": "tokenizer.model", "json": "tokenizer.json"}
READINGS = ("published", "transformers5", "whole-string")
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


class Tokenizer:
    """The tokenizer of one checkpoint.

    kind        "sentencepiece" or "json": which file does the work
    files       the tokenizer files of the checkpoint, as paths
    vocab_size  how many ids the tokenizer has; the model may have more rows than that
    bos_id, eos_id, unk_id, pad_id    ids, or None where the files name none

    The special ids come from special_tokens_map.json, then tokenizer_config.json, then the tokenizer file itself, then
    config.json: the first that names one. `pad_id` is only a report. Padding is known by its mask, never by its id,
    which may be `</s>` or `<unk>` just as well.
    """

    def __init__(self, folder: Path, kind: str, backend: SentencePieceFile | JsonFile) -> None:
        self.kind = kind
        self.files = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
        self.vocabulary = backend.vocabulary
        self.vocab_size = max(self.vocabulary.pieces, default=-1) + 1
        self._backend = backend
        self._as_transformers5: SentencePieceAsTransformers5 | JsonFile | None = None
        self._config = _read_json(folder / "tokenizer_config.json")
        named = SpecialTokens(folder, self._config, self.vocabulary, backend.own_special)
        self.bos_id = named.id_of("bos")
        self.eos_id = named.id_of("eos")
        self.unk_id = named.id_of("unk")
        self.pad_id = named.id_of("pad")

    @classmethod
    def from_pretrained(cls, source: str | Path, revision: str | None = None, *, kind: str | None = None) -> Tokenizer:
        """Read the tokenizer of a checkpoint: a folder, a hub repository or a short name.

        kind: "sentencepiece" or "json" takes that file and looks at no other. None takes tokenizer.model where there is
            one, else tokenizer.json; where there are both, they must agree.
        Raises: FileNotFoundError for a folder without the file, ValueError for a damaged file or two that do not agree.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, KINDS))}, or None for what is there")
        folder = Path(source)
        if not folder.is_dir():
            from .checkpoint import find_checkpoint  # only here: a folder needs nothing but this module

            folder = find_checkpoint(source, revision, weights=False)

        present = [each for each, name in KINDS.items() if (folder / name).is_file()]
        if kind is None and not present:
            raise FileNotFoundError(f"{folder} has no tokenizer: neither tokenizer.model nor tokenizer.json is there")
        if kind is not None and kind not in present:
            raise FileNotFoundError(f"{folder} has no {KINDS[kind]}, which kind={kind!r} asks for")
        chosen = kind or present[0]
        backend = _open(folder, chosen)
        if kind is None and len(present) == 2:
            _check_agreement(folder, backend, _open(folder, "json"))
        return cls(folder, chosen, backend)

    def encode(
        self, text: str, bos: bool = True, parse_special: bool = False, *, reading: str = "published"
    ) -> list[int]:
        """Cut text into ids.

        bos: begin with BOS. Text that begins with BOS already (`<s>…` with parse_special) keeps the one it has.
        parse_special: False takes `<s>` in the text for the three characters it is, so nobody's text can end a turn or
            begin one; True takes it for the token. What stands between two specials is cut as a text of its own.
        reading: "published" is what the file says, and what ELYZA trained with. Two others exist for comparison only:
            "transformers5"  as `LlamaTokenizer` of transformers 5 does, which replaces the file's normaliser: a space
                             is put before the whole text, not before each part of it, and only where there is none
            "whole-string"   specials are text whatever parse_special says, as from SentencePiece alone
        Raises: ValueError for a text that is no Unicode (half a surrogate pair), or bos=True where there is no BOS.
        """
        if reading not in READINGS:
            raise ValueError(f"reading is {reading!r}; it can be {', '.join(map(repr, READINGS))}")
        if bos and self.bos_id is None:
            raise ValueError("this tokenizer has no BOS token; encode with bos=False")
        _check_unicode(text)
        backend = self._transformers5() if reading == "transformers5" else self._backend
        ids = backend.encode(text, parse_special and reading != "whole-string")
        if bos and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Put text together from ids.

        Equal to the decode of either library wherever the two agree, which includes all text that ever was encoded.
        Where they differ:
            bytes that are not UTF-8   one U+FFFD a byte, whole characters around them are kept (as sentencepiece; in
                                       tokenizers one bad byte spoils its neighbours, so no character could be shown
                                       before the next token is known)
            special tokens             `<unk>`, `<s>`, `</s>`, … are left out, or shown by name with skip_special=False
                                       (as tokenizers; sentencepiece shows ` ⁇ ` for `<unk>`)
            leading space              the one that encoding added is taken from the front of the text, once, whichever
                                       token brought it (as tokenizers; sentencepiece looks at pieces, not at bytes)
        Raises: ValueError for an id that the tokenizer does not have.
        """
        stream = self.stream(skip_special)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.finish()

    def stream(self, skip_special: bool = True) -> TextStream:
        """Begin a text of which the ids come one at a time. See TextStream."""
        return TextStream(self.vocabulary, skip_special)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces as the file spells them, for display: `▁` is a space, `<0xE3>` is a byte."""
        return [self.vocabulary.piece(token_id) for token_id in ids]

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the checkpoint's tokenizer files, byte for byte, into a folder (made if needed)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            target = folder / file.name
            if not (target.exists() and target.samefile(file)):
                shutil.copyfile(file, target)

    def _transformers5(self) -> SentencePieceAsTransformers5 | JsonFile:
        if self._as_transformers5 is None:
            # The two keys that its LlamaTokenizer takes from tokenizer_config.json, with its defaults.
            scheme = "always" if self._config.get("legacy", False) else "first"
            if self._config.get("add_prefix_space") is False:
                scheme = "never"
            self._as_transformers5 = self._backend.as_transformers5(scheme)
        return self._as_transformers5

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, files={[f.name for f in self.files]})"


class TextStream:
    """Text from ids that come one at a time.

    `push(id)` returns what that token makes certain: a character comes with the token that completes it, "" means not
    yet. `finish()` returns what is left, one U+FFFD for each byte still waiting. The pieces joined are exactly the full
    decode, for every sequence of ids, and nothing is ever taken back. At most three bytes wait at any time.
    """

    def __init__(self, vocabulary: Vocabulary, skip_special: bool = True) -> None:
        self._vocabulary = vocabulary
        self._skip_special = skip_special
        self._waiting = b""  # the beginning of a character
        self._strip = vocabulary.strip  # leading spaces still to be taken off

    def push(self, token_id: int) -> str:
        vocabulary = self._vocabulary
        token_id = operator.index(token_id)  # a 0-d tensor would not be found in a set
        piece = vocabulary.piece(token_id)
        if self._skip_special and token_id in vocabulary.special:
            return ""  # as if it were not there: bytes before and after it still meet
        if token_id in vocabulary.byte_values:
            byte = vocabulary.byte_values[token_id]
            text, self._waiting = whole_characters(self._waiting + bytes([byte]))
        else:
            text = self._give_up_waiting() + vocabulary.spell(piece)
        return self._without_leading_spaces(text)

    def finish(self) -> str:
        return self._without_leading_spaces(self._give_up_waiting())

    def _give_up_waiting(self) -> str:
        text = REPLACEMENT * len(self._waiting)
        self._waiting = b""
        return text

    def _without_leading_spaces(self, text: str) -> str:
        while self._strip and text:
            if not text.startswith(" "):
                self._strip = 0
                break
            text = text[1:]
            self._strip -= 1
        return text


def whole_characters(data: bytes) -> tuple[str, bytes]:
    """Decode UTF-8 as far as it is certain: (text, bytes that may still become a character).

    A byte that no continuation can save is one U+FFFD on its own, and reading goes on with the next byte. (Python's
    errors="replace" would put a single U+FFFD for e3 81 before a space; sentencepiece puts two, and so do we.)
    """
    text = ""
    while True:
        try:
            certain, used = codecs.utf_8_decode(data, "strict", False)
            return text + certain, data[used:]
        except UnicodeDecodeError as error:
            text += data[: error.start].decode("utf-8") + REPLACEMENT
            data = data[error.start + 1 :]


@dataclass(frozen=True)
class Vocabulary:
    """What the ids of a tokenizer stand for.

    pieces       id -> the piece as the file spells it
    byte_values  id -> byte, for pieces such as <0xE3> that stand for a single byte of UTF-8
    special      ids that are no text: <s>, </s>, <unk>, …
    spaces       what to replace in a piece, and by what: ▁ by a space
    strip        how many leading spaces decoding takes off (1 where encoding adds one; math.inf for all)
    """

    pieces: dict[int, str]
    byte_values: dict[int, int]
    special: frozenset[int]
    spaces: tuple[tuple[str, str], ...]
    strip: float

    def piece(self, token_id: int) -> str:
        token_id = operator.index(token_id)
        if token_id not in self.pieces:
            raise ValueError(f"id {token_id} is not in the tokenizer, which has {len(self.pieces)} ids, from 0 on")
        return self.pieces[token_id]

    def spell(self, piece: str) -> str:
        for old, new in self.spaces:
            piece = piece.replace(old, new)
        return piece

    def text_bytes(self, token_id: int) -> int:
        """How many bytes of UTF-8 text a token stands for, a ▁ being one space; 0 for specials."""
        token_id = operator.index(token_id)
        piece = self.piece(token_id)
        if token_id in self.special:
            return 0
        return 1 if token_id in self.byte_values else len(self.spell(piece).encode("utf-8"))


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
        spec = spec or _read_json(path)
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


@dataclass(frozen=True)
class SpecialTokens:
    """Which ids a checkpoint's files name as bos, eos, unk and pad."""

    folder: Path
    tokenizer_config: dict
    vocabulary: Vocabulary
    own: dict[str, int]  # what the tokenizer file says of itself

    def id_of(self, role: str) -> int | None:
        """The first of: special_tokens_map.json, tokenizer_config.json, the tokenizer file, config.json; else None."""
        by_name = {
            "special_tokens_map.json": _read_json(self.folder / "special_tokens_map.json"),
            "tokenizer_config.json": self.tokenizer_config,
        }
        for file, content in by_name.items():
            token = content.get(f"{role}_token")
            name = token.get("content") if isinstance(token, dict) else token
            if name:
                return self._id_of_piece(name, file, role)
        if role in self.own:
            return self.own[role]
        value = _read_json(self.folder / "config.json").get(f"{role}_token_id")
        value = value[0] if isinstance(value, list) and value else value  # Llama 3 style: several eos ids
        return value if isinstance(value, int) and value >= 0 else None  # Llama 1 wrote -1 for "none"

    def _id_of_piece(self, name: str, file: str, role: str) -> int:
        for token_id, piece in self.vocabulary.pieces.items():
            if piece == name:
                return token_id
        raise ValueError(f"{self.folder / file}: {role}_token is {name!r}, which is not in the tokenizer's vocabulary")


def _open(folder: Path, kind: str) -> SentencePieceFile | JsonFile:
    return {"sentencepiece": SentencePieceFile, "json": JsonFile}[kind](folder / KINDS[kind])


def _check_agreement(folder: Path, model: SentencePieceFile, other: JsonFile) -> None:
    """Refuse a tokenizer.model and a tokenizer.json that belong to different tokenizers.

    Compared are all pieces, and whether a space is put before a text. That the two libraries then cut alike is for the
    tests to show.
    """
    ours, theirs = model.vocabulary.pieces, other.vocabulary.pieces
    advice = 'remove the wrong one, or choose with kind="sentencepiece" or kind="json"'
    if ours != theirs:
        i = next(i for i in sorted(ours.keys() | theirs.keys()) if ours.get(i) != theirs.get(i))
        raise ValueError(
            f"{folder}: tokenizer.model ({len(ours)} pieces) and tokenizer.json ({len(theirs)} pieces) do not belong "
            f"together: id {i} is {ours.get(i)!r} in one and {theirs.get(i)!r} in the other; {advice}"
        )
    probe = "a"
    if model.encode(probe, False) != other.encode(probe, False):
        raise ValueError(
            f"{folder}: tokenizer.model and tokenizer.json do not agree: {probe!r} is {model.encode(probe, False)} in "
            f"one and {other.encode(probe, False)} in the other; {advice}"
        )


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


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(f"character {error.start} of the text is U+{code:04X}, half a surrogate pair") from None


def _read_json(path: Path) -> dict:
    """A JSON file's object; {} where there is no file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both one
        raise ValueError(f"{path} is damaged or not JSON ({_one_line(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a JSON object and holds a {type(content).__name__}")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
