"""Written vocabularies: the ids of a tokenizer.model and of a tokenizer.json, in this project and in llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.byte_level import CHUNKS, byte_level_folder
from helpers.tokenizer_files import HARD_TEXTS, TEXT, added_token, llama_json, llama_model, write

from llama_jp import Tokenizer
from llama_jp.checkpoint.gguf.writer import write_gguf
from llama_jp.export.gguf_vocabulary import vocabulary_keys
from llama_jp.export.sentencepiece_model import parse_model

TEXTS = [*TEXT.splitlines(), *HARD_TEXTS, "犬犬犬犬 aaaaaaa      b"]
PLAIN = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def fast_json() -> dict:
    """A tokenizer.json like that of ELYZA's fast models: Llama's pieces, then characters, and pieces with merges."""
    spec = llama_json(llama_model())
    vocab, merges = spec["model"]["vocab"], spec["model"]["merges"]
    for character in sorted(set(TEXT) - vocab.keys() - set(" \n")):
        vocab[character] = len(vocab)
    for pair in ("犬は", "図書", "郵便", "便屋"):
        if pair not in vocab:
            vocab[pair] = len(vocab)
            merges.append(f"{pair[0]} {pair[1]}")
    return spec


def with_added(spec: dict, **flags: bool) -> dict:
    """A tokenizer.json with two added tokens."""
    tokens = [
        added_token(len(spec["model"]["vocab"]) + i, name, special=bool(i)) for i, name in enumerate(("<w>", "<|x|>"))
    ]
    return spec | {"added_tokens": spec["added_tokens"] + [token | flags for token in tokens]}


FOLDERS = {
    "tokenizer.model": {"tokenizer_model": llama_model()},
    "no space before a text": {"tokenizer_model": llama_model(add_dummy_prefix=False)},
    "user-defined pieces": {"tokenizer_model": llama_model(user_defined_symbols=["図書館"])},
    "fast": {"tokenizer_json": fast_json()},
    "added tokens": {"tokenizer_json": with_added(fast_json())},
    "both files": {
        "tokenizer_model": llama_model(),
        "tokenizer_json": with_added(llama_json(llama_model())),
        "added_tokens_json": {"<w>": 560, "<|x|>": 561},
    },
}


pytestmark = pytest.mark.filterwarnings("ignore:.*user-defined piece")


def write_vocabulary(folder: Path, rows: int, file: Path) -> dict:
    keys = vocabulary_keys(Tokenizer.from_pretrained(folder), rows)
    write_gguf(file, {"general.architecture": "llama", **keys}, [])
    return keys


@pytest.mark.parametrize("name", FOLDERS)
def test_the_ids_of_texts(tmp_path, name):
    """Guards against lost merges, bytes as text, an added token that is not found, and a space too many."""
    folder = write(tmp_path / "model", tokenizer_config_json=PLAIN, **FOLDERS[name])
    tokenizer = Tokenizer.from_pretrained(folder)
    keys = write_vocabulary(folder, tokenizer.vocab_size + 5, tmp_path / "v.gguf")
    back = Tokenizer.from_pretrained(tmp_path / "v.gguf")
    texts = [*TEXTS, "猫<w>犬 <w> a", "<|x|>犬<|x|>"]
    for text in texts:
        for parse in (False, True):
            ids = tokenizer.encode(text, parse_special=parse)
            assert back.encode(text, parse_special=parse) == ids, text
            assert back.decode(ids, skip_special=False) == tokenizer.decode(ids, skip_special=False), text
    assert len(set(keys["tokenizer.ggml.tokens"])) == tokenizer.vocab_size + 5
    assert (back.bos_id, back.eos_id, back.unk_id) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id)


@pytest.mark.parametrize("name", FOLDERS)
def test_llama_cpp_has_the_same_ids(tmp_path, name):
    """Guards against scores that only SentencePiece's library takes, and against an order of merges that is lost."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the judge")
    folder = write(tmp_path / "model", tokenizer_config_json=PLAIN, **FOLDERS[name])
    tokenizer = Tokenizer.from_pretrained(folder)
    write_vocabulary(folder, tokenizer.vocab_size + 5, tmp_path / "v.gguf")
    peer = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    # llama.cpp adds a space after a user-defined piece of SentencePiece, which a warning says
    texts = [text for text in TEXTS if name != "user-defined pieces" or "図書館" not in text]
    for text in texts:
        ids = tokenizer.encode(text, bos=False)
        if text:
            assert peer.tokenize(text.encode(), add_bos=False, special=False) == ids, text
    bytes_only = "𠮷".encode()
    assert bytes_only in peer.detokenize(peer.tokenize(bytes_only, add_bos=False, special=False))
    if "added" in name or "both" in name:
        for text in ("猫<w>犬 <w> a", "<|x|>犬<|x|>"):
            assert peer.tokenize(text.encode(), add_bos=True, special=True) == tokenizer.encode(
                text, parse_special=True
            )
    peer.close()


def test_tokenizers_that_llama_cpp_has_not_are_refused(tmp_path):
    """Guards against other ids without a word."""
    spec = llama_json(llama_model())
    nfkc = spec | {
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, *spec["normalizer"]["normalizers"]]}
    }
    fewer = spec | {"model": spec["model"] | {"merges": spec["model"]["merges"][:-30]}}  # scores would make the pieces
    cases = {
        "is a unigram model": {
            "tokenizer_model": llama_model(model_type="unigram", vocab_size=450, hard_vocab_limit=False)
        },
        "replaces characters before encoding": {
            "tokenizer_model": llama_model(normalization_rule_name="nfkc", remove_extra_whitespaces=True)
        },
        "has no piece for each byte": {"tokenizer_model": llama_model(byte_fallback=False)},
        "llama.cpp would encode .* otherwise": {"tokenizer_json": nfkc},
        "llama.cpp would encode '.*' otherwise": {"tokenizer_json": fewer},
    }
    for number, (message, files) in enumerate(cases.items()):
        folder = write(tmp_path / str(number), tokenizer_config_json=PLAIN, **files)
        with pytest.raises(ValueError, match=f"{message}.*name another tokenizer"):
            vocabulary_keys(Tokenizer.from_pretrained(folder), 600)


def test_rules_for_spaces_beside_an_added_token_are_a_warning(tmp_path):
    """Guards against a refusal of a whole model, and against silence."""
    folder = write(tmp_path / "m", tokenizer_json=with_added(fast_json(), lstrip=True), tokenizer_config_json=PLAIN)
    with pytest.warns(UserWarning, match="next to the added token '<w>' otherwise"):
        vocabulary_keys(Tokenizer.from_pretrained(folder), 700)


def test_a_user_defined_piece_is_a_warning(tmp_path):
    """Guards against a space after it that only llama.cpp adds, without a word."""
    files = FOLDERS["user-defined pieces"]
    folder = write(tmp_path / "m", tokenizer_config_json=PLAIN, **files)
    with pytest.warns(UserWarning, match="llama.cpp adds a space after the user-defined piece '図書館'"):
        vocabulary_keys(Tokenizer.from_pretrained(folder), 560)


def test_chat_templates(tmp_path):
    """Guards against a template that is lost, and against one of several in the place of the default."""
    templates = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    config = PLAIN | {"chat_template": templates, "add_bos_token": False}
    folder = write(tmp_path / "model", tokenizer_model=llama_model(), tokenizer_config_json=config)
    keys = write_vocabulary(folder, 560, tmp_path / "v.gguf")
    assert keys["tokenizer.chat_template"] == "D" and keys["tokenizer.chat_template.tool_use"] == "T"
    assert keys["tokenizer.ggml.add_bos_token"] is False
    back = Tokenizer.from_pretrained(tmp_path / "v.gguf")
    assert {name: each.text for name, each in back.chat_templates.items()} == {"default": "D", "tool_use": "T"}


def test_padding_has_names_of_its_own(tmp_path):
    """Guards against the same text twice, with which llama.cpp loads no file."""
    spec = fast_json()
    rows = len(spec["model"]["vocab"]) + 1
    spec["model"]["vocab"][f"[PAD{rows}]"] = rows - 1
    folder = write(tmp_path / "model", tokenizer_json=spec, tokenizer_config_json=PLAIN)
    tokens = vocabulary_keys(Tokenizer.from_pretrained(folder), rows + 2)["tokenizer.ggml.tokens"]
    assert len(set(tokens)) == rows + 2


def test_a_tokenizer_model_is_parsed():
    """Guards against a field of the message that is read as another one; the judge is the SentencePiece library."""
    import sentencepiece

    content = llama_model(user_defined_symbols=["図書館"])
    model, judge = parse_model(content), sentencepiece.SentencePieceProcessor(model_proto=content)
    assert [piece.text for piece in model.pieces] == [judge.id_to_piece(i) for i in range(judge.get_piece_size())]
    assert [piece.score for piece in model.pieces] == [judge.get_score(i) for i in range(judge.get_piece_size())]
    assert [piece.type for piece in model.pieces[:5]] == [2, 3, 3, 4, 6]
    assert model.is_bpe and model.add_dummy_prefix and not model.remove_extra_whitespaces and not model.charsmap
    json.dumps(model.pieces)


@pytest.mark.parametrize("name", ["llama-bpe", "smollm"])
def test_a_byte_level_bpe_is_written_with_its_pre_tokenizer(tmp_path, name):
    """Guards against other splits of digits and contractions, lost merges, and an added token that is not found."""
    tokenizer = Tokenizer.from_pretrained(byte_level_folder(tmp_path / "model", name))
    keys = write_vocabulary(tokenizer.folder, tokenizer.vocab_size + 5, tmp_path / "v.gguf")
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", name)
    assert set(keys["tokenizer.ggml.token_type"]) == {1, 3, 4, 5}
    assert keys["tokenizer.ggml.add_bos_token"] == (name == "llama-bpe")
    back = Tokenizer.from_pretrained(tmp_path / "v.gguf")
    assert (back.bos_id, back.eos_id, back.adds_bos) == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.adds_bos)
    for text in [*TEXTS, *CHUNKS, "".join(CHUNKS)]:
        for parse in (False, True):
            ids = tokenizer.encode(text, parse_special=parse)
            assert back.encode(text, parse_special=parse) == ids, text
            assert back.decode(ids, skip_special=False) == tokenizer.decode(ids, skip_special=False), text


@pytest.mark.parametrize("name", ["llama-bpe", "smollm"])
def test_llama_cpp_has_the_ids_of_a_byte_level_bpe(tmp_path, name):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the judge")
    tokenizer = Tokenizer.from_pretrained(byte_level_folder(tmp_path / "model", name))
    write_vocabulary(tokenizer.folder, tokenizer.vocab_size + 5, tmp_path / "v.gguf")
    peer = llama_cpp.Llama(str(tmp_path / "v.gguf"), vocab_only=True, verbose=False)
    for text in [*TEXTS, *CHUNKS]:
        if text and "\0" not in text:  # llama.cpp's texts end there
            ids = tokenizer.encode(text, bos=False)
            assert peer.tokenize(text.encode(), add_bos=False, special=False) == ids, text
    peer.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"normalizer": {"type": "NFC"}}, "changes characters before encoding, which llama.cpp does not do"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": "[aあ0-9]"}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ]}},
            "none of llama.cpp's pre-tokenizers that are known here gives its ids: llama-bpe, llama3",
        ),
    ],
)  # fmt: skip
def test_a_byte_level_bpe_with_other_rules_is_refused(tmp_path, change, sentence):
    folder = byte_level_folder(tmp_path / "model", "smollm")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{sentence}.*name another tokenizer"):
        vocabulary_keys(Tokenizer.from_pretrained(folder), 700)
