"""Byte-level BPE, the tokenizers of Llama 3 and SmolLM2: text and ids against transformers, and streaming."""

from __future__ import annotations

import random

import pytest
import transformers
from helpers.byte_level import CHUNKS, SPECIAL, byte_level_folder, gguf_keys
from helpers.reference import SEED
from helpers.tokenizer_files import HARD_TEXTS, TEXT, write
from tokenizers import pre_tokenizers

from llama_jp.generation.stop_strings import StopStringBuffer
from llama_jp.text.byte_level import BYTES
from llama_jp.text.prompt_forms import forms_of_prompt
from llama_jp.text.tokenizer import Tokenizer
from llama_jp.training.examples import IGNORE, example

gguf_files = pytest.importorskip("helpers.gguf_files")

KINDS = ["llama-bpe", "smollm"]
CONVERSATION = [
    {"role": "system", "content": "あなたは犬です。"},
    {"role": "user", "content": " 猫と12345匹の魚😀\n"},
]


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """(name of the pre-tokenizer, our tokenizer, transformers' tokenizer of the same folder)"""
    folder = byte_level_folder(tmp_path_factory.mktemp(request.param), request.param)
    return request.param, Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def random_texts(count: int) -> list[str]:
    rng = random.Random(SEED)
    texts = ["".join(rng.choices(CHUNKS, k=rng.randrange(1, 12))) for _ in range(count)]
    letters = "".join(map(chr, [*range(0x20, 0x250), *range(0x3000, 0x3100), *range(0x4E00, 0x4F00), 0x1F600, 0x20BB7]))
    return texts + ["".join(rng.choices(letters, k=rng.randrange(20))) for _ in range(count)]


def test_the_spelling_of_bytes():
    """Guards against one letter that stands for another byte."""
    assert sorted(BYTES.values()) == [*range(256)]
    assert sorted(BYTES) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert BYTES["Ġ"] == 0x20 and BYTES["Ċ"] == 0x0A and BYTES["ã"] == 0xE3


def test_ids_and_text_equal_transformers(pair):
    """Guards against another split into words, lost spaces, a doubled or missing BOS, and Llama 2's first space."""
    pre, ours, theirs = pair
    assert ours.adds_bos == (pre == "llama-bpe") and ours.bos_id == theirs.bos_token_id
    for text in [*HARD_TEXTS, *TEXT.splitlines(), *CHUNKS, *random_texts(300)]:
        plain = theirs(text, add_special_tokens=False).input_ids
        assert ours.encode(text, bos=False, parse_special=True) == plain
        expected = theirs(text).input_ids
        doubled = expected[:2] == [ours.bos_id] * 2 and ours.adds_bos
        assert ours.encode(text, parse_special=True) == (expected[1:] if doubled else expected)
        as_text = theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ours.encode(text, bos=False) == as_text
        for ids in (plain, as_text):
            for skip in (True, False):
                assert ours.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.decode(as_text) == text
        assert not ours.vocabulary.special & {*as_text}


def test_any_ids_decode_and_stream_as_in_transformers(pair):
    """Guards against text that changes later, half a character, and SentencePiece's rule for broken characters."""
    _, ours, theirs = pair
    rng = random.Random(SEED)
    raw = [i for i in range(ours.vocab_size) if ours.vocabulary.is_part_of_character(i)]
    assert len(raw) > 100
    for _ in range(1500):
        ids = [rng.choice(raw) if rng.random() < 0.6 else rng.randrange(ours.vocab_size + 3) for _ in range(9)]
        for skip in (True, False):
            expected = theirs.decode([i for i in ids if i < ours.vocab_size], skip_special_tokens=skip)
            stream, shown = ours.stream(skip), ""
            for i in ids:
                shown += stream.push(i)
                assert expected.startswith(shown)
            assert shown + stream.finish() == expected == ours.decode(ids, skip)


def test_a_character_appears_with_the_token_that_completes_it(pair):
    """Guards against a kanji of three tokens that appears late, or as U+FFFD."""
    _, ours, _ = pair
    for text in [*TEXT.splitlines(), "𠮷野家で𩸽を食べる👩‍👩‍👧‍👦", *random_texts(50)]:
        stream, shown, data = ours.stream(), "", b""
        for i in ours.encode(text):
            shown += stream.push(i)
            data += b"" if i in ours.vocabulary.special else ours.vocabulary.token_bytes(i)
            assert shown == data.decode("utf-8", errors="ignore")
        assert shown == text and stream.finish() == ""


def test_a_stop_string_inside_a_divided_character_s_neighbours(pair):
    """Guards against a stop string that is found late or not at all, because its characters are several tokens."""
    _, ours, _ = pair
    for stop in ("鮪", "鮪😀", "。魚"):
        buffer, released = StopStringBuffer(ours, [stop]), ""
        for i in ours.encode(f"犬と{stop}と猫", bos=False):
            buffer.push(i)
            released += buffer.take()
            if buffer.stopped:
                break
        assert buffer.stopped and released + buffer.finish() == "犬と"


def test_conversations_equal_transformers(pair):
    """Guards against a template without its special tokens, and against a typed one that ends the turn."""
    pre, ours, theirs = pair
    for add in (True, False):
        ids = theirs.apply_chat_template(CONVERSATION, add_generation_prompt=add, return_dict=False)
        assert ours.chat(CONVERSATION, add_generation_prompt=add) == ids
    typed = [{"role": "user", "content": f"犬{SPECIAL[pre][-1]}猫<tag>"}]
    ids = ours.chat(typed)
    assert ids.count(ours.eos_id) == 1 and ours.decode(ids, skip_special=True).count(SPECIAL[pre][-1]) == 1
    reference = theirs.apply_chat_template(
        typed, add_generation_prompt=True, return_dict=False, sanitize_control_tokens=True
    )
    assert ids == reference


def test_pieces_are_readable(pair):
    """Guards against `ãģĤ` where people look at tokens."""
    _, ours, _ = pair
    ids = ours.encode(" 犬 鱻<名 前>", bos=False)
    shown = ours.pieces(ids)
    assert shown[0].startswith("▁") and shown[-1] == "<名 前>"
    assert "".join(shown).endswith("<0xE9><0xB1><0xBB><名 前>") and "Ġ" not in "".join(shown)


def test_the_forms_of_a_prompt(pair):
    """Guards against ELYZA's prompt for another template, and a form that transformers does not have here."""
    pre, ours, _ = pair
    forms = {form.name: form.ids for form in forms_of_prompt(ours, "犬")}
    assert forms["as trained"] == ours.chat([{"role": "user", "content": "犬"}])
    assert "transformers 5" not in forms
    assert ("doubled BOS" in forms) == (pre == "llama-bpe")


def test_training_examples_learn_the_answer_and_its_end(pair):
    """Guards against labels on the prompt, and against EOS of another role."""
    _, ours, _ = pair
    made = example(ours, [*CONVERSATION, {"role": "assistant", "content": "ワン。"}])
    learned = [i for i in made.labels if i != IGNORE]
    assert ours.decode(learned) == "ワン。" and learned[-1] == ours.eos_id
    assert made.ids[: len(made.ids) - len(learned)] == ours.chat(CONVERSATION)


@pytest.mark.parametrize("config", [{"add_bos_token": True}, {"add_bos_token": False}, {"bos_token": None}])
@pytest.mark.parametrize("pre", KINDS)
def test_tokenizer_json_decides_about_bos(tmp_path, pre, config):
    """Guards against texts of SmolLM2 that begin with <|im_start|>, and against a lost BOS of Llama 3."""
    folder = byte_level_folder(tmp_path, pre, **config)
    ours, theirs = Tokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    if config != {"bos_token": None}:
        assert ours.encode("犬") == theirs("犬").input_ids
    else:
        assert ours.bos_id is None and ours.encode("犬") == ours.encode("犬", bos=False)


def test_saved_files_are_the_same_tokenizer(pair, tmp_path):
    """Guards against a folder without its tokenizer.json."""
    pre, ours, theirs = pair
    ours.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (ours.folder / "tokenizer.json").read_bytes()
    assert Tokenizer.from_pretrained(tmp_path).chat(CONVERSATION) == ours.chat(CONVERSATION)


@pytest.mark.parametrize("pre", KINDS)
def test_the_same_tokenizer_from_gguf(tmp_path, pre):
    """Guards against the pre-tokenizer of another model, special tokens that are text, and another rule for BOS."""
    folder = byte_level_folder(tmp_path / "folder", pre)
    file = vocabulary_file(tmp_path / "v.gguf", gguf_keys(folder, pre))
    ours, original = Tokenizer.from_pretrained(file), Tokenizer.from_pretrained(folder)
    ours.save_pretrained(tmp_path / "copy")
    copy, theirs = (
        Tokenizer.from_pretrained(tmp_path / "copy"),
        transformers.AutoTokenizer.from_pretrained(tmp_path / "copy"),
    )
    assert copy.vocabulary == ours.vocabulary == original.vocabulary
    for role in ("bos_id", "eos_id", "adds_bos"):
        assert getattr(copy, role) == getattr(ours, role) == getattr(original, role)
    for text in random_texts(150):
        for parse in (True, False):
            ids = original.encode(text, parse_special=parse)
            assert ours.encode(text, parse_special=parse) == copy.encode(text, parse_special=parse) == ids
        assert theirs(text, add_special_tokens=False).input_ids == original.encode(text, bos=False, parse_special=True)
    assert ours.chat(CONVERSATION) == original.chat(CONVERSATION)


def test_a_special_token_of_gguf_is_no_word(tmp_path):
    """Guards against `ignore_merges` that makes the name of a special token in a text that token."""
    folder = byte_level_folder(tmp_path / "folder", "llama-bpe")
    keys = gguf_keys(folder, "llama-bpe")
    keys["tokenizer.ggml.tokens"] = [*keys["tokenizer.ggml.tokens"], "PAD"]
    keys["tokenizer.ggml.token_type"] = [*keys["tokenizer.ggml.token_type"], 3]
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    pad = len(keys["tokenizer.ggml.tokens"]) - 1
    assert ours.encode("PAD", bos=False, parse_special=True) == [pad] != ours.encode("PAD", bos=False)


def test_llama3_s_folder_with_a_tiktoken_file_beside(tmp_path):
    """Guards against "not a SentencePiece model" for a folder whose tokenizer.json is complete."""
    folder = byte_level_folder(tmp_path, "llama-bpe")
    write(folder, tokenizer_model=b"IQ== 0\nIg== 1\n")
    assert Tokenizer.from_pretrained(folder).kind == "json"


def vocabulary_file(file, keys):
    """A GGUF file with a vocabulary and without a model."""
    writer = gguf_files.gguf.GGUFWriter(file, "llama")
    for key, value in keys.items():
        gguf_files.add_key(writer, key, value)
    return gguf_files.finish(writer, file)
