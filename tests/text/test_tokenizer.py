"""The tokenizer of a checkpoint: its files, BOS, segmentations, decoding, and Llama's real files."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import tokenizers
from helpers.tokenizer_files import HARD_TEXTS, TEXT, llama_json, llama_model, write
from helpers.tokenizer_pairs import KINDS, id_sequences, json_only, unicode_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jp.text.tokenizer import Tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_bos_is_never_doubled(pair, kind):
    """Guards against a second <s> before the one in a template."""
    tokenizer = getattr(pair, kind)
    assert tokenizer.encode("", bos=True) == [1]
    assert tokenizer.encode("", bos=False) == []
    assert tokenizer.encode("<s>犬", parse_special=True) == tokenizer.encode("犬")
    assert tokenizer.encode("<s>犬", bos=False, parse_special=True) == tokenizer.encode("犬")
    assert tokenizer.encode("<s>", parse_special=True) == [1]
    assert tokenizer.encode("犬<s>", parse_special=True)[:1] == [1]
    assert tokenizer.encode("犬<s>", parse_special=True).count(1) == 2
    as_text = tokenizer.encode("<s>犬")
    assert as_text.count(1) == 1 and tokenizer.decode(as_text) == "<s>犬"


def test_half_a_surrogate_pair_is_refused(pair):
    """Guards against the libraries' own errors, which name a C++ type but not the character or its position."""
    for tokenizer in pair.both:
        with pytest.raises(ValueError, match=r"character 1 of the text is U\+D83D, half a surrogate pair"):
            tokenizer.encode("犬\ud83d")


@pytest.mark.parametrize("kind", KINDS)
def test_whole_string_segmentation_never_parses(pair, kind):
    """Guards against a third segmentation that equals the first."""
    tokenizer = getattr(pair, kind)
    text = "<s>[INST] 犬</s>"
    ids = tokenizer.encode(text, bos=False, parse_special=True, segmentation="whole-string")
    assert ids == pair.sp.encode(text)
    assert ids != tokenizer.encode(text, bos=False, parse_special=True)
    with pytest.raises(ValueError, match="segmentation is 'meta'; it can be 'published'"):
        tokenizer.encode(text, segmentation="meta")


@settings(deadline=None, max_examples=200)
@given(unicode_texts())
def test_decode_inverts_encode(pair, pair_without_prefix, text):
    """Guards against lost characters. Only a literal ▁ is not preserved, because both files write a space so."""
    for each in (pair, pair_without_prefix):
        for tokenizer in each.both:
            assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_decode_equals_the_tokenizers_library(pair, pair_without_prefix, pair_with_pad, data):
    """Guards against a decoder that differs from the file's, on whole characters, with special tokens shown or not."""
    for each in (pair, pair_without_prefix, pair_with_pad):
        ids = data.draw(id_sequences(each, whole=True))
        for tokenizer in each.both:
            assert tokenizer.decode(ids) == each.hf.decode(ids, skip_special_tokens=True)
            assert tokenizer.decode(ids, skip_special=False) == each.hf.decode(ids, skip_special_tokens=False)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_decode_equals_sentencepiece_on_broken_bytes_too(pair, pair_without_prefix, data):
    """Guards against another number of U+FFFD than in the reference, and against lost characters beside bad bytes."""
    for each in (pair, pair_without_prefix):
        ids = [i for i in data.draw(id_sequences(each)) if i not in each.vocabulary.special]
        expected = each.sp.decode(ids)
        if each is pair and ids[:1] == [each.byte_id[0x20]]:
            expected = expected[1:]  # the first space is removed even if it is a byte token; see the next test
        for tokenizer in each.both:
            assert tokenizer.decode(ids) == expected


def test_where_the_libraries_differ(pair):
    """Lists each difference between sentencepiece and tokenizers, and the choice of this project.

    If one of the first asserts fails, a library has changed, and the docstring of `decode` needs an update.
    """
    e3, x81, x82, space = (pair.byte_id[b] for b in (0xE3, 0x81, 0x82, 0x20))
    a = pair.sp.piece_to_id("a")
    good_then_bad = [e3, x81, x82, e3]
    assert pair.sp.decode(good_then_bad) == "あ\ufffd"
    assert pair.hf.decode(good_then_bad) == "\ufffd" * 4  # one bad byte also replaces its neighbours
    assert pair.sp.decode([a, 0, a]) == "a \u2047 a" and pair.hf.decode([a, 0, a]) == "aa"
    assert pair.sp.decode([space, a]) == " a" and pair.hf.decode([space, a]) == "a"
    assert pair.sp.decode([e3, 1, x81, x82]) == "\ufffd" * 3 and pair.hf.decode([e3, 1, x81, x82]) == "あ"
    for tokenizer in pair.both:
        assert tokenizer.decode(good_then_bad) == "あ\ufffd"
        assert tokenizer.decode([a, 0, a]) == "aa"
        assert tokenizer.decode([space, a]) == "a"
        assert tokenizer.decode([e3, 1, x81, x82]) == "あ"


@pytest.mark.parametrize("kind", KINDS)
def test_the_leading_space_is_removed_once(pair, kind):
    """Guards against a special token that counts as the start, and against removing more than one space."""
    tokenizer = getattr(pair, kind)
    space, the, a = (pair.sp.piece_to_id(piece) for piece in ("▁", "▁the", "a"))
    assert tokenizer.decode([the, the]) == "the the"
    assert tokenizer.decode([1, the]) == "the"
    assert tokenizer.decode([1, space, the]) == " the"
    assert tokenizer.decode([space, 1, the]) == " the"
    assert tokenizer.decode([space]) == ""
    assert tokenizer.decode([a, the]) == "a the"
    assert tokenizer.decode([1, the], skip_special=False) == "<s> the"


@pytest.mark.parametrize("kind", KINDS)
def test_ids_without_a_piece_are_skipped(pair, kind):
    """Guards against an error after a long answer: the padding rows of an embedding can produce such ids."""
    tokenizer = getattr(pair, kind)
    size = tokenizer.vocab_size
    ids = tokenizer.encode("犬が座る")
    with_padding = [ids[0], size, *ids[1:3], size + 63, *ids[3:], 10**6]
    assert tokenizer.decode([]) == tokenizer.decode([size]) == ""
    assert tokenizer.decode(with_padding) == pair.hf.decode(with_padding) == tokenizer.decode(ids)
    assert [piece for piece in tokenizer.pieces(with_padding) if piece] == tokenizer.pieces(ids)
    assert len(tokenizer.pieces(with_padding)) == len(with_padding)
    byte = [pair.byte_id[b] for b in "誠".encode()]
    assert tokenizer.decode([byte[0], size, *byte[1:]]) == pair.hf.decode([byte[0], size, *byte[1:]]) == "誠"


@pytest.mark.parametrize("kind", KINDS)
def test_negative_ids_are_refused(pair, kind):
    """Guards against negative indices."""
    tokenizer = getattr(pair, kind)
    for read in (tokenizer.decode, tokenizer.pieces, lambda ids: tokenizer.stream().push(ids[0])):
        with pytest.raises(ValueError, match=f"id -1 is not in the tokenizer, which has {tokenizer.vocab_size} ids"):
            read([-1])


def test_ids_may_be_a_tensor(pair):
    """Guards against showing <s>, because `tensor(1) in special` is False."""
    torch = pytest.importorskip("torch")
    ids = pair.json.encode("犬が座る")
    assert pair.json.decode(torch.tensor(ids)) == "犬が座る"


def test_pieces_have_the_spelling_of_the_file(pair):
    """Guards against decoded text in place of pieces."""
    ids = pair.json.encode("the 𠮷")
    assert pair.json.pieces(ids) == ["<s>", "▁the", "▁", "<0xF0>", "<0xA0>", "<0xAE>", "<0xB7>"]


def test_each_file_alone_is_enough(tmp_path, pair):
    """Guards against a required tokenizer.model, which two of the four published checkpoints lack."""
    for kind, name in (("sentencepiece", "tokenizer_model"), ("json", "tokenizer_json")):
        content = (pair.folder / name.replace("_", ".")).read_bytes()
        tokenizer = Tokenizer.from_pretrained(str(write(tmp_path / kind, **{name: content})))
        assert tokenizer.kind == kind
        assert tokenizer.vocab_size == pair.sp.get_piece_size()
        assert [file.name for file in tokenizer.files] == [name.replace("_", ".")]
        for text in HARD_TEXTS:
            assert tokenizer.encode(text, bos=False) == pair.sp.encode(text)
    assert Tokenizer.from_pretrained(pair.folder).kind == "sentencepiece"


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    """Guards against silently using one of two different tokenizers."""
    model, spec = llama_model(), llama_json(llama_model())
    names = {i: piece for piece, i in spec["model"]["vocab"].items()}
    one, other = names[500], names[501]
    renamed = json.loads(json.dumps(spec))
    renamed["model"]["vocab"] |= {one: 501, other: 500}
    folder = write(tmp_path / "renamed", tokenizer_model=model, tokenizer_json=renamed)
    with pytest.raises(ValueError, match=f"belong together: id 500 is '{one}' in one and '{other}' in the other"):
        Tokenizer.from_pretrained(folder)
    for kind in KINDS:  # the advice in the message works
        assert Tokenizer.from_pretrained(folder, kind=kind).kind == kind


def edited(spec: dict, **model: object) -> dict:
    return spec | {"model": spec["model"] | model}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda spec: edited(spec, merges=spec["model"]["merges"][::-1]), "encode '.*' differently: from token"),
        (lambda spec: edited(spec, merges=spec["model"]["merges"][:-40]), "encode '.*' differently: from token"),
        (lambda _: llama_json(llama_model(), add_dummy_prefix=False), "encode 'a' differently: from token 0 on"),
        (
            lambda spec: edited(spec, vocab=spec["model"]["vocab"] | {"犬犬犬": 560}),
            "one has 560 pieces, and the other 561",
        ),
        (lambda spec: spec | {"normalizer": {"type": "NFKC"}}, "encode '.*' differently: from token"),
    ],
)
def test_of_two_files_that_differ_tokenizer_json_counts(tmp_path, change, sentence):
    """Guards against silently using tokenizer.model where transformers uses tokenizer.json."""
    model, spec = llama_model(), change(llama_json(llama_model()))
    folder = write(tmp_path, tokenizer_model=model, tokenizer_json=spec)
    with pytest.warns(UserWarning, match=f"{sentence}.*; tokenizer.json is used, as in transformers") as caught:
        tokenizer = Tokenizer.from_pretrained(folder)
    assert len(caught) == 1 and "\n" not in str(caught[0].message) and caught[0].filename == __file__
    hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in TEXT.splitlines():
        assert tokenizer.encode(text, bos=False) == hf.encode(text, add_special_tokens=False).ids
    for kind in KINDS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert Tokenizer.from_pretrained(folder, None, kind).kind == kind


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, pair):
    """Guards against an error that names only one of the two possible files."""
    with pytest.raises(FileNotFoundError, match="neither tokenizer.model nor tokenizer.json"):
        Tokenizer.from_pretrained(tmp_path)
    folder = json_only(pair)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.model, which kind='sentencepiece' needs"):
        Tokenizer.from_pretrained(folder, kind="sentencepiece")
    with pytest.raises(ValueError, match="kind is 'slow'; it can be 'sentencepiece' or 'json'"):
        Tokenizer.from_pretrained(folder, kind="slow")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_model", b""),
        ("tokenizer_model", b"version https://git-lfs.github.com/spec/v1\noid sha256:9e55\n"),
        ("tokenizer_model", llama_model()[:4000]),
        ("tokenizer_json", b""),
        ("tokenizer_json", b"{}"),
        ("tokenizer_json", b"[1]"),
        ("tokenizer_json", b"\xff\xfe{}"),
        ("tokenizer_json", json.dumps(llama_json(llama_model())).encode()[:9000]),
        ("tokenizer_json", {"version": "1.0", "model": {"type": "BPE"}}),
        ("tokenizer_json", {"version": "1.0", "model": "BPE", "decoder": [1]}),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    """Guards against a bare RuntimeError or Exception of a library, without the file name."""
    file = name.replace("_", ".")
    sentence = rf"{file}( is damaged| is not valid JSON| is not UTF-8| holds a list)"
    with pytest.raises(ValueError, match=sentence) as caught:
        Tokenizer.from_pretrained(write(tmp_path, **{name: content}))
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    """Guards against "No such file or directory" for a file without read permission."""
    folder = write(tmp_path, tokenizer_model=llama_model())
    original = Path.open

    def open_path(self, *args, **kwargs):
        if self.name == "tokenizer.model":
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_path)  # file modes do not bind the user root, who may run the tests
    with pytest.raises(PermissionError, match="no permission to read .*tokenizer.model"):
        Tokenizer.from_pretrained(folder)


def test_a_folder_of_another_kind_is_named(tmp_path):
    """Guards against "has no tokenizer" alone for an adapter, and against a revision that is ignored."""
    folder = write(tmp_path, adapter_config_json={"base_model_name_or_path": "elyza/x"})
    with pytest.raises(FileNotFoundError, match="has no tokenizer: .*; it is a PEFT adapter: .* elyza/x"):
        Tokenizer.from_pretrained(folder)
    with pytest.raises(ValueError, match="only hub repositories have revisions"):
        Tokenizer.from_pretrained(folder, "main")


def test_damaged_json_files_beside_the_tokenizer_are_named(tmp_path):
    """Guards against an error without the file name."""
    for name in ("tokenizer_config_json", "special_tokens_map_json"):
        folder = write(tmp_path / name, tokenizer_model=llama_model(), **{name: b"{"})
        with pytest.raises(ValueError, match=name.removesuffix("_json") + r"\.json is not valid JSON"):
            Tokenizer.from_pretrained(folder)


def test_names_are_resolved_as_for_models(pair, monkeypatch):
    """Guards against short names that work for models only, and against downloading weights for a tokenizer."""
    calls = []
    monkeypatch.setattr(
        "llama_jp.text.tokenizer.find_checkpoint", lambda *given, **kw: calls.append((given, kw)) or pair.folder
    )
    assert Tokenizer.from_pretrained("7b-fast", "refs/pr/2").vocab_size == pair.json.vocab_size
    assert calls == [(("7b-fast", "refs/pr/2"), {"weights": False})]


def test_save_pretrained_copies_the_files(tmp_path, pair):
    """Guards against a saved tokenizer whose files differ from the published ones."""
    folder = write(
        tmp_path / "from",
        tokenizer_model=(pair.folder / "tokenizer.model").read_bytes(),
        tokenizer_json=(pair.folder / "tokenizer.json").read_bytes(),
        tokenizer_config_json={"legacy": False},
        special_tokens_map_json={"pad_token": "</s>"},
        config_json={},
    )
    tokenizer = Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path / "to" / "deep")
    tokenizer.save_pretrained(folder)  # onto itself: nothing to do
    saved = {file.name: file.read_bytes() for file in (tmp_path / "to" / "deep").iterdir()}
    assert saved == {file.name: file.read_bytes() for file in tokenizer.files}
    assert len(saved) == 4 and "config.json" not in saved
    assert Tokenizer.from_pretrained(tmp_path / "to" / "deep").pad_id == 2


@pytest.mark.parametrize("kind", KINDS)
def test_known_ids(llama2, kind):
    """Guards against every mistake at once: these ids were published by others."""
    tokenizer = getattr(llama2, kind)
    known = {
        "": [1],
        "　": [1, 29871, 30358],
        "𠮷野家": [1, 29871, 243, 163, 177, 186, 30661, 30613],
        "grabbed": [1, 2646, 1327, 287],
        "镇": [1, 29871, 30411],
    }
    for text, ids in known.items():
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("hi<s>there", parse_special=True) == [1, 7251, 1, 727]
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (32000, 1, 2, 0)
    assert tokenizer.pad_id == 2  # ELYZA-7b's special_tokens_map.json
    assert tokenizer.encode("誠", bos=False)[1:] == [235, 173, 163]

    start = "<s>[INST] <<SYS>>"
    segmentations = {"published": [1, 518, 25580, 29962, 3532], "transformers5": [1, 29961, 25580, 29962]}
    segmentations["whole-string"] = [529, 29879, 24566]
    for segmentation, ids in segmentations.items():
        assert tokenizer.encode(start, bos=False, parse_special=True, segmentation=segmentation)[: len(ids)] == ids


def test_the_novel(llama2, novel):
    """Guards against rare differences between the two libraries on real Japanese text, by line and as a whole."""
    first, second = llama2.both
    for line in novel.splitlines(keepends=True):
        ids = first.encode(line, bos=False)
        assert ids == second.encode(line, bos=False) == llama2.sp.encode(line)
        assert first.decode(ids) == second.decode(ids) == llama2.hf.decode(ids) == line
    whole = first.encode(novel)
    assert whole == second.encode(novel)
    assert first.decode(whole) == novel


@settings(deadline=None, max_examples=100)
@given(unicode_texts())
def test_real_files_agree_on_any_text(llama2, text):
    """Guards against differences that appear only with a vocabulary of full size."""
    first, second = llama2.both
    assert first.encode(text) == second.encode(text) == [1, *llama2.sp.encode(text)]
    parsed = first.encode(text, bos=False, parse_special=True)
    assert parsed == second.encode(text, bos=False, parse_special=True) == llama2.hf_encode(text)
    again = {t.kind: t.encode(text, bos=False, parse_special=True, segmentation="transformers5") for t in llama2.both}
    assert again["sentencepiece"] == again["json"]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 31999) | st.integers(0, 260) | st.sampled_from([26308, 30140, 29871]), max_size=20))
def test_real_files_agree_on_any_ids(llama2, ids):
    """Guards against differences in decoding that appear only with a vocabulary of full size."""
    first, second = llama2.both
    assert first.decode(ids) == second.decode(ids)
    plain = [i for i in ids if i > 2]
    if plain[:1] != [llama2.byte_id[0x20]]:
        assert first.decode(plain) == llama2.sp.decode(plain)


def test_real_files_equal_transformers_5(llama2, novel):
    """Guards against a transformers5 segmentation that equals transformers on small vocabularies only."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.LlamaTokenizer.from_pretrained(llama2.folder)
    for text in [*novel.splitlines()[:60], "<s>[INST] <<SYS>>\n犬", " 犬 ", "hi<s>there", "a<s>  b</s>"]:
        expected = reference(text, add_special_tokens=False).input_ids
        for tokenizer in llama2.both:
            assert tokenizer.encode(text, bos=False, parse_special=True, segmentation="transformers5") == expected
