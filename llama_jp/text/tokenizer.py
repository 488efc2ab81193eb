"""The tokenizer of a checkpoint: text to ids, ids to text."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..checkpoint.chat_template import ChatTemplate, choose_template, elyza_template, find_chat_templates
from ..checkpoint.hub import find_checkpoint, tokenizer_files, tokenizer_home
from ..checkpoint.json_files import has_file, read_json
from ..checkpoint.recognise import describe_folder
from ..checkpoint.saved_files import copy_tokenizer
from .added_tokens import AddedTokens
from .backends import KINDS, JsonFile, SentencePieceAsTransformers5, SentencePieceFile, is_tiktoken
from .rendering import literal_text, render
from .special_tokens import SpecialTokens
from .streaming import TextStream
from .vocabulary import first_difference

Backend = SentencePieceFile | JsonFile

SEGMENTATIONS = ("published", "transformers5", "whole-string")

# Texts on which two tokenizer files of one checkpoint are compared: kanji, kana, digits, Latin, spaces, bytes.
PROBES = (
    "a",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "何でも薄暗いじめじめした所でニャーニャー泣いていた事だけは記憶している。",
    "この書生というのは時々我々を捕えて煮て食うという話である。",
    "東京都では、2024年4月1日から新しい制度が始まりました。",
    "お問い合わせは、下記の電話番号までご連絡ください（平日9:00〜17:30）。",
    "人工知能の研究開発において、大規模言語モデルが注目されている。",
    "「ありがとうございます」と言って、彼女は静かに部屋を出て行った。",
    "国際連合の安全保障理事会は、緊急会合を開催することを決定した。",
    "コンピューターのプログラミングを勉強しています。",
    "株式会社の代表取締役社長に就任することになりました。",
    "クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。",
    "  ＡＢＣ１２３ｱｲｳ　ガギグ  𠮷野家 👩‍👩‍👧‍👦\n\n\t― …",
    "The quick brown fox jumps over the lazy dog, 100 times.\n[INST] <<SYS>> def f(x): return x",
)


class Tokenizer:
    """The tokenizer of one checkpoint.

    kind        "sentencepiece" or "json": the file that text is encoded by
    folder      the folder of the checkpoint
    files       the paths of the checkpoint's tokenizer files
    vocabulary  the pieces of all ids, see `Vocabulary`
    vocab_size  the number of ids; the model's embedding may have more rows
    bos_id, eos_id, unk_id, pad_id    ids, or None if the files name none
    adds_bos    whether texts begin with BOS. Those of Llama 2 do. For a byte-level BPE, the post-processor in
                tokenizer.json decides: texts of Llama 3 begin with BOS, and those of SmolLM2 do not

    Added tokens, such as the `<pad>` of a fine-tune, come from all files that declare them, see `AddedTokens`.

    The special ids come from the first file that names them: special_tokens_map.json, tokenizer_config.json, the
    tokenizer file, config.json. `pad_id` is informative only. It may equal the id of `</s>` or `<unk>`, so padding is
    marked by the attention mask and never by an id.
    """

    def __init__(self, folder: Path, kind: str, backend: Backend, added: AddedTokens) -> None:
        self.folder = folder
        self.kind = kind
        self.files = tuple(tokenizer_files(folder))
        self.vocabulary = backend.vocabulary
        self.vocab_size = max(self.vocabulary.pieces, default=-1) + 1
        self._backend = backend
        self._as_transformers5: SentencePieceAsTransformers5 | JsonFile | None = None
        self._config = read_json(folder / "tokenizer_config.json", missing_ok=True)
        self._named_tokens = {role: token.content for role, token in added.named.items()}
        special_tokens = SpecialTokens(folder, added.named, self.vocabulary, backend.special_ids)
        self.bos_id = special_tokens.id_of("bos")
        self.eos_id = special_tokens.id_of("eos")
        self.unk_id = special_tokens.id_of("unk")
        self.pad_id = special_tokens.id_of("pad")
        self.adds_bos = self.bos_id is not None
        if isinstance(backend, JsonFile) and self.vocabulary.byte_level:
            self.adds_bos = self.adds_bos and backend.first_id == self.bos_id

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "demo", revision: str | None = None, kind: str | None = None
    ) -> Tokenizer:
        """Load the tokenizer of a checkpoint.

        source, revision  as in `checkpoint.load.load_model`; weights are not downloaded
        kind              "sentencepiece" uses tokenizer.model, and "json" tokenizer.json. None uses tokenizer.model if
                          it exists, else tokenizer.json. If both exist and encode some Japanese text differently, a
                          warning says so, and tokenizer.json is used, as in transformers

        Raises FileNotFoundError for a missing file. Raises ValueError for a damaged file, and for two files with
        different pieces for one id.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it can be {' or '.join(map(repr, KINDS))}, or None for either")
        folder = tokenizer_home(find_checkpoint(source, revision, weights=False))

        present = [each for each, name in KINDS.items() if has_file(folder / name)]
        if kind is None and len(present) > 1 and is_tiktoken(folder / KINDS["sentencepiece"]):
            present = ["json"]  # Llama 3's two files, of which tokenizer.json is in transformers' format
        if kind is None and not present:
            absent = "neither tokenizer.model nor tokenizer.json is there"
            reason = "its keys hold no vocabulary" if folder.is_file() else absent
            raise FileNotFoundError(f"{folder} has no tokenizer: {reason}{describe_folder(folder)}")
        if kind is not None and kind not in present:
            raise FileNotFoundError(f"{folder} has no {KINDS[kind]}, which kind={kind!r} needs")
        spec = read_json(folder / "tokenizer.json") if "json" in present else {}
        added = AddedTokens.of(folder, spec)
        chosen = kind or present[0]
        backend = open_backend(folder, chosen, added, spec)
        if kind is None and isinstance(backend, SentencePieceFile) and "json" in present:
            json_file = open_backend(folder, "json", added, spec)
            if difference := find_difference(folder, backend, json_file):
                warnings.warn(
                    f"{difference}; tokenizer.json is used, as in transformers (kind='sentencepiece': the other)",
                    stacklevel=2,
                )
                chosen, backend = "json", json_file
        ids = {piece: i for i, piece in backend.vocabulary.pieces.items()}
        for token_id, token in added.declared.items():
            if ids[token.content] != token_id:
                warnings.warn(
                    f"{folder}: the added token {token.content!r} gets the id {ids[token.content]} and not {token_id}, "
                    "because added tokens follow the vocabulary without a gap, as in transformers",
                    stacklevel=2,
                )
        return cls(folder, chosen, backend, added)

    def encode(
        self, text: str, bos: bool | None = None, parse_special: bool = False, *, segmentation: str = "published"
    ) -> list[int]:
        """Encode a text as ids.

        bos            True begins the ids with BOS, unless they begin with it already (`<s>…` with parse_special). None
                       is True for Llama 2's tokenizers, and `adds_bos` for a byte-level BPE
        parse_special  False encodes `<s>` in the text as three characters, so that a user's text cannot end a turn or
                       begin one. True makes it the special token, and encodes each part between two special tokens as a
                       text of its own. Added tokens that are not special are split off in both cases, as in
                       transformers
        segmentation   "published" follows the checkpoint's file, as in ELYZA's training. The others are for comparison:
                       "transformers5" follows `LlamaTokenizer` of transformers 5, which replaces the file's normaliser.
                       It adds a space at the start of the text, not at each part, and only if there is none yet.
                       "whole-string" ignores parse_special, like SentencePiece alone

        Raises ValueError for text with half a surrogate pair, and for bos=True if the tokenizer has no BOS.
        """
        if segmentation not in SEGMENTATIONS:
            raise ValueError(f"segmentation is {segmentation!r}; it can be {', '.join(map(repr, SEGMENTATIONS))}")
        if bos is None:
            bos = self.adds_bos or not self.vocabulary.byte_level
        if bos and self.bos_id is None:
            raise ValueError("this tokenizer has no BOS token; encode with bos=False")
        check_unicode(text)
        backend = self._transformers5() if segmentation == "transformers5" else self._backend
        ids = backend.encode(text, parse_special and segmentation != "whole-string")
        if bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
            ids.insert(0, self.bos_id)
        return ids

    @cached_property
    def chat_templates(self) -> dict[str, ChatTemplate]:
        """The checkpoint's chat templates by name; nothing for a base model. See `find_chat_templates`."""
        return find_chat_templates(self.folder)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The checkpoint's default chat template; None for a base model.

        Raises ValueError for several templates of which none is the default.
        """
        return choose_template(self.chat_templates)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        template: str | None = None,
    ) -> list[int]:
        """The ids of a conversation, by the checkpoint's chat template, or by ELYZA's if it has none.

        messages               `{"role": "system", "user" or "assistant", "content": "…"}`, oldest first
        add_generation_prompt  whether the template adds what comes before an answer, if it distinguishes the two
        variables              further variables of the template, such as tools
        template               a name in `chat_templates`; None is "tool_use" for a conversation with tools, if there is
                               one, else "default"

        The ids equal those of transformers' `apply_chat_template(…, sanitize_control_tokens=True)`, with the tokenizer
        as its file is written: the name of a control token in a message is text, so that a message cannot end a turn or
        begin one. Control tokens are the special tokens and the added tokens that the template writes. Other added
        tokens are split off from every text, as in `encode`.

        Raises ValueError for messages that are no conversation, for a template that fails or refuses them, and for a
        name that the checkpoint has no template of.
        """
        chosen, given = self._chat_settings(add_generation_prompt, variables, template)
        if self._config.get("split_special_tokens"):  # as in transformers, the names of special tokens are then text
            return self.encode(render(chosen, messages, {}, given)[0], bos=False)
        control = self._control_tokens(chosen)
        text, spellings = render(chosen, messages, control, given)
        check_unicode(text)
        if spellings == control:
            return self._backend.encode(text, parse_special=True)
        return self._backend.encode_spelled(text, spellings)

    def chat_text(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        template: str | None = None,
    ) -> str:
        """The text of a conversation, which `apply_chat_template(…, tokenize=False)` returns. Arguments as in `chat`.

        Whoever encodes it parses control tokens, those in messages included; the ids of `chat` are safe from that.
        """
        chosen, given = self._chat_settings(add_generation_prompt, variables, template)
        return render(chosen, messages, {}, given)[0]

    def _chat_settings(
        self, add_generation_prompt: bool, variables: Mapping[str, Any] | None, template: str | None
    ) -> tuple[ChatTemplate, dict[str, Any]]:
        """The template of a conversation and its variables."""
        ids = {role: getattr(self, f"{role}_id") for role in ("bos", "eos", "unk", "pad")}
        given: dict[str, Any] = self._named_tokens | {
            f"{role}_token": self.vocabulary.piece(i) for role, i in ids.items() if i is not None
        }
        given |= {"add_generation_prompt": add_generation_prompt} | dict(variables or {})
        return choose_template(self.chat_templates, template, given.get("tools") is not None) or elyza_template(), given

    def _control_tokens(self, template: ChatTemplate) -> dict[str, int]:
        """The tokens by name that only a template writes: special tokens, and added tokens in the template's text.

        `chat_control_tokens` in tokenizer_config.json lists the added tokens in place of the template's text.
        """
        vocabulary, listed = self.vocabulary, self._config.get("chat_control_tokens")
        if not isinstance(listed, list | None):
            file = self.folder / "tokenizer_config.json"
            raise ValueError(f"{file}: chat_control_tokens is {listed!r}, but it has to be a list of tokens")
        added = {vocabulary.pieces[i]: i for i in vocabulary.added}
        if listed is None:
            text = literal_text(template)
            listed = [name for name in added if name in text and not name.isspace()]
        return {name: i for name, i in added.items() if i in vocabulary.special or name in listed}

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Decode ids to text. With `skip_special=False`, special tokens appear by name.

        The result of a byte-level BPE is that of tokenizers for all ids. For Llama 2's tokenizers, the result equals
        both libraries' wherever they agree, which includes the ids of every encoded text. They differ in three cases:

        bytes that are not UTF-8   each becomes one U+FFFD, and whole characters around it remain, as in sentencepiece.
                                   In tokenizers one bad byte also replaces its neighbours, so no character would be
                                   certain before the next token
        special tokens             `<unk>` is left out like the others, as in tokenizers; sentencepiece shows ` ⁇ `.
                                   tokenizers shows one with the flag `normalized` whose name the normaliser changes
        leading space              the space that encoding added is removed once, from whichever token begins the text,
                                   as in tokenizers; sentencepiece does not remove a space that is a byte token

        An id without a piece is left out, as in transformers: the padding rows of a model's embedding can produce one.

        Raises ValueError for a negative id.
        """
        stream = self.stream(skip_special)
        return "".join([stream.push(token_id) for token_id in ids]) + stream.finish()

    def stream(self, skip_special: bool = True) -> TextStream:
        """A decoder for ids that arrive one at a time. See `TextStream`."""
        return TextStream(self.vocabulary, skip_special)

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """The pieces of ids, for display: `▁` is a space, `<0xE3>` is a byte.

        They have the spelling of the file, except for a byte-level BPE, which spells every byte of Japanese as a letter
        of its own: those of `vocabulary.pieces`. An id without a piece has "", so that the list stays as long as `ids`.
        """
        return [self.vocabulary.display(token_id) for token_id in ids]

    def save_pretrained(self, folder: str | Path) -> None:
        """Copy the tokenizer files, byte for byte, and the chat templates to a folder, which is created if needed.

        Other tokenizer files in that folder are removed, because they would make it another tokenizer.
        """
        copy_tokenizer(self.folder, Path(folder))

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


def open_backend(folder: Path, kind: str, added: AddedTokens, spec: dict[str, Any]) -> Backend:
    """Open the tokenizer file of a kind in a folder. `spec` is the content of tokenizer.json."""
    file = folder / KINDS[kind]
    return SentencePieceFile(file, added) if kind == "sentencepiece" else JsonFile(file, added, spec)


def find_difference(folder: Path, model_file: SentencePieceFile, json_file: Backend) -> str | None:
    """The first difference between a tokenizer.model and a tokenizer.json, as a sentence; None if they agree.

    The check compares all pieces. It encodes PROBES, the newest pieces (which an extended vocabulary has added), and a
    text with each added token.

    Raises ValueError if an id has a piece in each file, and the two differ. Then one file belongs to another model.
    """
    names = f"{folder}: tokenizer.model and tokenizer.json"
    model_pieces, json_pieces = model_file.vocabulary.pieces, json_file.vocabulary.pieces
    for i, piece in model_file.base_pieces.items():
        if piece != json_pieces.get(i, piece):
            raise ValueError(
                f"{names} do not belong together: id {i} is {piece!r} in one and {json_pieces[i]!r} in the other; "
                'remove the wrong one, or choose with kind="sentencepiece" or kind="json"'
            )
    if model_pieces != json_pieces:
        return f"{names} differ: one has {len(model_pieces):,} pieces, and the other {len(json_pieces):,}"
    vocabulary = model_file.vocabulary
    pieces = [vocabulary.text(i) for i in sorted(vocabulary.pieces.keys() - vocabulary.byte_values - vocabulary.added)]
    newest = ["".join(pieces[k : k + 64]) for k in range(max(0, len(pieces) - 4096), len(pieces), 64)]
    texts = [(text, False) for text in [*PROBES, *newest]]
    for i in sorted(vocabulary.added | json_file.vocabulary.added):
        texts += [(f"猫 {json_pieces[i]} 犬{json_pieces[i]}a{json_pieces[i]}", parse) for parse in (False, True)]
    for text, parse_special in texts:
        model_ids, json_ids = (file.encode(text, parse_special) for file in (model_file, json_file))
        if (start := first_difference(model_ids, json_ids)) is not None:
            return (
                f"{names} encode {text[:40]!r} differently: from token {start} on, "
                f"{model_ids[start : start + 4]} and {json_ids[start : start + 4]}"
            )
    return None


def check_unicode(text: str) -> None:
    """Raise ValueError, with the position, for a text that UTF-8 cannot represent."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise ValueError(f"character {error.start} of the text is U+{code:04X}, half a surrogate pair") from None
