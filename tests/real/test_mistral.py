"""Mistral's SentencePiece vocabularies, whose bytes begin at id 771 and not at 3. The judge is SentencePiece."""

from __future__ import annotations

import random
import shutil

import pytest
import sentencepiece
from helpers.gguf_files import add_key, finish, gguf, vocabulary_keys
from helpers.reference import SEED
from helpers.tokenizer_files import HARD_TEXTS, TEXT

from llama_jp.evaluation.documents import TEXTS
from llama_jp.text.tokenizer import Tokenizer

FILES = [
    "tokenizer.model.v1",
    "mistral_instruct_tokenizer_240216.model.v2",
    "mistral_instruct_tokenizer_240323.model.v3",
    "mistral_instruct_tokenizer_241114.model.v7",
    "mistral_instruct_tokenizer_241114.model.v7m1",
]


@pytest.fixture(scope="module", params=FILES)
def tokenizers(request, mistral_data, tmp_path_factory):
    """(SentencePiece, our tokenizer of tokenizer.model, and of the tokenizer.json that we write for a GGUF file)"""
    folder = tmp_path_factory.mktemp("mistral")
    shutil.copyfile(mistral_data / request.param, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text("{}")
    writer = gguf.GGUFWriter(folder / "v.gguf", "llama")
    for key, value in vocabulary_keys(folder).items():
        add_key(writer, key, value)
    finish(writer, folder / "v.gguf")
    Tokenizer.from_pretrained(folder / "v.gguf").save_pretrained(folder / "copy")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return processor, Tokenizer.from_pretrained(folder), Tokenizer.from_pretrained(folder / "copy", kind="json")


def japanese_texts(count: int) -> list[str]:
    """Parts of Japanese prose, with rare characters, spaces and line ends between them."""
    rng = random.Random(SEED)
    prose = TEXT + (TEXTS / "prose.ja.txt").read_text(encoding="utf-8")
    rare = ["𠮷", "鱻", "😀", "  ", "\n", "　", "ｱ", "１", "\ufffd", "が", " a", "[INST]", "▁", "<0xE3>"]
    texts = []
    for _ in range(count):
        start = rng.randrange(len(prose))
        texts.append(prose[start : start + rng.randrange(40)] + rng.choice(rare) + prose[: rng.randrange(6)])
    return texts


def check(tokenizers, count):
    processor, *ours = tokenizers
    for text in [*HARD_TEXTS, *japanese_texts(count)]:
        ids = processor.encode(text)
        for tokenizer in ours:
            assert tokenizer.encode(text, bos=False) == ids, (tokenizer, text)
            assert tokenizer.decode(ids) == processor.decode(ids).replace("▁", " "), (tokenizer, text)


def test_ids_equal_sentencepiece(tokenizers):
    """Guards against bytes by arithmetic (id - 3), and against merges in the order of ids."""
    check(tokenizers, 2000)
    assert tokenizers[1].vocabulary.byte_values == tokenizers[2].vocabulary.byte_values


@pytest.mark.slow
def test_ids_of_many_texts_equal_sentencepiece(tokenizers):
    check(tokenizers, 100_000)
