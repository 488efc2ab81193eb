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

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..checkpoint.hub import TOKENIZER_FILES, find_checkpoint
from ..checkpoint.json_files import read_json
from .backends import KINDS, JsonFile, SentencePieceAsTransformers5, SentencePieceFile
from .special_tokens import SpecialTokens
from .streaming import TextStream

READINGS = ("published", "transformers5", "whole-string")


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
        self._config = read_json(folder / "tokenizer_config.json", missing_ok=True)
        named = SpecialTokens(folder, self._config, self.vocabulary, backend.own_special)
        self.bos_id = named.id_of("bos")
        self.eos_id = named.id_of("eos")
        self.unk_id = named.id_of("unk")
        self.pad_id = named.id_of("pad")

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "demo", revision: str | None = None, *, kind: str | None = None
    ) -> Tokenizer:
        """Read the tokenizer of a checkpoint: a folder, a hub repository or a short name.

        kind: "sentencepiece" or "json" takes that file and looks at no other. None takes tokenizer.model where there is
            one, else tokenizer.json; where there are both, they must agree.
        Raises: FileNotFoundError for a folder without the file, ValueError for a damaged file or two that do not agree.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, KINDS))}, or None for what is there")
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


def _check_unicode(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(f"character {error.start} of the text is U+{code:04X}, half a surrogate pair") from None
