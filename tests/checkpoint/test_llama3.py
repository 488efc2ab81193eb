"""Checkpoints of Llama 3: byte-level BPE, rope_type llama3, tied or not, several EOS ids, no pad token, bfloat16."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from helpers.byte_level import byte_level_folder, gguf_keys
from helpers.gguf_files import write_gguf
from helpers.reference import DTYPES, SEED, both, first_difference, save_random

import llama_jp
from llama_jp.checkpoint.config import read_config
from llama_jp.cli.info import inspect_checkpoint
from llama_jp.text.tokenizer import Tokenizer

MESSAGES = [{"role": "user", "content": "猫と魚の話を書いて。"}]
BOS, END_OF_TEXT, END_OF_TURN = 602, 603, 606  # in the vocabulary of the tests


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    """A checkpoint with the files and keys of Llama-3.2-1B-Instruct (tied) or Llama-3-ELYZA-JP-8B (untied)."""
    folder = tmp_path_factory.mktemp("llama3")
    save_random(
        folder,
        seed=1,
        dtype=torch.bfloat16,
        vocab_size=612,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=16,
        rms_norm_eps=1e-5,
        max_position_embeddings=256,
        tie_word_embeddings=request.param,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    )
    config = json.loads((folder / "config.json").read_text())
    ends = {"bos_token_id": BOS, "eos_token_id": [END_OF_TEXT, END_OF_TURN], "pad_token_id": None}
    (folder / "config.json").write_text(json.dumps(config | ends))
    generation = {"bos_token_id": BOS, "eos_token_id": [END_OF_TEXT, END_OF_TURN]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return byte_level_folder(folder, "llama-bpe")


@pytest.mark.parametrize("dtype", DTYPES)
def test_logits_are_bit_identical(folder, dtype):
    """Guards against a rope without its scaling, and an untied head."""
    assert first_difference(*both(folder, dtype), SEED) is None


def test_model_and_tokenizer_belong_together(folder):
    """Guards against a warning for the vocabulary, one EOS in the place of several, and an invented pad token."""
    model, tokenizer = llama_jp.load(folder, dtype="stored", device="cpu")
    assert next(model.parameters()).dtype == torch.bfloat16
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (BOS, END_OF_TURN, None)
    assert llama_jp.Options.resolve(model, None, {}).eos == [END_OF_TEXT, END_OF_TURN]
    found = inspect_checkpoint(folder)
    assert found.tokenizer is not None and found.tokenizer.mismatch is None and found.tokenizer.byte_level


@pytest.mark.parametrize("end", [END_OF_TEXT, END_OF_TURN])
def test_answers_equal_transformers_and_end_with_either_eos(folder, end):
    """Guards against an answer that goes on after <|eot_id|>."""
    model, tokenizer = llama_jp.load(folder, dtype="float32", device="cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.chat(MESSAGES)
    plain = llama_jp.generate(model, [prompt], max_new_tokens=12)[0].ids
    ids = torch.tensor([prompt])
    generated = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    assert plain == generated[0, len(prompt) :].tolist()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(612))
    model.lm_head.bias.data[end] = 1e4  # the next token is this one
    answer = llama_jp.generate(model, [prompt], max_new_tokens=12)[0]
    assert answer.ids == [end] and answer.finish_reason == "eos"


def test_a_saved_model_is_the_same(folder, tmp_path):
    """Guards against a copy without tokenizer.json, its template, several EOS ids or the scaling of the rope."""
    model, tokenizer = llama_jp.load(folder, dtype="stored", device="cpu")
    model.save_pretrained(tmp_path / "copy")
    copy, copied = llama_jp.load(tmp_path / "copy", dtype="stored", device="cpu")
    prompt = tokenizer.chat(MESSAGES)
    assert copied.chat(MESSAGES) == prompt
    ids = torch.tensor([prompt])
    assert torch.equal(copy(ids), model(ids))
    assert copy.generation_config["eos_token_id"] == [END_OF_TEXT, END_OF_TURN]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy", dtype=torch.bfloat16)
    assert torch.equal(theirs(ids).logits, model(ids))


def test_streamed_text_is_whole(folder):
    """Guards against half a character in the text of an answer of random bytes."""
    model, tokenizer = llama_jp.load(folder, dtype="float32", device="cpu")
    options = {"max_new_tokens": 60, "do_sample": True, "temperature": 3.0, "seed": 3}
    pieces = [*llama_jp.stream_text(model, tokenizer, tokenizer.chat(MESSAGES), **options)]
    answer = llama_jp.generate(model, [tokenizer.chat(MESSAGES)], **options)[0]
    assert "".join(pieces) == tokenizer.decode(answer.ids)


def test_the_same_from_gguf(folder, tmp_path):
    """Guards against another prompt from a GGUF file, and an answer that goes on: the file names one EOS."""
    keys = gguf_keys(folder, "llama-bpe") | {"tokenizer.ggml.eos_token_id": END_OF_TEXT}
    file = write_gguf(folder, tmp_path / "model.gguf", keys=keys)
    _, tokenizer = llama_jp.load(file, device="cpu")
    assert tokenizer.chat(MESSAGES) == Tokenizer.from_pretrained(folder).chat(MESSAGES)
    assert tokenizer.encode("犬") == Tokenizer.from_pretrained(folder).encode("犬")
    assert read_config(file).eos_token_id == [END_OF_TEXT, END_OF_TURN]
