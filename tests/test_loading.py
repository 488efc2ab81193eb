"""A model together with its tokenizer."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.load import load_model


@pytest.fixture
def folder(small, tmp_path):
    """The small checkpoint with a tokenizer."""
    return llama_folder(shutil.copytree(small, tmp_path / "model"))


def test_every_loader_has_the_same_arguments():
    """Guards against an argument, or a default, that one of the three loaders lacks."""
    expected = inspect.signature(load_model).parameters.copy()
    expected.pop("model_class")
    for loader in (llama_jp.load, llama_jp.Llama.from_pretrained):
        assert dict(inspect.signature(loader).parameters) == dict(expected)


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
    monkeypatch.setattr("llama_jp.loading.load_model", lambda *_, **__: pytest.fail("the weights were loaded first"))
    (folder / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ValueError, match=r"tokenizer\.model is damaged"):
        llama_jp.load(folder)
