"""Tokenizers that the text tests share."""

from __future__ import annotations

import pytest
from helpers.tokenizer_files import llama_json, llama_model, real_data
from helpers.tokenizer_pairs import TokenizerPair


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    model = llama_model()
    return TokenizerPair(tmp_path_factory.mktemp("pair"), model, llama_json(model))


@pytest.fixture(scope="session")
def pair_without_prefix(tmp_path_factory):
    model = llama_model(add_dummy_prefix=False)
    return TokenizerPair(
        tmp_path_factory.mktemp("pair_without_prefix"), model, llama_json(model, add_dummy_prefix=False)
    )


@pytest.fixture(scope="session")
def pair_with_pad(tmp_path_factory):
    model = llama_model(pad_id=3, control_symbols=["<sep>"])
    return TokenizerPair(tmp_path_factory.mktemp("pair_with_pad"), model, llama_json(model))


@pytest.fixture(scope="session")
def llama2():
    return TokenizerPair(real_data("llama2-tokenizer"))


@pytest.fixture(scope="session")
def novel():
    return (real_data("text") / "wagahai-wa-neko-de-aru.txt").read_bytes().decode("utf-8")
