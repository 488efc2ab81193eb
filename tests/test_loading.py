"""A model together with its tokenizer."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil

import pytest
import torch
from helpers.checkpoint_files import ELYZA
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.config import parse_config, read_config
from llama_jp.checkpoint.load import load_model
from llama_jp.loading import find_mismatch


@pytest.fixture
def folder(small, tmp_path):
    """The small checkpoint with a tokenizer."""
    return llama_folder(shutil.copytree(small, tmp_path / "model"))


def test_every_loader_has_the_same_arguments():
    """Guards against an argument, or a default, that one of the three loaders lacks."""
    expected = inspect.signature(load_model).parameters.copy()
    expected.pop("model_class")
    assert dict(inspect.signature(llama_jp.Llama.from_pretrained).parameters) == dict(expected)
    both = dict(inspect.signature(llama_jp.load).parameters)
    assert both.pop("tokenizer").default is None, "the one argument that is not the model's"
    assert both == dict(expected)


@pytest.mark.filterwarnings("ignore:.*do not belong together")
def test_every_argument_arrives(folder):
    """Guards against an argument that `load` accepts and drops."""
    calls = []

    def rope(positions):
        calls.append("rope")
        ones = torch.ones(*positions.shape, 8)
        return ones, ones

    def norm(x, weight, eps):
        calls.append("norm")
        return x

    def attention(q, k, v, mask):
        calls.append("attention")
        return q

    model, tokenizer = llama_jp.load(folder, torch.float64, "cpu", None, attention, rope, norm)
    with torch.no_grad():
        assert model(torch.tensor([tokenizer.encode("a")])[:, :1]).dtype == torch.float64
    assert set(calls) == {"rope", "norm", "attention"}


def test_the_tokenizer_is_loaded_before_the_weights(folder, monkeypatch):
    """Guards against loading 13 GB of weights before a damaged tokenizer is reported."""
    monkeypatch.setattr(
        "llama_jp.checkpoint.load.load_model", lambda *_, **__: pytest.fail("the weights were loaded first")
    )
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"tokenizer\.model is damaged"):
        llama_jp.load(folder)


def test_a_tokenizer_of_another_model_is_reported(folder, tmp_path):
    """Guards against "an id outside the vocabulary" in the middle of work, without the reason."""
    sentence = "do not belong together: the tokenizer has 560 pieces, and the model only 96 rows in its embedding"
    with pytest.warns(UserWarning, match=f"{folder}: .*{sentence}") as caught:
        llama_jp.load(folder, dtype="float32", device="cpu")
    assert len(caught) == 1 and caught[0].filename == __file__


def test_an_added_token_without_a_row_is_no_mismatch():
    """Guards against a warning for each fine-tune that names a pad token, and against none for a BOS without a row."""
    config = read_config(llama_jp.Tokenizer.from_pretrained("demo").folder)
    tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
    assert find_mismatch(tokenizer, config) is None
    assert find_mismatch(tokenizer, dataclasses.replace(config, vocab_size=4096)) is None
    assert "the tokenizer has 3,072 pieces, and the model only 3,071" in str(
        find_mismatch(tokenizer, dataclasses.replace(config, vocab_size=3071))
    )


@pytest.mark.parametrize(("role", "sentence"), [("pad_token", None), ("bos_token", "begins each text with the id 560")])
def test_a_named_token_without_a_row(tmp_path, role, sentence):
    """Guards against a warning for a pad token, which nothing uses, and against none for BOS, which every text has."""
    folder = llama_folder(tmp_path)
    (folder / "special_tokens_map.json").write_text(json.dumps({role: "[NEW]"}))
    tokenizer = llama_jp.Tokenizer.from_pretrained(folder)
    assert tokenizer.vocab_size == 561
    problem = find_mismatch(tokenizer, dataclasses.replace(parse_config(ELYZA), vocab_size=560))
    assert problem is None if sentence is None else sentence in str(problem)
