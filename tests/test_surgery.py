"""Vocabulary and layers changed in place: the numbers, the checkpoint afterwards, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.reference import SMALL, save_random, theirs

from llama_jp import Llama, quantize
from llama_jp.checkpoint.load import load_model
from llama_jp.linear.fused import FusedLinear, FusedSlice
from llama_jp.linear.kernels import LinearKernel
from llama_jp.linear.weight import Weight
from llama_jp.surgery import drop_layers, merge_layers, resize_vocabulary

IDS = torch.randint(3, 90, (2, 11), generator=torch.Generator().manual_seed(1))


def model_of(tmp_path, dtype="float32", **config) -> Llama:
    return load_model(save_random(tmp_path / "original", 3, torch.float32, **SMALL | config), dtype=dtype)


@torch.no_grad()
def saved(model: Llama, tmp_path) -> dict:
    """The config.json of the model, after a check that both libraries load equal logits from the checkpoint."""
    model.save_pretrained(tmp_path / "out")
    expected = model(IDS)
    dtype = expected.dtype
    assert torch.equal(load_model(tmp_path / "out", dtype=dtype)(IDS), expected)
    assert torch.equal(theirs(tmp_path / "out", dtype)(IDS).logits, expected)
    return json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_new_rows_are_the_mean_and_old_rows_stay(tmp_path, tied, dtype):
    """Guards against rows of zeros, a head that is left behind, and matrices that come apart."""
    model = model_of(tmp_path, dtype, tie_word_embeddings=tied)
    embedding, head, config = model.embed_tokens.weight, model.lm_head.weight, model.config
    with torch.no_grad():
        before = model(IDS)
    resize_vocabulary(model, 103)
    for old, new in ((embedding, model.embed_tokens.weight), (head, model.lm_head.weight)):
        assert new.shape == (103, 24) and new.dtype == old.dtype and torch.equal(new[:96], old)
        assert torch.equal(new[96:], old.float().mean(0).to(old.dtype).expand(7, -1))
    assert (model.lm_head.weight is model.embed_tokens.weight) == tied
    assert config.vocab_size == 96 and not model.training and model.lm_head.weight.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(model(IDS)[..., :96], before, atol=1e-6 if dtype == "float32" else 0.05, rtol=0)
    raw = saved(model, tmp_path)
    assert raw["vocab_size"] == 103 and raw["model_type"] == "llama" and raw["tie_word_embeddings"] == tied
    model.train()(IDS).sum().backward()
    assert model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("vocab_size", [20, 200])
def test_transformers_gives_the_same_rows(tmp_path, tied, vocab_size):
    """Fewer rows than features have a singular covariance: transformers then adds no noise, and the bits are equal."""
    ours = model_of(tmp_path, vocab_size=vocab_size, tie_word_embeddings=tied)
    reference = theirs(tmp_path / "original", torch.float32)
    resize_vocabulary(ours, vocab_size + 9)
    reference.resize_token_embeddings(vocab_size + 9, mean_resizing=True)
    for mine, other in (
        (ours.embed_tokens.weight, reference.get_input_embeddings().weight),
        (ours.lm_head.weight, reference.get_output_embeddings().weight),
    ):
        assert torch.equal(mine[:vocab_size], other[:vocab_size])
        if vocab_size < 24:
            assert torch.equal(mine, other)
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)  # noise: 3e-5 times a row


def test_the_vocabulary_of_the_published_fast_model_fits_the_demo(tmp_path):
    model = load_model("demo", dtype="float32")
    resize_vocabulary(model, 45043)
    with torch.no_grad():
        assert model(IDS).shape == (2, 11, 45043)
    resize_vocabulary(model, 3072)
    original = load_model("demo", dtype="float32")
    assert torch.equal(model.lm_head.weight, original.lm_head.weight) and model.config == original.config


def test_a_pad_id_has_a_row_without_gradient_only_where_there_is_a_row(tmp_path):
    """Guards against a checkpoint whose embedding is not the one that a loader builds."""
    model = model_of(tmp_path)
    model.config.pad_token_id = 99
    resize_vocabulary(model, 98)
    assert model.embed_tokens.padding_idx is None
    resize_vocabulary(model, 104)
    assert model.embed_tokens.padding_idx == 99
    model.save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="pad_token_id 99 has no row in a vocabulary of 99; choose at least 100"):
        resize_vocabulary(model, 99)


def test_dropped_layers_leave_a_plain_model(tmp_path):
    """Guards against a config.json that names layers that are gone."""
    model = model_of(tmp_path, num_hidden_layers=5)
    kept = [model.layers[i] for i in (0, 2, 3)]
    drop_layers(model, [1, -1])
    assert list(model.layers) == kept and not model.training
    assert saved(model, tmp_path)["num_hidden_layers"] == 3
    with pytest.raises(ValueError, match="there is no layer 3; the model has layers 0 to 2"):
        drop_layers(model, [0, 3])
    with pytest.raises(ValueError, match="all 3 layers would be removed; keep at least one"):
        drop_layers(model, range(3))
    assert list(model.layers) == kept, "a refused call changes nothing"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merged_layers_have_the_mean_of_their_weights(tmp_path, dtype):
    """Guards against a mean that rounds twice, and against a layer that keeps its old weights."""
    model = model_of(tmp_path, dtype, num_hidden_layers=4, attention_bias=True)
    first, second = ({name: x.float().clone() for name, x in model.layers[i].state_dict().items()} for i in (1, 2))
    others = model.layers[0], model.layers[3]
    merge_layers(model, -3)
    assert (model.layers[0], model.layers[2]) == others and model.config.num_hidden_layers == 3
    for name, parameter in model.layers[1].named_parameters():
        assert (
            torch.equal(parameter, ((first[name] + second[name]) / 2).to(parameter.dtype)) and parameter.requires_grad
        )
    assert saved(model, tmp_path)["num_hidden_layers"] == 3
    with pytest.raises(
        ValueError, match="layer 2 is the last one, and a layer is merged with the next; name an earlier layer"
    ):
        merge_layers(model, 2)
    model.layers[1].mlp.up_proj = torch.nn.Linear(24, 41, bias=False)
    with pytest.raises(ValueError, match="layers 0 and 1 have weights of other names or shapes"):
        merge_layers(model, 0)


def test_models_of_another_form_are_refused(tmp_path):
    """Guards against a head that keeps its old rows, and against means of packed integers."""
    model = model_of(tmp_path)
    with pytest.warns(UserWarning, match="no certificate"):
        quantize(tmp_path / "original", tmp_path / "int8")
    quantized = load_model(tmp_path / "int8", dtype="float32")
    with pytest.raises(ValueError, match="are Embedding and QuantizedLinear, where Embedding and Linear are needed"):
        resize_vocabulary(quantized, 4000)
    with pytest.raises(
        ValueError, match=r"self_attn.q_proj\.\w+ is no plain parameter; merge before the model is quant"
    ):
        merge_layers(quantized, 0)
    drop_layers(quantized, [1])  # whole layers can go
    quantized.save_pretrained(tmp_path / "out")
    assert torch.equal(load_model(tmp_path / "out", dtype="float32")(IDS), quantized(IDS))

    model.layers[1].mlp.up_proj = FusedSlice(
        FusedLinear(LinearKernel(Weight(model.layers[1].mlp.up_proj.weight)), [40]), 0
    )
    with pytest.raises(
        ValueError, match="mlp.up_proj.weight is no plain parameter; merge before the model is quantised"
    ):
        merge_layers(model, 1)
    with pytest.raises(ValueError, match="a vocabulary has at least 1 id, not 0"):
        resize_vocabulary(model, 0)
    with pytest.raises(ValueError, match="bos_token_id 1 has no row in a vocabulary of 1; choose at least 2"):
        resize_vocabulary(model, 1)
    assert model.config.vocab_size == 96 and len(model.layers) == 3
