"""The metadata of a GGUF file against a checkpoint. These tests need no llama.cpp."""

from __future__ import annotations

import dataclasses
import shutil

import pytest
from helpers.gguf_files import Type, vocabulary_keys, write_gguf
from helpers.llamacpp_faults import SHAPE
from helpers.reference import save_random

from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.gguf.header import read_header
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.parity.llamacpp.metadata import compare_metadata


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small checkpoint with the demo's vocabulary."""
    folder = save_random(tmp_path_factory.mktemp("folder"), 2, **SHAPE | {"vocab_size": 3072, "num_hidden_layers": 1})
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(demo_folder() / name, folder)
    return folder


@pytest.fixture
def found(folder, tmp_path):
    """A function: keys of a file, keys to drop -> {key: cause} of the findings."""

    def compared(keys=None, drop=(), **expected):
        file = write_gguf(folder, tmp_path / "model.gguf", Type.F16, keys, drop, tokenizer=True)
        there = dataclasses.replace(read_config(folder), **expected)
        return {each.operation: each.cause for each in
                compare_metadata(read_header(file), read_config(file), there, folder)}  # fmt: skip

    return compared


def test_a_right_file_has_no_finding(found):
    """eps is float32 in the file, and EOS may be one of several."""
    assert found() == {}
    assert found(eos_token_id=[7, 2]) == {}


def test_missing_keys_take_the_defaults_of_llama_cpp(found):
    """Guards against the silent defaults of llama.cpp."""
    assert found(drop=("llama.rope.freq_base",), rope_theta=5e5) == {
        "llama.rope.freq_base": "rope_theta is 10000 in the file and 500000 in the checkpoint"
    }
    assert "other ids" in found(drop=("tokenizer.ggml.scores",))["tokenizer.ggml.scores"]
    assert found(drop=("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")) == {}  # the defaults are right


def test_scalings_are_compared_by_their_effect(found):
    """Guards against a finding for two spellings of one rotation, and for none of a real difference."""
    same = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    keys = {f"llama.rope.scaling.{name}": value for name, value in
            {"type": "yarn", "factor": 4.0, "original_context_length": 32}.items()}  # fmt: skip
    assert found(keys, rope_scaling=same | {"beta_fast": 32, "beta_slow": 1}) == {}
    assert found(keys, rope_scaling=same | {"factor": 2.0}).keys() == {"llama.rope.scaling"}
    dynamic = {"rope_type": "dynamic", "factor": 2.0}  # no effect within the context
    assert found(rope_scaling=dynamic) == {}


def test_the_vocabulary_is_compared_piece_by_piece(found):
    keys = vocabulary_keys(demo_folder())
    pieces, scores = list(keys["tokenizer.ggml.tokens"]), list(keys["tokenizer.ggml.scores"])
    pieces[900], scores[700] = "何か", scores[700] - 0.5
    wrong = found({"tokenizer.ggml.tokens": pieces, "tokenizer.ggml.scores": scores})
    assert wrong.keys() == {"tokenizer.ggml.tokens", "tokenizer.ggml.scores"}
    assert (
        "at id 900 in the file" in wrong["tokenizer.ggml.tokens"] and "1 ids differ" in wrong["tokenizer.ggml.tokens"]
    )
    assert found({"tokenizer.ggml.add_bos_token": False}).keys() == {"tokenizer.ggml.add_bos_token"}
    assert (
        found({"tokenizer.ggml.bos_token_id": 5})["tokenizer.ggml.bos_token_id"]
        == "5 in the file and 1 in the checkpoint"
    )
