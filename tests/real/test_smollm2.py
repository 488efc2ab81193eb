"""SmolLM2-135M-Instruct, from its GGUF file. The judge is transformers with the numbers that gguf-py decodes."""

from __future__ import annotations

import copy
import json
import random

import pytest
import torch
import transformers
from helpers.byte_level import CHUNKS
from helpers.gguf_files import reference
from helpers.reference import DTYPES, SEED, positions_of

import llama_jp
from llama_jp.bridge import CACHE
from llama_jp.checkpoint.load import load_model
from llama_jp.evaluation.published_answers import compare_with_answer
from llama_jp.text.tokenizer import Tokenizer

# config.json of HuggingFaceTB/SmolLM2-135M-Instruct, as far as it decides the logits
CONFIG = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0},
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
QUESTIONS = ["What is the capital of Japan?", "日本の首都はどこですか。🐈"]
IDS = torch.tensor([[1, 4093, 198, 10391, 237, 41152, 7365, 111, 7365, 124, 27709, 228, 122, 2, 198, 1]])


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def pair(request, smollm2_file, theirs):
    """Both models in one dtype. transformers keeps the frequencies of the rope in float32, whatever the dtype is."""
    their = copy.deepcopy(theirs).to(request.param)
    their.model.rotary_emb = theirs.model.rotary_emb
    return load_model(smollm2_file, dtype=request.param, device="cpu"), their


@pytest.fixture(scope="module")
def theirs(smollm2_file, tmp_path_factory):
    """transformers' model in float32."""
    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return reference(folder, smollm2_file)


@pytest.fixture(scope="module")
def tokenizers(smollm2_file, tmp_path_factory):
    """Our tokenizer of the file, and transformers' of the folder that it saves."""
    ours = Tokenizer.from_pretrained(smollm2_file)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save_pretrained(folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


@torch.inference_mode()
def test_logits_in_five_modes(pair):
    """Guards against dequantised weights, grouped heads, a tied head or a rope that are not those of the file.

    The modes: the whole text, steps, chunks, a left-padded batch, and new tokens after a cache was cropped.
    """
    ours, theirs = pair
    assert torch.equal(ours(IDS), theirs(IDS).logits), "whole"

    for name, lengths in (("steps", [12, 1, 1, 1, 1]), ("chunks", [3, 6, 7])):
        cache, past = ours.new_cache(1, 16), transformers.DynamicCache(config=theirs.config)
        for chunk in IDS.split(lengths, dim=1):
            expected = theirs(chunk, **{CACHE: past}, use_cache=True).logits
            assert torch.equal(ours(chunk, cache), expected), name

    cache.crop(9)
    past.crop(9 - 16)
    new = IDS[:, :3]
    assert torch.equal(ours(new, cache), theirs(new, **{CACHE: past}, use_cache=True).logits), "crop"

    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, :5] = 0
    rows = IDS.repeat(2, 1)
    expected = theirs(rows, attention_mask=mask, position_ids=positions_of(mask)).logits
    visible = mask.bool()
    assert torch.equal(ours(rows, mask=mask)[visible], expected[visible]), "padded batch"


def test_greedy_answers_token_for_token(smollm2_file, tokenizers, theirs):
    """Guards against another prompt, another end of the answer, and text that differs."""
    model, (tokenizer, reference_tokenizer) = load_model(smollm2_file, dtype="float32", device="cpu"), tokenizers
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = tokenizer.chat(messages)
        ids = reference_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        assert ids["input_ids"][0].tolist() == prompt
        expected = theirs.generate(**ids, max_new_tokens=16, do_sample=False)[0, len(prompt) :].tolist()
        assert llama_jp.generate(model, [prompt], max_new_tokens=16)[0].ids == expected
    text = "".join(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=16))
    assert text == reference_tokenizer.decode(expected, skip_special_tokens=True)

    prompt = tokenizer.chat([{"role": "user", "content": QUESTIONS[0]}])
    assert compare_with_answer(model, tokenizer, prompt, "The capital of Japan is Tokyo.", max_new_tokens=16) is None


def test_ids_and_text_equal_transformers(tokenizers):
    """Guards against a split into words without single digits, and against bytes without a token."""
    check_texts(tokenizers, 500)


@pytest.mark.slow
def test_ids_and_text_equal_transformers_on_many_texts(tokenizers):
    check_texts(tokenizers, 100_000)


def check_texts(tokenizers, count):
    ours, theirs = tokenizers
    rng = random.Random(SEED)
    for _ in range(count):
        text = "".join(rng.choices(CHUNKS, k=rng.randrange(1, 12)))
        ids = theirs(text).input_ids
        assert ours.encode(text, parse_special=True) == ids
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids)
        ids = [rng.randrange(ours.vocab_size) for _ in range(8)]
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_ids_equal_llama_cpp(smollm2_file, tokenizers):
    """Guards against one misreading of the keys, here and in transformers' tokenizer of our files: another program."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = llama_cpp.Llama(str(smollm2_file), vocab_only=True, verbose=False)
    rng = random.Random(SEED)
    for _ in range(500):
        text = "".join(rng.choices(CHUNKS, k=rng.randrange(1, 12)))
        if "\0" not in text:  # the end of a text in C
            assert tokenizers[0].encode(text) == model.tokenize(text.encode("utf-8"), add_bos=False, special=False)
