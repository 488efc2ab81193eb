"""The tokenizer of a checkpoint: text to ids, ids to text."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint.chat_template import ChatTemplate, carry_chat_template, elyza_template, find_chat_template
from ..checkpoint.hub import TOKENIZER_FILES, find_checkpoint
from ..checkpoint.json_files import read_json
from .backends import KINDS, JsonFile, SentencePieceAsTransformers5, SentencePieceFile
from .rendering import render
from .special_tokens import SpecialTokens
from .streaming import TextStream

Backend = SentencePieceFile | JsonFile

SEGMENTATIONS = ("published", "transformers5", "whole-string")


class Tokenizer:
    """The tokenizer of one checkpoint.

    kind        "sentencepiece" or "json": the file that text is encoded by
    folder      the folder of the checkpoint
    files       the paths of the checkpoint's tokenizer files
    vocabulary  the pieces of all ids, see `Vocabulary`
    vocab_size  the number of ids; the model's embedding may have more rows
    bos_id, eos_id, unk_id, pad_id    ids, or None if the files name none

    The special ids come from the first file that names them: special_tokens_map.json, tokenizer_config.json, the
    tokenizer file, config.json. `pad_id` is informative only. It may equal the id of `</s>` or `<unk>`, so padding is
    marked by the attention mask and never by an id.
    """

    def __init__(self, folder: Path, kind: str, backend: Backend) -> None:
        self.kind = kind
        self.folder = folder
        self.files = tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())
        self.vocabulary = backend.vocabulary
        self.vocab_size = max(self.vocabulary.pieces, default=-1) + 1
        self._backend = backend
        self._as_transformers5: SentencePieceAsTransformers5 | JsonFile | None = None
        self._config = read_json(folder / "tokenizer_config.json", missing_ok=True)
        special_tokens = SpecialTokens(folder, self._config, self.vocabulary, backend.special_ids)
        self.bos_id = special_tokens.id_of("bos")
        self.eos_id = special_tokens.id_of("eos")
        self.unk_id = special_tokens.id_of("unk")
        self.pad_id = special_tokens.id_of("pad")

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "demo", revision: str | None = None, *, kind: str | None = None
    ) -> Tokenizer:
        """Load the tokenizer of a checkpoint.

        source, revision  as in `checkpoint.load.load_model`; weights are not downloaded
        kind              "sentencepiece" uses tokenizer.model, and "json" tokenizer.json. None uses tokenizer.model if
                          it exists, else tokenizer.json; if both exist, it checks that they agree

        Raises FileNotFoundError for a missing file. Raises ValueError for a damaged file, and for two files that belong
        to different tokenizers.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, KINDS))}, or None for either")
        folder = find_checkpoint(source, revision, weights=False)

        present = [each for each, name in KINDS.items() if (folder / name).is_file()]
        if kind is None and not present:
            raise FileNotFoundError(f"{folder} has no tokenizer: neither tokenizer.model nor tokenizer.json is there")
        if kind is not None and kind not in present:
            raise FileNotFoundError(f"{folder} has no {KINDS[kind]}, which kind={kind!r} needs")
        chosen = kind or present[0]
        backend = open_backend(folder, chosen)
        if kind is None and len(present) == 2:
            check_agreement(folder, backend, open_backend(folder, "json"))
        return cls(folder, chosen, backend)

    def encode(
        self, text: str, bos: bool = True, parse_special: bool = False, *, segmentation: str = "published"
    ) -> list[int]:
        """Encode a text as ids.

        bos            True begins the ids with BOS, unless they begin with it already (`<s>…` with parse_special)
        parse_special  False encodes `<s>` in the text as three characters, so that a user's text cannot end a turn or
                       begin one. True makes it the special token, and encodes each part between two special tokens as a
                       text of its own
        segmentation   "published" follows the checkpoint's file, as in ELYZA's training. The others are for comparison:
                       "transformers5" follows `LlamaTokenizer` of transformers 5, which replaces the file's normaliser.
                       It adds a space at the start of the text, not at each part, and only if there is none yet.
                       "whole-string" ignores parse_special, like SentencePiece alone

        Raises ValueError for text with half a surrogate pair, and for bos=True if the tokenizer has no BOS.
        """
        if segmentation not in SEGMENTATIONS:
            raise ValueError(f"segmentation is {segmentation!r}; it can be {', '.join(map(repr, SEGMENTATIONS))}")
        if bos and self.bos_id is None:
            raise ValueError("this tokenizer has no BOS token; encode with bos=False")
        check_unicode(text)
        backend = self._transformers5() if segmentation == "transformers5" else self._backend
        ids = backend.encode(text, parse_special and segmentation != "whole-string")
        if bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The checkpoint's chat template; None for a base model. See `find_chat_template`."""
        return find_chat_template(self.folder)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The ids of a conversation, by the checkpoint's chat template, or by ELYZA's if it has none.

        messages               `{"role": "system", "user" or "assistant", "content": "…"}`, oldest first
        add_generation_prompt  whether the template adds what comes before an answer, if it distinguishes the two
        variables              further variables of the template, such as tools

        The ids equal those of transformers' `apply_chat_template`, with the tokenizer as its file is written. One thing
        differs: the name of a special token in a message is text, so that a message cannot end a turn or begin one.

        Raises ValueError for messages that are no conversation, and for a template that fails or refuses them.
        """
        names = {role: getattr(self, f"{role}_id") for role in ("bos", "eos", "unk", "pad")}
        given: dict[str, Any] = {
            f"{role}_token": self.vocabulary.piece(i) for role, i in names.items() if i is not None
        }
        given |= {"add_generation_prompt": add_generation_prompt} | dict(variables or {})
        special = {self.vocabulary.pieces[i]: i for i in self.vocabulary.special}
        text, spellings = render(self.chat_template or elyza_template(), messages, special, given)
        check_unicode(text)
        if spellings == special:
            return self._backend.encode(text, parse_special=True)
        return self._backend.encode_spelled(text, spellings)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Decode ids to text. With `skip_special=False`, special tokens appear by name.

        The result equals both libraries' wherever they agree, which includes the ids of every encoded text. They differ
        in three cases:

        bytes that are not UTF-8   each becomes one U+FFFD, and whole characters around it remain, as in sentencepiece.
                                   In tokenizers one bad byte also replaces its neighbours, so no character would be
                                   certain before the next token
        special tokens             `<unk>` is left out like the others, as in tokenizers; sentencepiece shows ` ⁇ `
        leading space              the space that encoding added is removed once, from whichever token begins the text,
                                   as in tokenizers; sentencepiece does not remove a space that is a byte token

        Raises ValueError for an id outside the vocabulary.
        """
        stream = self.stream(skip_special)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.finish()

    def stream(self, skip_special: bool = True) -> TextStream:
        """A decoder for ids that arrive one at a time. See `TextStream`."""
        return TextStream(self.vocabulary, skip_special)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces of ids in the spelling of the file, for display: `▁` is a space, `<0xE3>` is a byte."""
        return [self.vocabulary.piece(token_id) for token_id in ids]

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the tokenizer files, byte for byte, and the chat template to a folder, which is created if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.files:
            target = folder / file.name
            if not (target.exists() and target.samefile(file)):
                shutil.copyfile(file, target)
        carry_chat_template(self.folder, folder)

    def _transformers5(self) -> SentencePieceAsTransformers5 | JsonFile:
        if self._as_transformers5 is None:
            # LlamaTokenizer takes these two keys from tokenizer_config.json; the defaults are its own.
            prepend_scheme = "always" if self._config.get("legacy", False) else "first"
            if self._config.get("add_prefix_space") is False:
                prepend_scheme = "never"
            self._as_transformers5 = self._backend.as_transformers5(prepend_scheme)
        return self._as_transformers5

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size}, files={[f.name for f in self.files]})"


def open_backend(folder: Path, kind: str) -> Backend:
    """Open the tokenizer file of a kind in a folder."""
    file = folder / KINDS[kind]
    return SentencePieceFile(file) if kind == "sentencepiece" else JsonFile(file)


def check_agreement(folder: Path, model_file: Backend, json_file: Backend) -> None:
    """Raise ValueError if a tokenizer.model and a tokenizer.json belong to different tokenizers.

    The check compares all pieces, and whether encoding adds a space to a text. Given these, both libraries encode any
    text to the same ids (`tests/text/test_backends.py`).
    """
    model_pieces, json_pieces = model_file.vocabulary.pieces, json_file.vocabulary.pieces
    advice = 'remove the wrong one, or choose with kind="sentencepiece" or kind="json"'
    if model_pieces != json_pieces:
        ids = sorted(model_pieces.keys() | json_pieces.keys())
        i = next(i for i in ids if model_pieces.get(i) != json_pieces.get(i))
        raise ValueError(
            f"{folder}: tokenizer.model ({len(model_pieces)} pieces) and tokenizer.json ({len(json_pieces)} pieces) do "
            f"not belong together: id {i} is {model_pieces.get(i)!r} in one and {json_pieces.get(i)!r} in the other; "
            f"{advice}"
        )
    text = "a"
    model_ids, json_ids = model_file.encode(text, False), json_file.encode(text, False)
    if model_ids != json_ids:
        raise ValueError(
            f"{folder}: tokenizer.model and tokenizer.json do not agree: {text!r} is {model_ids} in one and {json_ids} "
            f"in the other; {advice}"
        )


def check_unicode(text: str) -> None:
    """Raise ValueError, with the position, for a text that UTF-8 cannot represent."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(f"character {error.start} of the text is U+{code:04X}, half a surrogate pair") from None
