"""The vocabularies of GGUF files against the tokenizers that they were made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gguf
import pytest
from helpers.gguf_files import add_key, finish, vocabulary_keys, write_gguf
from helpers.tokenizer_files import HARD_TEXTS, llama_folder, llama_json, llama_model, real_data, write

import llama_jp
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.loading import load
from llama_jp.text.tokenizer import PROBES, Tokenizer

TEXTS = [*HARD_TEXTS, *PROBES, " the  cat  sat", "鮪😊 を食べる", "x" * 40 + " " * 9 + "\n" * 3]


def vocabulary_file(file: Path, keys: dict) -> Path:
    """A GGUF file with a vocabulary and no tensors."""
    writer = gguf.GGUFWriter(file, "llama")
    for key, value in keys.items():
        add_key(writer, key, value)
    return finish(writer, file)


def assert_same(ours: Tokenizer, original: Tokenizer, texts: list[str] = TEXTS) -> None:
    """The same ids, text and pieces for every text, with and without special tokens."""
    for text in texts:
        for parse_special in (False, True):
            ids = original.encode(text, parse_special=parse_special)
            assert ours.encode(text, parse_special=parse_special) == ids, text
            assert ours.decode(ids) == original.decode(ids)
            assert ours.decode(ids, skip_special=False) == original.decode(ids, skip_special=False)
    assert ours.vocabulary.pieces == original.vocabulary.pieces
    assert ours.vocabulary.byte_values == original.vocabulary.byte_values
    assert ours.vocabulary.special == original.vocabulary.special
    assert (ours.bos_id, ours.eos_id, ours.unk_id) == (original.bos_id, original.eos_id, original.unk_id)


@pytest.fixture(scope="module")
def demo_file(tmp_path_factory) -> Path:
    return write_gguf(
        demo_folder(), tmp_path_factory.mktemp("demo") / "demo.gguf", gguf.GGMLQuantizationType.F16, tokenizer=True
    )


def test_the_demo_as_a_gguf_file_is_the_demo(demo_file):
    """Guards against other ids, another chat template or another answer than the original's."""
    model, tokenizer = load(demo_file, dtype="float32")
    original_model, original = load("demo", dtype="float32")
    assert_same(tokenizer, original)
    messages = [{"role": "user", "content": "月について話してください。</s>"}]
    assert tokenizer.chat(messages) == original.chat(messages)
    assert tokenizer.chat_template.is_elyza
    prompt = tokenizer.chat(messages)
    answers = [llama_jp.generate(each, [prompt], max_new_tokens=24) for each in (model, original_model)]
    assert answers[0] == answers[1]


def test_the_vocabulary_of_llama_2(tmp_path):
    """Guards against the order of ids in the place of the order of scores, which differ for spaces."""
    folder = real_data("llama2-tokenizer")
    # a text of many kinds of sentences
    novel = (folder.parent / "text" / "wagahai-wa-neko-de-aru.txt").read_text(encoding="utf-8")
    texts = TEXTS + [novel[k : k + 500] for k in range(0, len(novel), 20_000)]
    keys = vocabulary_keys(folder)
    assert keys["tokenizer.ggml.scores"][29871] == -1e9  # the piece of one space
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    for kind in ("sentencepiece", "json"):
        assert_same(ours, Tokenizer.from_pretrained(folder, kind=kind), texts)
    ours.save_pretrained(tmp_path / "copy")
    merges = [
        [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in spec["model"]["merges"]]
        for spec in (json.loads((each / "tokenizer.json").read_text()) for each in (folder, tmp_path / "copy"))
    ]
    assert merges[0] == merges[1]


@pytest.fixture
def original(tmp_path) -> Path:
    """A folder with a tokenizer.model and added tokens, as a fine-tune has."""
    model = llama_model()
    tokens = {0: ("<unk>", True), 1: ("<s>", True), 2: ("</s>", True), 560: ("<|im_start|>", True),
              561: ("<|im_end|>", True), 562: ("<pad>", True), 563: ("犬小屋", False)}  # fmt: skip
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    decoder = {str(i): {"content": name, "special": special} | flags for i, (name, special) in tokens.items()}
    config = {"added_tokens_decoder": decoder, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return write(
        tmp_path / "original", tokenizer_model=model, tokenizer_config_json=config, config_json={"vocab_size": 576}
    )


ADDED = ["<|im_start|>犬小屋の犬<|im_end|>\n<pad>犬", "犬小屋 犬小屋", "<|im_start|>user\n犬"]


def test_added_tokens_and_padding(original, tmp_path):
    """Guards against added tokens that lose their place or kind, and against padding that is text."""
    keys = vocabulary_keys(original)
    assert keys["tokenizer.ggml.tokens"][-1] == "[PAD575]"
    keys |= {"tokenizer.ggml.padding_token_id": 562, "tokenizer.ggml.eos_token_id": 561}
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    edited = json.loads((original / "tokenizer_config.json").read_text())
    (original / "tokenizer_config.json").write_text(json.dumps(edited | {"eos_token": "<|im_end|>"}))
    assert_same(ours, Tokenizer.from_pretrained(original), TEXTS + ADDED + ["[PAD575]"])
    assert (ours.pad_id, ours.eos_id, ours.vocab_size) == (562, 561, 564)


def test_padding_between_added_tokens(original, tmp_path):
    """Guards against added tokens that move together over the padding between them."""
    keys = vocabulary_keys(original)
    pieces, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    pieces[570:572], types[570:572] = ["猫小屋", "<|end|>"], [4, 3]
    keys["tokenizer.ggml.scores"][570:572] = [-1000.0, -1000.0]
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    assert ours.encode("犬小屋猫小屋<|end|>[PAD565]", bos=False, parse_special=True)[:3] == [563, 570, 571]
    assert ours.decode([563, 570, 571], skip_special=False) == "犬小屋猫小屋<|end|>"
    assert 565 not in ours.encode("[PAD565]") and ours.vocab_size == 572


def test_a_copy_is_the_same_tokenizer(original, tmp_path):
    """Guards against a saved tokenizer that encodes otherwise, here or in transformers."""
    from transformers import AutoTokenizer

    file = vocabulary_file(tmp_path / "v.gguf", vocabulary_keys(original))
    ours = Tokenizer.from_pretrained(file)
    ours.save_pretrained(tmp_path / "copy")
    assert_same(Tokenizer.from_pretrained(tmp_path / "copy"), ours, TEXTS + ADDED)
    for kind in ("sentencepiece", "json"):
        assert_same(Tokenizer.from_pretrained(tmp_path / "copy", kind=kind), ours, ["犬 と  猫", "犬小屋<|im_end|>"])
    (tmp_path / "copy/config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert theirs.convert_ids_to_tokens(list(range(564))) == [ours.vocabulary.pieces[i] for i in range(564)]
    for text in ("犬 と  猫", "<|im_start|>犬小屋の犬", *PROBES):
        assert theirs(text).input_ids == ours.encode(text, parse_special=True, segmentation="transformers5")


@pytest.mark.parametrize("change", ["bytes are normal", "no types", "control tokens are normal"])
def test_wrong_types(original, tmp_path, change):
    """Guards against `<0x0A>` as six characters of text: converters of early 2024 typed bytes as normal."""
    shutil.copytree(original, tmp_path / "plain")
    (tmp_path / "plain/tokenizer_config.json").write_text("{}")
    (tmp_path / "plain/config.json").unlink()
    keys = vocabulary_keys(tmp_path / "plain")
    types = keys["tokenizer.ggml.token_type"]
    if change == "no types":
        del keys["tokenizer.ggml.token_type"]
    else:
        wrong = 6 if change == "bytes are normal" else 3
        keys["tokenizer.ggml.token_type"] = [1 if kind == wrong else kind for kind in types]
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    assert_same(ours, Tokenizer.from_pretrained(tmp_path / "plain"))


def test_no_space_prefix(tmp_path):
    """Guards against a space that the original does not add."""
    folder = write(tmp_path / "original", tokenizer_model=llama_model(add_dummy_prefix=False), tokenizer_config_json={})
    keys = vocabulary_keys(folder) | {"tokenizer.ggml.add_space_prefix": False}
    assert_same(
        Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys)), Tokenizer.from_pretrained(folder)
    )


def fast_keys(types: int, model: str = "gpt2", empty_merge: bool = False) -> dict:
    """The vocabulary of a tokenizer.json as `convert.py --vocabtype bpe` wrote it in 2023."""
    spec = llama_json(llama_model())
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    return {
        "tokenizer.ggml.model": model,
        "tokenizer.ggml.tokens": list(spec["model"]["vocab"]),
        "tokenizer.ggml.scores": [0.0] * len(spec["model"]["vocab"]),
        "tokenizer.ggml.token_type": [types] * len(spec["model"]["vocab"]),
        "tokenizer.ggml.merges": [*merges[:20], *([""] if empty_merge else []), *merges[20:]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@pytest.mark.parametrize("types, model, empty_merge", [(4, "gpt2", False), (1, "gpt2", True), (1, "llama", False)])
def test_the_files_of_elyza_fast_of_2023(tmp_path, types, model, empty_merge):
    """Guards against byte-level BPE for pieces that are spelt as SentencePiece's: llama.cpp drops spaces there."""
    folder = llama_folder(tmp_path / "original")
    file = vocabulary_file(tmp_path / "v.gguf", fast_keys(types, model, empty_merge))
    ours = Tokenizer.from_pretrained(file)
    assert ours.kind == "json"
    assert_same(ours, Tokenizer.from_pretrained(folder, kind="json"))
    ours.save_pretrained(tmp_path / "copy")
    assert_same(Tokenizer.from_pretrained(tmp_path / "copy"), ours)


def test_scores_count_where_a_file_has_merges_as_well(original, tmp_path):
    """Guards against merges in another order than that of the scores, which llama.cpp uses."""
    keys = vocabulary_keys(original) | {"tokenizer.ggml.merges": ["犬 は", "▁ 犬"]}
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    assert ours.kind == "sentencepiece"
    assert_same(ours, Tokenizer.from_pretrained(original))


def test_a_vocabulary_without_its_order_of_merges_is_refused_with_the_way_out(demo_file, tmp_path):
    """Guards against wrong ids without a word: files of early 2024 have no merges, and one score for every piece."""
    keys = vocabulary_keys(demo_folder())
    keys["tokenizer.ggml.scores"] = [-1000.0] * len(keys["tokenizer.ggml.scores"])
    file = write_gguf(demo_folder(), tmp_path / "model.gguf", keys=keys)
    with pytest.raises(ValueError, match=r"the order of merges is lost; name the folder of the original tokenizer"):
        load(file)
    _, tokenizer = load(file, tokenizer="demo")
    assert_same(tokenizer, Tokenizer.from_pretrained("demo"), PROBES)
    del keys["tokenizer.ggml.scores"]
    with pytest.raises(ValueError, match="the order of merges is lost"):
        Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))


BYTE_LEVEL = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["Ġ a"]}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"tokenizer.ggml.model": "gpt2"}, "its vocabulary is a byte-level BPE, but it has no merges; name the folder"),
        (BYTE_LEVEL, r"names no pre-tokenizer \(tokenizer.ggml.pre; known are llama-bpe, .*\); name the folder"),
        (
            BYTE_LEVEL | {"tokenizer.ggml.pre": "viking"},
            "the pre-tokenizer 'viking', which is not known .* name the folder",
        ),
        ({"tokenizer.ggml.merges": ["Ġ a", "ĠĠ"]}, "is damaged: the merge 'ĠĠ' has no two pieces"),
        ({"tokenizer.ggml.model": "bert"}, "a vocabulary of the kind 'bert' is not supported"),
        ({"tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "<s>"]}, "its vocabulary has '<s>' twice"),
        ({"tokenizer.ggml.scores": [0.0]}, "is damaged: 1 scores for a vocabulary of 4 pieces"),
    ],
)
def test_other_vocabularies_are_refused_by_name(tmp_path, keys, message):
    """Guards against ids of another tokenizer."""
    base = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "Ġa"]}
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", base | keys))


def test_a_file_without_a_vocabulary(small, tmp_path):
    """Guards against a model that does not load because of its tokenizer."""
    file = write_gguf(small, tmp_path / "model.gguf")
    llama_jp.Llama.from_pretrained(file)
    with pytest.raises(FileNotFoundError, match="model.gguf has no tokenizer: its keys hold no vocabulary$"):
        Tokenizer.from_pretrained(file)


def test_a_file_without_a_model(tmp_path):
    """Guards against an error about a tensor for the files that hold a vocabulary only."""
    file = vocabulary_file(tmp_path / "v.gguf", vocabulary_keys(demo_folder()))
    with pytest.raises(FileNotFoundError, match="there is no model in .*v.gguf$"):
        load(file)


def test_named_chat_templates(tmp_path, original):
    """Guards against the template for tools in the place of the default."""
    keys = vocabulary_keys(original) | {
        "tokenizer.chat_template": "default {{ messages[0].content }}",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "tools {{ messages[0].content }}",
    }
    ours = Tokenizer.from_pretrained(vocabulary_file(tmp_path / "v.gguf", keys))
    assert set(ours.chat_templates) == {"default", "tool_use"}
    assert ours.chat_text([{"role": "user", "content": "犬"}]) == "default 犬"


@pytest.mark.parametrize(
    "name, instruct",
    [
        ("ELYZA-japanese-Llama-2-7b-fast-instruct-q4_K_M.gguf", True),
        ("ELYZA-japanese-Llama-2-7b-instruct.Q8_0.gguf", True),
        ("ELYZA-japanese-Llama-2-7b-fast-q4_K_M.gguf", False),
        ("my-ELYZA-japanese-Llama-2-7b-instruct-q4_0.gguf", False),
    ],
)
def test_the_template_of_elyzas_models_follows_from_the_name_of_the_file(tmp_path, original, name, instruct):
    """Guards against instruct models that answer as base models: files of 2023 hold no chat template."""
    file = vocabulary_file(tmp_path / name, vocabulary_keys(original))
    tokenizer = Tokenizer.from_pretrained(file)
    assert (tokenizer.chat_template is not None) == instruct
    tokenizer.save_pretrained(tmp_path / "copy")
    assert (Tokenizer.from_pretrained(tmp_path / "copy").chat_template is not None) == instruct
