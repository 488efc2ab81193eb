"""Random tokenizer folders, drawn from everything that their files can say, against transformers."""

from __future__ import annotations

import random
import warnings

import pytest
import transformers
from helpers.tokenizer_files import llama_json, llama_model, write

from llama_jp.text.tokenizer import Tokenizer

# Names that overlap, are pieces or prefixes of pieces, hold spaces, or are Japanese.
NAMES = [
    *("<|im_start|>", "<|im_end|>", "<pad>", "[PAD]", "<mask>", "犬", "東京都", "<|終わり|>", "the", "them", "<a b>"),
    *("a  b", "<x>", "<x><y>", "<y>", "▁th", "word", " lead", "trail ", "\n\n", "，", "<s>2", "<0x41>", "ガ", "𠮷"),
]
ROLES = {
    "bos_token": ["<s>", "<|im_start|>"],
    "eos_token": ["</s>", "<|im_end|>"],
    "unk_token": ["<unk>"],
    "pad_token": ["<pad>", "[PAD]", "</s>", "<unk>", None, "犬", "word"],
    "sep_token": ["<sep>"],
    "image_token": ["<image>"],
}
FLAGS = {"single_word": 0.15, "lstrip": 0.2, "rstrip": 0.2, "normalized": 0.3, "special": 0.5}
TEXTS = [
    "",
    "   ",
    " a",
    "a  b   c",
    "\n\n犬\n",
    "　犬　",
    "吾輩は猫である。",
    "𠮷野家👩‍👩‍👧‍👦🇯🇵",
    "<s>犬</s>",
    "a<s> b </s>c",
    "▁犬▁",
    "ガギグ が",
]


def draw_roles(draw: random.Random) -> dict:
    """Special tokens as tokenizer_config.json names them: strings and objects, with and without a role."""
    named: dict = {}
    for role, names in ROLES.items():
        if draw.random() < 0.5:
            named[role] = name = draw.choice(names)
            if name is not None and draw.random() < 0.3:
                flags = {flag: draw.random() < 0.3 for flag in ("lstrip", "rstrip", "normalized")}
                named[role] = {"__type": "AddedToken", "content": name, "single_word": False} | flags
    if draw.random() < 0.3:
        named[draw.choice(["additional_special_tokens", "extra_special_tokens"])] = draw.sample(NAMES, 2)
    if draw.random() < 0.1:
        named["extra_special_tokens"] = {"image_token": "<img>", "boi_token": "<boi>"}
    return named


def draw_folder(draw: random.Random, folder) -> tuple[list[str], bool]:
    """Write the files of a tokenizer: (the names of its added tokens, whether tokenizer.json is there)."""
    model, spec = llama_model(), llama_json(llama_model())
    vocabulary, size, tokens = spec["model"]["vocab"], len(spec["model"]["vocab"]), {}
    for name in draw.sample(NAMES, draw.randint(0, 5)):
        token_id = vocabulary.get(name, size)
        size += token_id == size
        tokens[token_id] = {"content": name} | {flag: draw.random() < often for flag, often in FLAGS.items()}
    kinds = draw.choice(["model", "json", "model and json"])
    places = [place for place in ("added", "decoder", "json") if draw.random() < 0.5]
    files, config = {}, {}
    if "added" in places:
        files["added_tokens_json"] = {token["content"]: i for i, token in tokens.items()}
    if "decoder" in places:
        config["added_tokens_decoder"] = {str(i): token for i, token in tokens.items()}
    if "json" in places:
        spec["added_tokens"] += [{"id": i} | token for i, token in tokens.items()]
    if draw.random() < 0.7:
        config |= draw_roles(draw)
    if draw.random() < 0.7:
        in_map = draw_roles(draw)
        for value in in_map.values():
            if isinstance(value, dict):
                value.pop("__type", None)
        files["special_tokens_map_json"] = in_map
    if draw.random() < 0.1:
        scheme = {"prepend_scheme": draw.choice(["first", "always", "never"]), "split": False}
        spec["normalizer"], spec["pre_tokenizer"] = None, {"type": "Metaspace", "replacement": "▁"} | scheme
    settings = {"legacy": True, "add_bos_token": True, "add_eos_token": True, "padding_side": "left"}
    config |= {key: value for key, value in settings.items() if draw.random() < 0.15}
    if "model" in kinds:
        files["tokenizer_model"] = model
    if "json" in kinds:
        files["tokenizer_json"] = spec
    write(folder, tokenizer_config_json=config, **files)
    return [token["content"] for token in tokens.values()], "json" in kinds


@pytest.mark.parametrize("seed", [*range(60), *(pytest.param(i, marks=pytest.mark.slow) for i in range(60, 400))])
def test_a_random_folder_has_the_ids_of_transformers(tmp_path, seed):
    """Guards against a combination of files, forms and flags in which a token gets another id, or none.

    The reference is as in test_added_tokens.py: tokenizer.json as it is written, else LlamaTokenizer.
    """
    draw = random.Random(seed)
    names, has_json = draw_folder(draw, tmp_path)
    if has_json:
        reference, segmentation = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path), "published"
        files = tmp_path
    else:
        # transformers reads tokenizer.model with protobuf; the vocabulary and merges of tokenizer.json are the same
        files = write(tmp_path / "reference", tokenizer_json=llama_json(llama_model()) | {"added_tokens": []})
        for file in tmp_path.glob("*.json"):
            (files / file.name).write_bytes(file.read_bytes())
        reference, segmentation = transformers.LlamaTokenizer.from_pretrained(files), "transformers5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the two files may differ at added tokens, and ids may have gaps
        ours = Tokenizer.from_pretrained(tmp_path)
    added = reference.added_tokens_decoder
    base = ours.vocabulary.added - added.keys() if not has_json else set()
    assert base <= {0, 1, 2}, "LlamaTokenizer takes a <s> that is no BOS for text; tokenizer.model says it is none"
    assert ours.vocab_size == len(reference) and ours.vocabulary.added - base == set(added)
    assert ours.vocabulary.special - base == {i for i, token in added.items() if token.special}
    if base:
        return
    parts = [*names, *names, " ", "  ", "\n", "犬", "a", "の", "<s>", "</s>", "<pad>", "words", "x", "𠮷", "▁"]
    texts = TEXTS + ["".join(draw.choices(parts, k=draw.randint(1, 8))) for _ in range(20)]
    for text in texts:
        for split in (True, False):
            ids = ours.encode(text, bos=False, parse_special=not split, segmentation=segmentation)
            assert ids == reference(text, add_special_tokens=False, split_special_tokens=split).input_ids, (split, text)
        assert ours.decode(ids, skip_special=False) == reference.decode(ids, skip_special_tokens=False), text
        if not any(added[i].special and added[i].normalized for i in ids if i in added):
            assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), text
