"""Both kinds of tokenizer for one vocabulary, the two libraries to compare with, and random texts and ids."""

from __future__ import annotations

import functools
from pathlib import Path

import sentencepiece
import tokenizers
from hypothesis import strategies as st

from helpers.tokenizer_files import TEXT, write
from llama_jp.text.tokenizer import Tokenizer

KINDS = ["sentencepiece", "json"]
REPLACEMENT = "\ufffd"


class TokenizerPair:
    """A folder with both tokenizer files, a `Tokenizer` of each kind, and the two libraries.

    both     the tokenizers `sentencepiece` and `json`
    sp, hf   the SentencePiece and the `tokenizers` library with the same files
    byte_id  byte -> id
    """

    def __init__(self, folder, model=None, spec=None):
        self.folder = folder
        if model is not None:
            write(folder, tokenizer_model=model, tokenizer_json=spec)
        self.sentencepiece = Tokenizer.from_pretrained(folder, kind="sentencepiece")
        self.json = Tokenizer.from_pretrained(folder, kind="json")
        self.both = [self.sentencepiece, self.json]
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vocabulary = self.sentencepiece.vocabulary
        self.byte_id = {byte: i for i, byte in self.vocabulary.byte_values.items()}

    def hf_encode(self, text):
        """The ids of the `tokenizers` library, with special tokens parsed and none added."""
        return self.hf.encode(text, add_special_tokens=False).ids


def unicode_texts():
    """A strategy for mixtures of Unicode text, known pieces, special tokens and unusual spaces."""
    chunks = st.one_of(
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
        st.text(alphabet="aあ犬 　▁\n<s/>\ufffd𠮷", max_size=12),
        st.sampled_from(["<s>", "</s>", "<unk>", "<pad>", "<sep>", "[INST]", "  ", *TEXT.split("。")]),
    )
    return st.lists(chunks, max_size=6).map("".join)


@functools.cache
def id_sequences(pair, whole=False):
    """A strategy for ids: any id, and runs of special tokens, spaces and bytes.

    With `whole`, all bytes belong to whole characters.
    """
    specials = sorted(pair.vocabulary.special)
    spaces = [i for i, piece in pair.vocabulary.pieces.items() if piece.startswith("▁")]
    other = [i for i in pair.vocabulary.pieces if i not in pair.byte_id.values()]
    characters = st.characters(exclude_categories=["Cs"]).map(lambda c: [pair.byte_id[b] for b in c.encode("utf-8")])
    pieces = [
        st.lists(st.sampled_from(other), max_size=3),
        st.lists(st.sampled_from(specials), max_size=2),
        st.lists(st.sampled_from(spaces), max_size=3),
        characters,
    ]
    if not whole:
        lead = [0xE3, 0x81, 0x82, 0xF0, 0x9F, 0x90, 0xED, 0xA0, 0xC0, 0xFF, 0xEF, 0xBF, 0xBD, 0x41, 0x20]
        raw = st.one_of(st.sampled_from(lead), st.integers(0, 255))
        pieces.append(st.lists(raw.map(pair.byte_id.__getitem__), max_size=6))
    return st.lists(st.one_of(pieces), max_size=5).map(lambda parts: [i for part in parts for i in part])


def decode_plainly(data: bytes) -> str:
    """Decode UTF-8 plainly: at each position the character that begins there, or one U+FFFD for one byte."""
    text, position = "", 0
    while position < len(data):
        for size in (1, 2, 3, 4):
            try:
                text += data[position : position + size].decode("utf-8")
                position += size
                break
            except UnicodeDecodeError:
                continue
        else:
            text, position = text + REPLACEMENT, position + 1
    return text


def json_only(pair: TokenizerPair) -> Path:
    """A folder with the tokenizer.json of a pair and no other file."""
    spec = (pair.folder / "tokenizer.json").read_bytes()
    return write(pair.folder / "json_only", tokenizer_json=spec)
