"""The ids of BOS, EOS, UNK and PAD, and the precedence of the files that name them."""

from __future__ import annotations

import pytest
import transformers
from helpers.tokenizer_files import llama_json, llama_model, write

from llama_jp.text.tokenizer import Tokenizer


def ids_of(folder, **files):
    tokenizer = Tokenizer.from_pretrained(write(folder, **files))
    return tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id


def test_special_ids_from_one_file_alone(tmp_path, pair):
    """Guards against a required special_tokens_map.json, and against 0 or EOS in place of a missing PAD."""
    assert ids_of(tmp_path / "a", tokenizer_model=llama_model()) == (1, 2, 0, None)
    assert ids_of(tmp_path / "b", tokenizer_json=llama_json(llama_model())) == (1, 2, 0, None)
    assert ids_of(tmp_path / "c", tokenizer_model=llama_model(pad_id=3)) == (1, 2, 0, 3)


@pytest.mark.parametrize(
    ("files", "pad"),
    [
        ({"special_tokens_map_json": {"pad_token": "</s>"}}, 2),
        ({"special_tokens_map_json": {"pad_token": "<unk>"}}, 0),
        ({"special_tokens_map_json": {"pad_token": {"content": "<unk>", "normalized": False}}}, 0),
        ({"special_tokens_map_json": {"pad_token": None}}, None),
        ({"tokenizer_config_json": {"pad_token": "</s>"}}, 2),
        ({"tokenizer_config_json": {"pad_token": None}}, None),
        ({"special_tokens_map_json": {"pad_token": "</s>"}, "tokenizer_config_json": {"pad_token": None}}, 2),
        ({"special_tokens_map_json": {"pad_token": "</s>"}, "tokenizer_config_json": {"pad_token": "<unk>"}}, 2),
        ({"special_tokens_map_json": {"pad_token": "</s>"}, "config_json": {"pad_token_id": 0}}, 2),
        ({"tokenizer_config_json": {"pad_token": None}, "config_json": {"pad_token_id": 0}}, 0),
        ({"config_json": {"pad_token_id": None}}, None),
        ({"config_json": {"pad_token_id": -1}}, None),
        ({"config_json": {"pad_token_id": [5, 7]}}, 5),
    ],
)
def test_pad_follows_the_files(tmp_path, files, pad):
    """Guards against one PAD for all: 7b has </s>, 7b-fast <unk>, both with a null in tokenizer_config.json."""
    assert ids_of(tmp_path / "m", tokenizer_model=llama_model(), **files) == (1, 2, 0, pad)
    assert ids_of(tmp_path / "j", tokenizer_json=llama_json(llama_model()), **files) == (1, 2, 0, pad)


def test_bos_and_eos_follow_the_files(tmp_path):
    """Guards against the constants 1 and 2. Here the files swap them."""
    swapped = {"bos_token": {"__type": "AddedToken", "content": "</s>"}, "eos_token": "<s>"}
    model, spec = llama_model(), llama_json(llama_model())
    assert ids_of(tmp_path / "m", tokenizer_model=model, special_tokens_map_json=swapped)[:2] == (2, 1)
    assert ids_of(tmp_path / "j", tokenizer_json=spec, tokenizer_config_json=swapped)[:2] == (2, 1)
    assert Tokenizer.from_pretrained(tmp_path / "m").encode("犬")[0] == 2


def test_a_special_token_that_is_defined_nowhere_gets_the_next_id(tmp_path):
    """Guards against refusing a fine-tune for its [PAD], and against sentencepiece's 0 for an unknown piece."""
    named = {"pad_token": "[PAD]"}
    assert ids_of(tmp_path / "m", tokenizer_model=llama_model(), special_tokens_map_json=named) == (1, 2, 0, 560)
    folder = write(tmp_path / "j", tokenizer_json=llama_json(llama_model()), special_tokens_map_json=named)
    tokenizer = Tokenizer.from_pretrained(folder)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert (tokenizer.pad_id, tokenizer.vocab_size) == (reference.pad_token_id, len(reference)) == (560, 561)
    assert tokenizer.decode([560]) == "" and tokenizer.encode("[PAD]", bos=False, parse_special=True) == [560]


@pytest.mark.parametrize("decoder", [None, {"3": {"content": "<0x00>"}}])
def test_added_tokens_decoder_replaces_special_tokens_map(tmp_path, decoder):
    """Guards against another PAD than in transformers, where the newer key makes the older file count for nothing."""
    config = {"pad_token": "<unk>"} | ({"added_tokens_decoder": decoder} if decoder else {})
    files = {"tokenizer_config_json": config, "special_tokens_map_json": {"pad_token": "</s>"}}
    folder = write(tmp_path, tokenizer_json=llama_json(llama_model()), **files)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert Tokenizer.from_pretrained(folder).pad_id == reference.pad_token_id == (0 if decoder else 2)


def test_a_tokenizer_without_bos_encodes_only_with_bos_false(tmp_path):
    """Guards against None among the ids."""
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, tokenizer_model=llama_model(bos_id=-1)))
    assert tokenizer.bos_id is None
    assert tokenizer.decode(tokenizer.encode("犬", bos=False)) == "犬"
    with pytest.raises(ValueError, match="no BOS token; encode with bos=False"):
        tokenizer.encode("犬")
