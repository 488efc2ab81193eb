"""Text to ids: both backends against the two libraries, and the rules that come from the tokenizer files."""

from __future__ import annotations

import pytest
import sentencepiece
import tokenizers
from helpers.tokenizer_files import HARD_TEXTS, TEXT, llama_json, llama_model, write
from helpers.tokenizer_pairs import KINDS, TokenizerPair, json_only, unicode_texts
from hypothesis import example, given, settings

from llama_jp.text.tokenizer import Tokenizer


@pytest.mark.parametrize("text", HARD_TEXTS + TEXT.splitlines())
def test_text_is_encoded_as_by_both_libraries(pair, text):
    """Guards against a normaliser such as NFKC, a lost or doubled leading space, stripped line ends, trimmed text."""
    expected = pair.sp.encode(text)
    for tokenizer in pair.both:
        assert tokenizer.encode(text, bos=False) == expected
        assert tokenizer.encode(text) == [1, *expected]


@settings(deadline=None, max_examples=200)
@given(unicode_texts())
def test_both_kinds_encode_any_text_to_the_same_ids(pair, text):
    """Guards against two files of one checkpoint that give different ids, with or without parsed special tokens."""
    first, second = pair.both
    assert first.encode(text) == second.encode(text) == [1, *pair.sp.encode(text)]
    parsed = first.encode(text, bos=False, parse_special=True)
    assert parsed == second.encode(text, bos=False, parse_special=True) == pair.hf_encode(text)


@settings(deadline=None, max_examples=100)
@given(unicode_texts())
def test_both_kinds_agree_without_a_dummy_prefix_and_with_more_special_tokens(pair_without_prefix, pair_with_pad, text):
    """Guards against add_dummy_prefix, or a list of special tokens, that comes from the code and not from the file."""
    for each in (pair_without_prefix, pair_with_pad):
        first, second = each.both
        assert first.encode(text, bos=False) == second.encode(text, bos=False) == each.sp.encode(text)
        parsed = first.encode(text, bos=False, parse_special=True)
        assert parsed == second.encode(text, bos=False, parse_special=True) == each.hf_encode(text)


def test_dummy_prefix_comes_from_the_file(pair, pair_without_prefix):
    """Guards against adding or removing a leading space against the rule in the file."""
    for tokenizer in pair.both:
        ids = tokenizer.encode("犬", bos=False)
        assert "".join(tokenizer.pieces(ids)).startswith("▁")
        assert tokenizer.decode(ids) == "犬"
        assert tokenizer.decode(tokenizer.encode(" 犬")) == " 犬"
    for tokenizer in pair_without_prefix.both:
        ids = tokenizer.encode("犬", bos=False)
        assert not tokenizer.pieces(ids)[0].startswith("▁")
        assert tokenizer.decode(ids) == "犬"
        assert tokenizer.decode(tokenizer.encode(" 犬")) == " 犬"


def test_remove_extra_whitespaces_comes_from_the_file(tmp_path):
    """Guards against Llama's setting for every tokenizer.model: others trim text and remove all leading spaces."""
    folder = write(tmp_path, tokenizer_model=llama_model(remove_extra_whitespaces=True))
    tokenizer = Tokenizer.from_pretrained(folder)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in ["  a  b ", "犬", " "]:
        assert tokenizer.encode(text, bos=False) == sp.encode(text)
        assert tokenizer.decode(sp.encode(text)) == sp.decode(sp.encode(text))
    space = sp.piece_to_id("▁")
    ids = [1, *[space] * 5, *sp.encode("a b")]
    assert tokenizer.decode(ids) == sp.decode(ids) == "a b"


@settings(deadline=None, max_examples=150)
@given(unicode_texts())
@example("<s></s><unk><pad><sep>")
@example("<s><s></s></s>")
def test_text_never_becomes_special_tokens(pair_with_pad, text):
    """Guards against a user who ends the turn with a typed </s>. By default the tokenizers library parses it."""
    for tokenizer in pair_with_pad.both:
        ids = tokenizer.encode(text, bos=False)
        assert not set(ids) & tokenizer.vocabulary.special
        assert tokenizer.decode(ids) == text.replace("▁", " ")


def test_user_defined_symbols_are_pieces_of_text(tmp_path):
    """Guards against treating every added token as special. These are split off from any text, and always shown."""
    model = llama_model(user_defined_symbols=["【犬】"])
    pair = TokenizerPair(tmp_path, model, llama_json(model, user_defined=("【犬】",)))
    symbol = pair.sp.piece_to_id("【犬】")
    for tokenizer in pair.both:
        assert tokenizer.encode("朝【犬】", bos=False).count(symbol) == 1
        assert tokenizer.decode([1, symbol, 2]) == "【犬】"
    # Here the two files themselves differ: tokenizers adds a space to the text after the symbol.
    ids = pair.sentencepiece.encode("a【犬】b", bos=False)
    assert ids == pair.sp.encode("a【犬】b") and pair.sentencepiece.decode(ids) == "a【犬】b"
    ids = pair.json.encode("a【犬】b", bos=False)
    assert ids == pair.hf_encode("a【犬】b") and pair.json.decode(ids) == pair.hf.decode(ids) == "a【犬】 b"


def test_truncation_and_padding_of_the_file_change_nothing(tmp_path):
    """Guards against a tokenizer.json that was saved in training and silently truncates every prompt to 4 tokens."""
    spec = llama_json(llama_model())
    spec["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    spec["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<unk>",
    }
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, tokenizer_json=spec))
    sp = sentencepiece.SentencePieceProcessor(model_proto=llama_model())
    for text in ("犬", TEXT.splitlines()[1]):
        for parse_special in (False, True):
            assert tokenizer.encode(text, bos=False, parse_special=parse_special) == sp.encode(text)


@pytest.fixture(scope="session")
def transformers5(pair):
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaTokenizer.from_pretrained(json_only(pair))


@settings(deadline=None, max_examples=150)
@given(unicode_texts())
@example("<s>[INST] <<SYS>>\n犬")
@example(" 犬")
@example("  犬<s> 犬")
@example("<s>  </s>")
def test_transformers5_segmentation_equals_transformers_5(pair, transformers5, text):
    """Guards against a comparison with ids that no release of transformers gives."""
    for tokenizer in pair.both:
        ids = tokenizer.encode(text, bos=False, parse_special=True, segmentation="transformers5")
        assert ids == transformers5(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("config", [{"legacy": True}, {"legacy": False}, {"add_prefix_space": False}])
def test_transformers5_segmentation_follows_tokenizer_config(pair, tmp_path, config):
    """Guards against ignoring `legacy`, which also decides about leading spaces in transformers 5."""
    transformers = pytest.importorskip("transformers")
    spec = (pair.folder / "tokenizer.json").read_bytes()
    folder = write(tmp_path, tokenizer_json=spec, tokenizer_config_json=config)
    reference = transformers.LlamaTokenizer.from_pretrained(folder)
    write(folder, tokenizer_model=(pair.folder / "tokenizer.model").read_bytes())
    for kind in KINDS:
        tokenizer = Tokenizer.from_pretrained(folder, kind=kind)
        for text in ["犬<s>犬", "<s>[INST] 犬", "  a<s> a", ""]:
            ids = tokenizer.encode(text, bos=False, parse_special=True, segmentation="transformers5")
            assert ids == reference(text, add_special_tokens=False).input_ids, (kind, text)


def test_a_tokenizer_json_from_transformers_5_is_followed(transformers5, tmp_path):
    """Guards against support for the layout of transformers 4.30 alone, and against its rules for every file."""
    transformers5.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for text in [*HARD_TEXTS, *TEXT.splitlines(), "犬<s>犬"]:
        ids = tokenizer.encode(text, bos=False, parse_special=True)
        assert ids == transformers5(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == transformers5.decode(ids, skip_special_tokens=True)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "Sequence", "decoders": [BYTE_LEVEL, {"type": "Fuse"}]},
        {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 0, "stop": 1}]},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]},
    ],
)
def test_an_unsupported_decoder_is_refused(tmp_path, decoder):
    """Guards against decoding the file of another model family by Llama's rules, to text with wrong spaces."""
    spec = llama_json(llama_model()) | {"decoder": decoder}
    with pytest.raises(ValueError, match="its decoder is"):
        Tokenizer.from_pretrained(write(tmp_path, tokenizer_json=spec))


def test_decoder_steps_come_from_the_file(tmp_path):
    """Guards against Llama's four steps for every tokenizer.json. This file strips two spaces and has no bytes."""
    spec = llama_json(llama_model())
    spec["decoder"]["decoders"] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "Replace", "pattern": {"String": "犬"}, "content": "猫"},
        {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 2, "stop": 0},
    ]
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, tokenizer_json=spec))
    hf = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ["  犬", "犬と駅", "   a  b"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == hf.decode(ids)
