"""`quantize`: the files that it writes, and the inputs that it refuses."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from helpers.quantized import INT4, NO_TOKENIZER, SHAPE, rewrite_tensors
from helpers.reference import publish, save_random
from helpers.training import save_tiny

from llama_jp.checkpoint.load import load_model
from llama_jp.linear.layer import QuantizedLinear
from llama_jp.quantization.certificate import verify
from llama_jp.quantization.convert import quantize, split_into_shards


@NO_TOKENIZER
def test_bin_shards_give_the_same_file(quantizable, tmp_path):
    quantize(quantizable, tmp_path / "a", **INT4)
    quantize(publish(quantizable, tmp_path / "published"), tmp_path / "b", **INT4)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert first == second


@NO_TOKENIZER
def test_shards_are_full_and_change_nothing(quantizable, tmp_path):
    quantize(quantizable, tmp_path / "one")
    quantize(quantizable, tmp_path / "many", max_shard_bytes=20_000)
    files = sorted((tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 3 and all(file.stat().st_size < 30_000 for file in files)
    ids = torch.arange(2, 32)[None]
    one, many = (load_model(tmp_path / name, dtype="float32")(ids) for name in ("one", "many"))
    assert torch.equal(one, many)
    assert split_into_shards({"a": 5, "b": 5, "c": 11, "d": 1}, 10) == [["a", "b"], ["c"], ["d"]]


@NO_TOKENIZER
def test_a_tied_head_is_not_quantised(tmp_path):
    folder = save_random(tmp_path / "tied", 32, tie_word_embeddings=True, **SHAPE)
    quantize(folder, tmp_path / "out")
    model = load_model(tmp_path / "out")
    assert model.lm_head.weight is model.embed_tokens.weight
    assert isinstance(model.layers[0].mlp.up_proj, QuantizedLinear)
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "lm_head" in raw["quantization_config"]["left_alone"]


@NO_TOKENIZER
def test_a_failure_half_way_leaves_no_files(quantizable, tmp_path):
    folder = shutil.copytree(quantizable, tmp_path / "damaged")
    rewrite_tensors(folder, lambda t: t["model.layers.1.mlp.down_proj.weight"].fill_(float("inf")))
    with pytest.raises(ValueError, match="layers.1.mlp.down_proj.weight has values that are not finite"):
        quantize(folder, tmp_path / "out", max_shard_bytes=1000)
    assert [file.name for file in tmp_path.iterdir()] == ["damaged"]


def test_bits_are_4_or_8():
    with pytest.raises(ValueError, match="bits is 4 or 8, not 3"):
        quantize("demo", "nowhere", bits=3)


def test_without_a_tokenizer_there_is_no_certificate(quantizable, tmp_path):
    with pytest.warns(UserWarning, match="no tokenizer in .*, so no certificate is written"):
        assert quantize(quantizable, tmp_path / "out") is None
    with pytest.raises(FileNotFoundError, match=r"there is no certificate.json in .*quantised without a tokenizer"):
        verify(tmp_path / "out", quantizable)


def test_another_tokenizer(tmp_path):
    """Guards against a result without the tokenizer that it was given, and without a certificate."""
    bare = save_tiny(tmp_path / "bare")
    for file in bare.glob("*token*"):
        file.unlink()
    certificate = quantize(bare, tmp_path / "out", tokenizer="demo")
    assert certificate is not None and (tmp_path / "out" / "tokenizer.model").is_file()
    assert verify(tmp_path / "out", bare).exactly


def test_the_model_of_a_function_is_certified_as_itself(tmp_path):
    """Guards against a certificate for the checkpoint that a function started from, and for a changed model."""
    certificate = quantize("helpers.changed_models:make_half", tmp_path / "out", **INT4)
    assert certificate is not None and certificate["original"]["source"] is None
    load_model("helpers.changed_models:make_half").save_pretrained(tmp_path / "original")
    assert verify(tmp_path / "out", tmp_path / "original").exactly
    with pytest.raises(ValueError, match="another sha256 for config.json, model.safetensors"):
        verify(tmp_path / "out", "demo")
    with pytest.raises(
        ValueError, match="make_changed returns a changed model .*attend_window.*, and only a plain Llama"
    ):
        quantize("helpers.changed_models:make_changed", tmp_path / "no", **INT4)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["original", "out"]
