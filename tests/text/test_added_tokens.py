"""Added tokens: every file that declares them, every flag, and both backends, against transformers."""

from __future__ import annotations

import itertools
import json
import warnings

import pytest
import transformers
from helpers.tokenizer_files import added_token, llama_json, llama_model, real_data, write
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jp.text.tokenizer import Tokenizer

SIZE = 560  # of the small vocabulary: the id of the first added token
CHATML = ["<|im_start|>", "<|im_end|>"]
TEXTS = [
    "犬<pad>魚",
    "<pad>",
    " <pad> 犬",
    "犬  <pad>  犬 <pad><pad>a",
    "<|im_start|>user\n犬と魚<|im_end|>\n<|im_start|>assistant\n",
    "a<x>b <x>  b\n<x>\n犬<x><pad>犬",
    "犬wordwords words word、word",
    "<s>犬</s><unk> <s>",
    "▁<pad>▁a",
    "",
]


def flags(content: str, **changes: bool) -> dict:
    return {key: value for key, value in added_token(0, content).items() if key != "id"} | changes


# The tokens of a fine-tune: (name, special, flags).
TOKENS = {
    "pad": [flags("<pad>")],
    "chatml": [flags(name) for name in CHATML],
    "flags": [flags("<x>", lstrip=True, rstrip=True), flags("<pad>", rstrip=True)],
    "text": [flags("<x>", special=False, lstrip=True), flags("word", special=False, single_word=True)],
    "normalized": [flags("<pad>", normalized=True), flags("word", special=False, normalized=True)],
}
NAMED = {
    "none": {},
    "pad": {"pad_token": "<pad>"},
    "all": {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "nowhere": {"pad_token": "[PAD]", "mask_token": "<mask>"},
    "object": {"pad_token": flags("<pad>", lstrip=True)},
    "extra": {"additional_special_tokens": ["<x>", "word"]},
}
PLACES = ["added_tokens.json", "added_tokens_decoder", "tokenizer.json", "both json files", "all"]


def make_folder(folder, tokens: list[dict], place: str, named: dict, named_in: str, kinds: str):
    """A folder with some tokenizer files: `tokens` in a place, and named special tokens in one of two files."""
    model, spec = llama_model(), llama_json(llama_model())
    files: dict = {}
    config: dict = {"tokenizer_class": "LlamaTokenizer"}
    ids = dict(enumerate(tokens, SIZE))
    if place in ("added_tokens.json", "both json files", "all"):
        files["added_tokens_json"] = {token["content"]: i for i, token in ids.items()}
    if place in ("added_tokens_decoder", "all"):
        base = {str(i): flags(name) for i, name in enumerate(["<unk>", "<s>", "</s>"])}
        config["added_tokens_decoder"] = base | {str(i): token for i, token in ids.items()}
    if place in ("tokenizer.json", "both json files", "all"):
        spec["added_tokens"] += [{"id": i} | token for i, token in ids.items()]
    if named_in == "config":
        # transformers takes an object in this file for an AddedToken only with its __type
        mark = {"__type": "AddedToken"}
        config |= {key: value | mark if isinstance(value, dict) else value for key, value in named.items()}
    elif named:
        files["special_tokens_map_json"] = named
    if "m" in kinds:
        files["tokenizer_model"] = model
    if "j" in kinds:
        files["tokenizer_json"] = spec
    return write(folder, tokenizer_config_json=config, **files)


SHAPES = [
    shape
    for shape in itertools.product(TOKENS, PLACES, NAMED, ["config", "map"], ["m", "j", "mj"])
    if not (shape[1] in ("tokenizer.json", "both json files") and shape[4] == "m")
    and not (shape[2] == "none" and shape[3] == "map")
]


@pytest.mark.parametrize(("tokens", "place", "named", "named_in", "kinds"), SHAPES)
def test_ids_equal_transformers_on_every_shape_of_folder(tmp_path, tokens, place, named, named_in, kinds):
    """Guards against a place, a flag or a name that is ignored, and against other ids than the model was trained on.

    The reference follows tokenizer.json as it is written. Without this file it is LlamaTokenizer, which replaces the
    normaliser; the splits at added tokens are then compared, and each part is text of its own for SentencePiece.
    """
    folder = make_folder(tmp_path, TOKENS[tokens], place, NAMED[named], named_in, kinds)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tokenizer.model and tokenizer.json|.*encode .* differently")
        ours = Tokenizer.from_pretrained(folder)
    if "j" in kinds:
        reference, segmentation = transformers.PreTrainedTokenizerFast.from_pretrained(folder), "published"
    else:  # transformers reads tokenizer.model with protobuf; the vocabulary and merges of tokenizer.json are the same
        write(folder, tokenizer_json=llama_json(llama_model()))
        reference, segmentation = transformers.LlamaTokenizer.from_pretrained(folder), "transformers5"
    added = reference.added_tokens_decoder
    assert ours.vocab_size == len(reference)
    assert ours.vocabulary.added == set(added)
    assert ours.vocabulary.special == {i for i, token in added.items() if token.special}
    assert ours.pad_id == reference.pad_token_id
    for text in TEXTS:
        ids = ours.encode(text, bos=False, parse_special=True, segmentation=segmentation)
        assert ids == reference(text, add_special_tokens=False).input_ids, text
        assert ours.decode(ids, skip_special=False) == reference.decode(ids, skip_special_tokens=False), text
        # tokenizers shows a special token with the flag `normalized`, if the normaliser changes its name
        if not any(added[i].special and added[i].normalized for i in ids if i in added):
            assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True), text


@pytest.mark.parametrize("tokens", ["pad", "chatml", "flags", "text"])
@pytest.mark.parametrize("place", ["added_tokens_decoder", "tokenizer.json", "both json files", "all"])
def test_both_files_split_a_text_alike(tmp_path, tokens, place):
    """Guards against a tokenizer.model whose ids near an added token differ from those of its tokenizer.json."""
    folder = make_folder(tmp_path, TOKENS[tokens], place, {}, "config", "mj")
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Tokenizer.from_pretrained(folder).kind == "sentencepiece"
    for kind in ("sentencepiece", "json"):
        ours = Tokenizer.from_pretrained(folder, kind=kind)
        for text in TEXTS:
            ids = ours.encode(text, bos=False, parse_special=True)
            assert ids == reference(text, add_special_tokens=False).input_ids, (kind, text)
            as_text = ours.encode(text, bos=False)
            assert as_text == reference(text, add_special_tokens=False, split_special_tokens=True).input_ids, (
                kind,
                text,
            )
            assert not set(as_text) & ours.vocabulary.special


# Forms in which files declare a special token: (added tokens of tokenizer.json, tokenizer_config.json, the map).
IM_END = [flags("<|im_end|>", special=False, lstrip=True)]
IMAGE, BOI = flags("<image>", lstrip=True), {"boi_token": "<boi>", "image_token": "<img>"}
FORMS = {
    "a role makes a token special": (IM_END, {}, {"eos_token": "<|im_end|>"}),
    "a role of the configuration does": (IM_END, {"eos_token": "<|im_end|>"}, {}),
    "a role that is an object": ([], {"image_token": IMAGE | {"__type": "AddedToken"}}, {}),
    "a role that is an object of the map": ([], {"sep_token": "<sep>"}, {"image_token": IMAGE}),
    "an own role stands behind the others": ([], {"image_token": "<image>", "pad_token": "<pad>"}, {}),
    "an own role in both files": ([], {"image_token": "<image>"}, {"image_token": "<img>", "boi_token": "<boi>"}),
    "roles without their suffix": ([], {"extra_special_tokens": BOI}, {"extra_special_tokens": ["<x>"]}),
    "more roles and more tokens": ([], {"extra_special_tokens": BOI, "additional_special_tokens": ["<x>"]}, {}),
    "two lists": ([], {"extra_special_tokens": ["<x>"], "additional_special_tokens": ["<pad>"]}, {}),
    "a list in each file": ([], {"extra_special_tokens": ["<x>"]}, {"extra_special_tokens": ["<pad>", "<x>"]}),
    "the older list of the map": ([], {"extra_special_tokens": ["<x>"]}, {"additional_special_tokens": ["<pad>"]}),
    "the older list alone": ([], {}, {"additional_special_tokens": ["<pad>"]}),
    "a role without a token": ([], {"pad_token": "<pad>", "sep_token": "<sep>"}, {"pad_token": None}),
    "a role with other flags": (
        [],
        {"pad_token": flags("<pad>", normalized=True) | {"__type": "AddedToken"}, "extra_special_tokens": ["<pad>"]},
        {},
    ),
    "the name of a byte": ([flags("<0x41>", special=False, normalized=True)], {}, {}),
    "the name of a piece": ([flags("犬", normalized=True)], {}, {}),
}


@pytest.mark.parametrize("kinds", ["j", "mj"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_special_token_counts_as_in_transformers(tmp_path, form, kinds):
    """Guards against a token that gets another id, other flags, or no place at all because of the form of its file."""
    tokens, config, in_map = FORMS[form]
    spec = llama_json(llama_model())
    for i, token in enumerate(tokens, SIZE):
        spec["added_tokens"].append({"id": spec["model"]["vocab"].get(token["content"], i)} | token)
    files = {"tokenizer_model": llama_model()} if "m" in kinds else {}
    folder = write(tmp_path, tokenizer_json=spec, tokenizer_config_json=config, special_tokens_map_json=in_map, **files)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "tokenizer.model and tokenizer.json|.*encode .* differently")
        ours = Tokenizer.from_pretrained(folder)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    added = reference.added_tokens_decoder
    assert {i: ours.vocabulary.piece(i) for i in ours.vocabulary.added} == {i: str(token) for i, token in added.items()}
    assert ours.vocabulary.special == {i for i, token in added.items() if token.special}
    assert (ours.pad_id, ours.eos_id or 2) == (reference.pad_token_id, reference.eos_token_id or 2)
    for text in [*TEXTS, "words<pad>", " <|im_end|>犬犬<image> <img><boi>", "<0x41> <0x41>犬", "<sep><pad><x>"]:
        ids = ours.encode(text, bos=False, parse_special=True)
        assert ids == reference(text, add_special_tokens=False).input_ids, text
        if form != "a role with other flags":  # tokenizers decodes the first of two tokens with one name
            assert ours.decode(ids, skip_special=False) == reference.decode(ids, skip_special_tokens=False), text


def test_a_part_between_two_added_tokens_is_a_text_of_its_own(tmp_path):
    """Guards against the ids of the whole string: for SentencePiece, "犬<pad>魚" has one text, and here it has two."""
    folder = make_folder(tmp_path, TOKENS["pad"], "added_tokens.json", NAMED["pad"], "map", "m")
    ours = Tokenizer.from_pretrained(folder)
    sp = ours._backend._processor
    assert ours.encode("犬<pad>魚", bos=False, parse_special=True) == [*sp.encode("犬"), SIZE, *sp.encode("魚")]
    assert ours.encode("犬<pad>魚", bos=False) == sp.encode("犬<pad>魚")


def test_an_id_after_a_gap_follows_transformers_with_a_warning(tmp_path):
    """Guards against an id that transformers does not give, and against silently giving another id than the file."""
    spec = llama_json(llama_model())
    folder = write(tmp_path, tokenizer_json=spec, added_tokens_json={"<pad>": SIZE + 7})
    with pytest.warns(UserWarning, match=f"the added token '<pad>' gets the id {SIZE} and not {SIZE + 7}, because"):
        ours = Tokenizer.from_pretrained(folder)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    assert ours.vocabulary.piece(SIZE) == "<pad>" and reference.convert_tokens_to_ids("<pad>") == SIZE
    with pytest.warns(UserWarning, match=f"the added token '<pad>' gets the id {SIZE} and not {SIZE + 7}, because"):
        write(folder, tokenizer_model=llama_model())
        assert Tokenizer.from_pretrained(folder, kind="sentencepiece").vocabulary.piece(SIZE) == "<pad>"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"added_tokens_json": {"<pad>": "560"}}, "added_tokens.json: the id of '<pad>' is '560', but"),
        ({"added_tokens_json": {"<pad>": -1}}, "added_tokens.json: the id of '<pad>' is -1, but"),
        ({"added_tokens_json": [1]}, "added_tokens.json holds a list"),
        ({"tokenizer_config_json": {"added_tokens_decoder": [1]}}, "added_tokens_decoder has to be an object with ids"),
        (
            {"tokenizer_config_json": {"added_tokens_decoder": {"x": "<pad>"}}},
            "added_tokens_decoder has to be an object",
        ),
        ({"tokenizer_config_json": {"added_tokens_decoder": {"560": {}}}}, "tokenizer_config.json: a token is {}, but"),
        ({"tokenizer_config_json": {"pad_token": 3}}, "tokenizer_config.json: a token is 3, but it has to be a string"),
        (
            {"special_tokens_map_json": {"pad_token": {"content": "a", "lstrip": 1}}},
            "special_tokens_map.json: a token is",
        ),
        (
            {"special_tokens_map_json": {"extra_special_tokens": "a"}},
            "extra_special_tokens is 'a', but it has to be a list",
        ),
        (
            {"tokenizer_json": llama_json(llama_model()) | {"added_tokens": [1]}},
            "tokenizer.json is damaged: added_tokens",
        ),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, files, sentence):
    """Guards against a TypeError or KeyError for a file that was written by hand."""
    with pytest.raises(ValueError, match=sentence) as error:
        Tokenizer.from_pretrained(write(tmp_path, tokenizer_model=llama_model(), **files))
    assert "\n" not in str(error.value)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.sampled_from(["<pad>", "<x>", "word", "<s>", " ", "  ", "\n", "犬", "a", "▁", "\0", "。"]), max_size=9)
)
def test_the_split_equals_the_library_on_any_text(flagged, text):
    """Guards against flags that are handled by other rules than the library's."""
    ours, reference = flagged
    text = "".join(text)
    for parse_special in (True, False):
        ids = reference(text, add_special_tokens=False, split_special_tokens=not parse_special).input_ids
        for tokenizer in ours:
            assert tokenizer.encode(text, bos=False, parse_special=parse_special) == ids


@pytest.fixture(scope="module")
def flagged(tmp_path_factory):
    """Both kinds of tokenizer for one folder with all flags, and transformers' tokenizer."""
    tokens = [*TOKENS["flags"], flags("word", special=False, single_word=True)]
    folder = make_folder(tmp_path_factory.mktemp("flagged"), tokens, "all", {}, "config", "mj")
    ours = [Tokenizer.from_pretrained(folder, kind=kind) for kind in ("sentencepiece", "json")]
    return ours, transformers.PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("with_json", [False, True])
def test_a_fine_tune_of_llama_2_loads(tmp_path, with_json):
    """Guards against refusing the usual fine-tune, with <pad> as id 32000 beside the real vocabulary."""
    real = real_data("llama2-tokenizer")
    files = {"tokenizer_model": (real / "tokenizer.model").read_bytes()}
    if with_json:
        spec = json.loads((real / "tokenizer.json").read_text(encoding="utf-8"))
        spec["added_tokens"].append(added_token(32000, "<pad>"))
        files["tokenizer_json"] = spec
    folder = write(
        tmp_path, added_tokens_json={"<pad>": 32000}, special_tokens_map_json={"pad_token": "<pad>"}, **files
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenizer = Tokenizer.from_pretrained(folder)
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (32001, 32000, 1, 2)
    assert tokenizer.encode("hi<pad>there", parse_special=True) == [1, 7251, 32000, 727]
    assert tokenizer.encode("𠮷野家") == [1, 29871, 243, 163, 177, 186, 30661, 30613]
