"""Texts as windows of token ids: the texts of the package, long documents, and a wrong tokenizer."""

from __future__ import annotations

from itertools import islice

import pytest

import llama_jp
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.checkpoint.load import load_model
from llama_jp.evaluation.documents import TEXTS, read_text, scored_text, split_into_windows
from llama_jp.training.losses import IGNORE


def test_the_texts_are_reproducible(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(demo_folder()))
    import make_texts

    monkeypatch.setattr(make_texts, "TEXTS", tmp_path)
    make_texts.main()
    for file in TEXTS.glob("*.txt"):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_texts_are_tokenized_as_in_the_demos_training(monkeypatch):
    monkeypatch.syspath_prepend(str(demo_folder()))
    import corpus
    import train

    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    held_out = read_text("held-out.ja.txt", tokenizer, load_model("demo").config)
    documents = (turns for turns in corpus.documents("texts", "held-out") if len(turns) == 1)
    for window, turns in zip(held_out.windows, islice(documents, len(held_out.windows)), strict=True):
        ids, labels = train.encode(tokenizer, turns)
        assert window.ids[0].tolist() == ids and window.scored.tolist() == [label != IGNORE for label in labels[1:]]


def test_the_scored_text_has_no_requests_and_no_special_tokens():
    """Bits per byte are those of what the model writes. A request is one only at the beginning of a turn."""
    document = "<s>[INST] 話を書いて [/INST] 犬です。</s><s>[INST] 次 [/INST]猫 [INST] です [/INST] 。</s>"
    assert scored_text(document) == "犬です。猫 [INST] です [/INST] 。"
    assert scored_text("<s>吾輩は猫である。</s>") == "吾輩は猫である。"


def test_long_documents_are_split_into_windows():
    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    whole = tokenizer.encode("クマが海辺に行きました。")
    windows = list(split_into_windows("クマが海辺に行きました。", tokenizer, 4))
    assert sum((window.ids[0, 1:].tolist() for window in windows), []) == whole[1:]
    assert all(window.ids[0, 0] == 1 and window.ids.shape[1] <= 4 and window.scored.all() for window in windows)


def test_a_tokenizer_of_another_model_is_refused(quantizable):
    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    with pytest.raises(
        ValueError, match=r"the tokenizer gives id \d+, but the model has 80 ids; use the tokenizer of this model"
    ):
        read_text("held-out.ja.txt", tokenizer, load_model(quantizable).config)
