"""Text <-> ids: held against the two libraries themselves, on small tokenizers made here and on Llama's real files."""

from __future__ import annotations

import functools
import json

import pytest
import sentencepiece
import tokenizers
from helpers.tokenizer_files import HARD_TEXTS, TEXT, added_token, llama_json, llama_model, real_data, write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_jp.text.streaming import whole_characters
from llama_jp.text.tokenizer import Tokenizer

KINDS = ["sentencepiece", "json"]
REPLACEMENT = "\ufffd"


class Made:
    """A folder with both files, our two tokenizers over it, and the two libraries themselves."""

    def __init__(self, folder, model=None, spec=None):
        self.folder = folder
        if model is not None:
            write(folder, tokenizer_model=model, tokenizer_json=spec)
        self.sentencepiece = Tokenizer.from_pretrained(folder, kind="sentencepiece")
        self.json = Tokenizer.from_pretrained(folder, kind="json")
        self.both = [self.sentencepiece, self.json]
        self.sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        self.hf = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vocabulary = self.sentencepiece.vocabulary
        self.byte_id = {byte: i for i, byte in self.vocabulary.byte_values.items()}

    def hf_encode(self, text):
        return self.hf.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    model = llama_model()
    return Made(tmp_path_factory.mktemp("small"), model, llama_json(model))


@pytest.fixture(scope="module")
def no_prefix(tmp_path_factory):
    model = llama_model(add_dummy_prefix=False)
    return Made(tmp_path_factory.mktemp("no_prefix"), model, llama_json(model, add_dummy_prefix=False))


@pytest.fixture(scope="module")
def padded(tmp_path_factory):
    model = llama_model(pad_id=3, control_symbols=["<sep>"])
    return Made(tmp_path_factory.mktemp("padded"), model, llama_json(model))


@pytest.fixture(scope="module")
def llama2():
    return Made(real_data("llama2-tokenizer"))


@pytest.fixture(scope="module")
def novel():
    return (real_data("text") / "wagahai-wa-neko-de-aru.txt").read_bytes().decode("utf-8")


def texts():
    """Any Unicode text, pieces of our own, special tokens and odd spaces, all mixed."""
    chunks = st.one_of(
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
        st.text(alphabet="aあ犬 　▁\n<s/>\ufffd𠮷", max_size=12),
        st.sampled_from(["<s>", "</s>", "<unk>", "<pad>", "<sep>", "[INST]", "  ", *TEXT.split("。")]),
    )
    return st.lists(chunks, max_size=6).map("".join)


def per_byte(data: bytes) -> str:
    """How broken UTF-8 reads, the slow way: at each place the character that is there, else one U+FFFD for one byte."""
    text, at = "", 0
    while at < len(data):
        for size in (1, 2, 3, 4):
            try:
                text += data[at : at + size].decode("utf-8")
                at += size
                break
            except UnicodeDecodeError:
                continue
        else:
            text, at = text + REPLACEMENT, at + 1
    return text


# --- text -> ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HARD_TEXTS + TEXT.splitlines())
def test_plain_text_is_cut_as_both_libraries_cut_it(small, text):
    """Against: a normaliser of our own, NFKC, a lost or doubled leading space, stripped line ends, trimmed text."""
    expected = small.sp.encode(text)
    for tokenizer in small.both:
        assert tokenizer.encode(text, bos=False) == expected
        assert tokenizer.encode(text) == [1, *expected]


@settings(deadline=None, max_examples=200)
@given(texts())
def test_any_text_is_cut_alike_by_both_kinds(small, text):
    """Against: the two files of one checkpoint giving different ids, with and without special tokens parsed."""
    ours, theirs = small.both
    assert ours.encode(text) == theirs.encode(text) == [1, *small.sp.encode(text)]
    parsed = ours.encode(text, bos=False, parse_special=True)
    assert parsed == theirs.encode(text, bos=False, parse_special=True) == small.hf_encode(text)


@settings(deadline=None, max_examples=100)
@given(texts())
def test_any_text_is_cut_alike_without_a_dummy_prefix_and_with_more_specials(no_prefix, padded, text):
    """Against: add_dummy_prefix, or the list of special tokens, living in code instead of in the file."""
    for made in (no_prefix, padded):
        ours, theirs = made.both
        assert ours.encode(text, bos=False) == theirs.encode(text, bos=False) == made.sp.encode(text)
        parsed = ours.encode(text, bos=False, parse_special=True)
        assert parsed == theirs.encode(text, bos=False, parse_special=True) == made.hf_encode(text)


def test_dummy_prefix_comes_from_the_file(small, no_prefix):
    """Against: a space put before text, or taken off it, whatever the file says."""
    for tokenizer in small.both:
        ids = tokenizer.encode("犬", bos=False)
        assert "".join(tokenizer.pieces(ids)).startswith("▁")
        assert tokenizer.decode(ids) == "犬"
        assert tokenizer.decode(tokenizer.encode(" 犬")) == " 犬"
    for tokenizer in no_prefix.both:
        ids = tokenizer.encode("犬", bos=False)
        assert not tokenizer.pieces(ids)[0].startswith("▁")
        assert tokenizer.decode(ids) == "犬"
        assert tokenizer.decode(tokenizer.encode(" 犬")) == " 犬"


def test_remove_extra_whitespaces_comes_from_the_file(tmp_path):
    """Against: Llama's setting assumed for every tokenizer.model. Others trim text, and drop all leading spaces."""
    folder = write(tmp_path, tokenizer_model=llama_model(remove_extra_whitespaces=True))
    tokenizer = Tokenizer.from_pretrained(folder)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for text in ["  a  b ", "犬", " "]:
        assert tokenizer.encode(text, bos=False) == sp.encode(text)
        assert tokenizer.decode(sp.encode(text)) == sp.decode(sp.encode(text))
    space = sp.piece_to_id("▁")
    ids = [1, *[space] * 5, *sp.encode("a b")]
    assert tokenizer.decode(ids) == sp.decode(ids) == "a b"


@pytest.mark.parametrize("kind", KINDS)
def test_bos_is_never_doubled(small, kind):
    """Against: the template's own <s> getting a second one before it."""
    tokenizer = getattr(small, kind)
    assert tokenizer.encode("", bos=True) == [1]
    assert tokenizer.encode("", bos=False) == []
    assert tokenizer.encode("<s>犬", parse_special=True) == tokenizer.encode("犬")
    assert tokenizer.encode("<s>犬", bos=False, parse_special=True) == tokenizer.encode("犬")
    assert tokenizer.encode("<s>", parse_special=True) == [1]
    assert tokenizer.encode("犬<s>", parse_special=True)[:1] == [1]
    assert tokenizer.encode("犬<s>", parse_special=True).count(1) == 2
    as_text = tokenizer.encode("<s>犬")
    assert as_text.count(1) == 1 and tokenizer.decode(as_text) == "<s>犬"


@settings(deadline=None, max_examples=150)
@given(texts())
@example("<s></s><unk><pad><sep>")
@example("<s><s></s></s>")
def test_text_cannot_smuggle_in_special_tokens(padded, text):
    """Against: a user who types </s> ending the turn. The tokenizers library parses specials unless told not to."""
    for tokenizer in padded.both:
        ids = tokenizer.encode(text, bos=False)
        assert not set(ids) & tokenizer.vocabulary.special
        assert tokenizer.decode(ids) == text.replace("▁", " ")


def test_user_defined_symbols_are_pieces_of_text(tmp_path):
    """Against: taking every added token for a special one. These are cut out of text always, and shown always."""
    model = llama_model(user_defined_symbols=["【犬】"])
    made = Made(tmp_path, model, llama_json(model, user_defined=("【犬】",)))
    symbol = made.sp.piece_to_id("【犬】")
    for tokenizer in made.both:
        assert tokenizer.encode("朝【犬】", bos=False).count(symbol) == 1
        assert tokenizer.decode([1, symbol, 2]) == "【犬】"
    # The one thing in which the files themselves differ: tokenizers puts a space before what follows the symbol.
    ids = made.sentencepiece.encode("a【犬】b", bos=False)
    assert ids == made.sp.encode("a【犬】b") and made.sentencepiece.decode(ids) == "a【犬】b"
    ids = made.json.encode("a【犬】b", bos=False)
    assert ids == made.hf_encode("a【犬】b") and made.json.decode(ids) == made.hf.decode(ids) == "a【犬】 b"


def test_half_a_surrogate_pair_is_refused(small):
    """Against: the libraries' own errors, which name a C++ type and neither the character nor its place."""
    for tokenizer in small.both:
        with pytest.raises(ValueError, match=r"character 1 of the text is U\+D83D, half a surrogate pair"):
            tokenizer.encode("犬\ud83d")


def test_truncation_and_padding_of_the_file_change_nothing(tmp_path):
    """Against: a tokenizer.json saved while training, which would cut every prompt to 4 tokens without a word."""
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


# --- the three readings ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transformers5(small):
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaTokenizer.from_pretrained(_json_only(small.folder))


def _json_only(folder):
    return write(folder / "json_only", tokenizer_json=(folder / "tokenizer.json").read_bytes())


@settings(deadline=None, max_examples=150)
@given(texts())
@example("<s>[INST] <<SYS>>\n犬")
@example(" 犬")
@example("  犬<s> 犬")
@example("<s>  </s>")
def test_transformers5_reading_is_what_transformers_5_gives(small, transformers5, text):
    """Against: a comparison mode that compares with something nobody has."""
    for tokenizer in small.both:
        ids = tokenizer.encode(text, bos=False, parse_special=True, reading="transformers5")
        assert ids == transformers5(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("config", [{"legacy": True}, {"legacy": False}, {"add_prefix_space": False}])
def test_transformers5_reading_follows_tokenizer_config(small, tmp_path, config):
    """Against: forgetting that `legacy` moves the leading space in transformers 5, too."""
    transformers = pytest.importorskip("transformers")
    spec = (small.folder / "tokenizer.json").read_bytes()
    folder = write(tmp_path, tokenizer_json=spec, tokenizer_config_json=config)
    reference = transformers.LlamaTokenizer.from_pretrained(folder)
    write(folder, tokenizer_model=(small.folder / "tokenizer.model").read_bytes())
    for kind in KINDS:
        tokenizer = Tokenizer.from_pretrained(folder, kind=kind)
        for text in ["犬<s>犬", "<s>[INST] 犬", "  a<s> a", ""]:
            ids = tokenizer.encode(text, bos=False, parse_special=True, reading="transformers5")
            assert ids == reference(text, add_special_tokens=False).input_ids, (kind, text)


def test_a_tokenizer_json_that_transformers_5_wrote_is_read_as_written(transformers5, tmp_path):
    """Against: the 4.30 layout being the only one that loads, or being read into a file that says otherwise."""
    transformers5.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    for text in [*HARD_TEXTS, *TEXT.splitlines(), "犬<s>犬"]:
        ids = tokenizer.encode(text, bos=False, parse_special=True)
        assert ids == transformers5(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == transformers5.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", KINDS)
def test_whole_string_reading_never_parses(small, kind):
    """Against: the third reading being another name for the first."""
    tokenizer = getattr(small, kind)
    text = "<s>[INST] 犬</s>"
    ids = tokenizer.encode(text, bos=False, parse_special=True, reading="whole-string")
    assert ids == small.sp.encode(text)
    assert ids != tokenizer.encode(text, bos=False, parse_special=True)
    with pytest.raises(ValueError, match="reading is 'meta'; it can be 'published'"):
        tokenizer.encode(text, reading="meta")


# --- ids -> text ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(texts())
def test_text_comes_back(small, no_prefix, text):
    """Against: anything lost on the way. Only a literal ▁ does not come back: it is how both files write a space."""
    for made in (small, no_prefix):
        for tokenizer in made.both:
            assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@functools.cache
def sequences(made, whole=False):
    """Sequences of ids: any id, runs of specials, spaces and bytes; whole=True keeps the bytes in whole characters."""
    specials = sorted(made.vocabulary.special)
    spaces = [i for i, piece in made.vocabulary.pieces.items() if piece.startswith("▁")]
    other = [i for i in made.vocabulary.pieces if i not in made.byte_id.values()]
    characters = st.characters(exclude_categories=["Cs"]).map(lambda c: [made.byte_id[b] for b in c.encode("utf-8")])
    pieces = [
        st.lists(st.sampled_from(other), max_size=3),
        st.lists(st.sampled_from(specials), max_size=2),
        st.lists(st.sampled_from(spaces), max_size=3),
        characters,
    ]
    if not whole:
        lead = [0xE3, 0x81, 0x82, 0xF0, 0x9F, 0x90, 0xED, 0xA0, 0xC0, 0xFF, 0xEF, 0xBF, 0xBD, 0x41, 0x20]
        raw = st.one_of(st.sampled_from(lead), st.integers(0, 255))
        pieces.append(st.lists(raw.map(made.byte_id.__getitem__), max_size=6))
    return st.lists(st.one_of(pieces), max_size=5).map(lambda parts: [i for part in parts for i in part])


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_decode_is_the_tokenizers_library_s(small, no_prefix, padded, data):
    """Against: a decoder that is only nearly the file's. With whole characters it is exact, specials shown or not."""
    for made in (small, no_prefix, padded):
        ids = data.draw(sequences(made, whole=True))
        for tokenizer in made.both:
            assert tokenizer.decode(ids) == made.hf.decode(ids, skip_special_tokens=True)
            assert tokenizer.decode(ids, skip_special=False) == made.hf.decode(ids, skip_special_tokens=False)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_decode_is_sentencepiece_s_for_broken_bytes_too(small, no_prefix, data):
    """Against: another number of U+FFFD than the reference shows, or good characters lost beside bad bytes."""
    for made in (small, no_prefix):
        ids = [i for i in data.draw(sequences(made)) if i not in made.vocabulary.special]
        expected = made.sp.decode(ids)
        if made is small and ids[:1] == [made.byte_id[0x20]]:
            expected = expected[1:]  # the first space is taken off even if it came as a byte; see the next test
        for tokenizer in made.both:
            assert tokenizer.decode(ids) == expected


def test_where_the_libraries_differ(small):
    """Writes down each place where sentencepiece and tokenizers disagree, and on which side we are.

    If one of the first asserts fails, a library has changed its mind, and the docstring of `decode` with it.
    """
    e3, x81, x82, space = (small.byte_id[b] for b in (0xE3, 0x81, 0x82, 0x20))
    a = small.sp.piece_to_id("a")
    good_then_bad = [e3, x81, x82, e3]
    assert small.sp.decode(good_then_bad) == "あ\ufffd"
    assert small.hf.decode(good_then_bad) == "\ufffd" * 4  # one bad byte spoils the whole run
    assert small.sp.decode([a, 0, a]) == "a \u2047 a" and small.hf.decode([a, 0, a]) == "aa"
    assert small.sp.decode([space, a]) == " a" and small.hf.decode([space, a]) == "a"
    assert small.sp.decode([e3, 1, x81, x82]) == "\ufffd" * 3 and small.hf.decode([e3, 1, x81, x82]) == "あ"
    for tokenizer in small.both:
        assert tokenizer.decode(good_then_bad) == "あ\ufffd"
        assert tokenizer.decode([a, 0, a]) == "aa"
        assert tokenizer.decode([space, a]) == "a"
        assert tokenizer.decode([e3, 1, x81, x82]) == "あ"


@pytest.mark.parametrize("kind", KINDS)
def test_leading_space_is_taken_off_once(small, kind):
    """Against: BOS or another special using up the strip, every token losing its space, or all leading spaces going."""
    tokenizer = getattr(small, kind)
    space, the, a = (small.sp.piece_to_id(piece) for piece in ("▁", "▁the", "a"))
    assert tokenizer.decode([the, the]) == "the the"
    assert tokenizer.decode([1, the]) == "the"
    assert tokenizer.decode([1, space, the]) == " the"
    assert tokenizer.decode([space, 1, the]) == " the"
    assert tokenizer.decode([space]) == ""
    assert tokenizer.decode([a, the]) == "a the"
    assert tokenizer.decode([1, the], skip_special=False) == "<s> the"


@pytest.mark.parametrize("kind", KINDS)
def test_ids_outside_the_vocabulary_are_refused(small, kind):
    """Against: Python's negative indices, and padding rows of the model's vocabulary decoded as something."""
    tokenizer = getattr(small, kind)
    size = tokenizer.vocab_size
    assert tokenizer.decode([]) == ""
    for bad in (-1, size, size + 7):
        with pytest.raises(ValueError, match=f"id {bad} is not in the tokenizer, which has {size} ids"):
            tokenizer.decode([1, bad])
        with pytest.raises(ValueError, match=str(bad)):
            tokenizer.stream().push(bad)
        with pytest.raises(ValueError, match=str(bad)):
            tokenizer.pieces([bad])


def test_ids_may_be_a_tensor(small):
    """Against: `tensor(1) in specials` being False, so that <s> is shown."""
    torch = pytest.importorskip("torch")
    ids = small.json.encode("犬が座る")
    assert small.json.decode(torch.tensor(ids)) == "犬が座る"


@given(st.binary(max_size=12))
def test_whole_characters_against_the_slow_way(data):
    """Against: Python's own rule for broken UTF-8 (one U+FFFD for several bytes), and bytes held back for no reason."""
    text, waiting = whole_characters(data)
    assert text + REPLACEMENT * len(waiting) == per_byte(data)
    assert len(waiting) <= 3
    surrogate = waiting[:1] == b"\xed" and waiting[1:2] >= b"\xa0"  # Python waits for the third byte to refuse these
    if waiting and not surrogate:  # a character may still come of it
        tails = (b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xbf", b"\xbf\x80", b"\xbf\x80\x80", b"\x9f\x80")
        assert any(len(per_byte(waiting + tail)) == 1 for tail in tails)


# --- text as it streams ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(st.data(), st.booleans())
def test_streamed_pieces_joined_are_the_full_decode(small, no_prefix, data, skip_special):
    """Against: everything that goes wrong at the seams. The bytes are put together here by hand, not by our decoder."""
    for made in (small, no_prefix):
        ids = data.draw(sequences(made))
        expected, run = "", b""
        for i in [*ids, None]:
            if i in made.vocabulary.byte_values:
                run += bytes([made.vocabulary.byte_values[i]])
            elif i is None or i not in made.vocabulary.special or not skip_special:
                expected, run = expected + per_byte(run), b""
                expected += "" if i is None else made.vocabulary.pieces[i].replace("▁", " ")
        if made is small:
            expected = expected.removeprefix(" ")
        for tokenizer in made.both:
            stream = tokenizer.stream(skip_special)
            joined = "".join([stream.push(i) for i in ids]) + stream.finish()
            assert joined == tokenizer.decode(ids, skip_special) == expected


@settings(deadline=None, max_examples=200)
@given(texts())
def test_a_character_appears_with_the_token_that_completes_it(small, text):
    """Against: holding text back until the next token, and showing half a character."""
    for tokenizer in small.both:
        ids = tokenizer.encode(text)
        stream, shown, data = tokenizer.stream(), "", b""
        for i in ids:
            shown += stream.push(i)
            if i in tokenizer.vocabulary.byte_values:
                data += bytes([tokenizer.vocabulary.byte_values[i]])
            elif i not in tokenizer.vocabulary.special:
                data += tokenizer.vocabulary.pieces[i].replace("▁", " ").encode("utf-8")
            assert shown == data.decode("utf-8", errors="ignore").removeprefix(" ")
        assert stream.finish() == ""


def test_streaming_by_hand(small):
    """The same, for a reader: 𠮷 has no piece and comes as four bytes."""
    ids = [1, *(small.byte_id[b] for b in "𠮷".encode()), small.sp.piece_to_id("▁the"), small.byte_id[0xE3], 2]
    stream = small.json.stream()
    assert [stream.push(i) for i in ids] == ["", "", "", "", "𠮷", " the", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_a_piece_that_is_u_fffd_is_text(tmp_path):
    """Against: "ends in U+FFFD, so wait for more", which never shows this piece. Llama's vocabulary has it twice."""
    spec = llama_json(llama_model())
    size = len(spec["model"]["vocab"])
    spec["model"]["vocab"] |= {REPLACEMENT: size, REPLACEMENT * 2: size + 1}
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, tokenizer_json=spec))
    stream = tokenizer.stream()
    assert [stream.push(i) for i in (size, size + 1, size)] == ["\ufffd", "\ufffd\ufffd", "\ufffd"]
    assert stream.finish() == ""
    assert tokenizer.decode([size, size + 1]) == "\ufffd" * 3


def test_a_stream_keeps_at_most_three_bytes(small):
    """Against: keeping all ids and decoding them again for every token, which makes long texts slow."""
    stream = small.json.stream()
    ids = small.json.encode(TEXT) + [small.byte_id[0xF0]] * 50 + [small.byte_id[b] for b in b"\xf0\x9f\x90"]
    for i in ids:
        stream.push(i)
        assert sum(len(value) for value in vars(stream).values() if isinstance(value, (bytes, str, list))) <= 3


def test_streams_are_independent(small):
    """Against: state in the tokenizer, which would mix the rows of a batch."""
    one, other = small.json.stream(), small.json.stream()
    first, second, third = (small.byte_id[b] for b in "犬".encode())
    one.push(first), other.push(first), one.push(second), other.push(second)
    assert (one.push(third), other.finish(), one.finish()) == ("犬", "\ufffd\ufffd", "")


# --- which ids are special ------------------------------------------------------------------------------------------


def ids_of(folder, **files):
    tokenizer = Tokenizer.from_pretrained(write(folder, **files))
    return tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id


def test_special_ids_from_one_file_alone(tmp_path, small):
    """Against: needing special_tokens_map.json. And no pad is no pad: None, not 0 and not EOS."""
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
    ],
)
def test_pad_follows_the_files(tmp_path, files, pad):
    """Against: a pad in code. 7b has </s>, 7b-fast <unk>, both with `"pad_token": null` in tokenizer_config.json."""
    assert ids_of(tmp_path / "m", tokenizer_model=llama_model(), **files) == (1, 2, 0, pad)
    assert ids_of(tmp_path / "j", tokenizer_json=llama_json(llama_model()), **files) == (1, 2, 0, pad)


def test_bos_and_eos_follow_the_files(tmp_path):
    """Against: 1 and 2 in code. Here the files swap them."""
    swapped = {"bos_token": {"__type": "AddedToken", "content": "</s>"}, "eos_token": "<s>"}
    model, spec = llama_model(), llama_json(llama_model())
    assert ids_of(tmp_path / "m", tokenizer_model=model, special_tokens_map_json=swapped)[:2] == (2, 1)
    assert ids_of(tmp_path / "j", tokenizer_json=spec, tokenizer_config_json=swapped)[:2] == (2, 1)
    assert Tokenizer.from_pretrained(tmp_path / "m").encode("犬")[0] == 2


def test_a_special_token_that_is_not_there_is_refused(tmp_path):
    """Against: sentencepiece's piece_to_id, which answers 0 for what it does not know."""
    folder = write(tmp_path, tokenizer_model=llama_model(), special_tokens_map_json={"pad_token": "[PAD]"})
    with pytest.raises(ValueError, match=r"special_tokens_map.json: pad_token is '\[PAD\]', which is not in"):
        Tokenizer.from_pretrained(folder)


def test_no_bos_is_said(tmp_path):
    """Against: None among the ids."""
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, tokenizer_model=llama_model(bos_id=-1)))
    assert tokenizer.bos_id is None
    assert tokenizer.decode(tokenizer.encode("犬", bos=False)) == "犬"
    with pytest.raises(ValueError, match="no BOS token; encode with bos=False"):
        tokenizer.encode("犬")


# --- files ----------------------------------------------------------------------------------------------------------


def test_each_file_alone_is_enough(tmp_path, small):
    """Against: two of the four published models failing to load, which have no tokenizer.model."""
    for kind, name in (("sentencepiece", "tokenizer_model"), ("json", "tokenizer_json")):
        content = (small.folder / name.replace("_", ".")).read_bytes()
        tokenizer = Tokenizer.from_pretrained(str(write(tmp_path / kind, **{name: content})))
        assert tokenizer.kind == kind
        assert tokenizer.vocab_size == small.sp.get_piece_size()
        assert [file.name for file in tokenizer.files] == [name.replace("_", ".")]
        for text in HARD_TEXTS:
            assert tokenizer.encode(text, bos=False) == small.sp.encode(text)
    assert Tokenizer.from_pretrained(small.folder).kind == "sentencepiece"


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    """Against: silently taking one of two different tokenizers."""
    model, spec = llama_model(), llama_json(llama_model())
    names = {i: piece for piece, i in spec["model"]["vocab"].items()}
    one, other = names[500], names[501]
    renamed = json.loads(json.dumps(spec))
    renamed["model"]["vocab"] |= {one: 501, other: 500}
    folder = write(tmp_path / "renamed", tokenizer_model=model, tokenizer_json=renamed)
    with pytest.raises(ValueError, match=f"belong together: id 500 is '{one}' in one and '{other}' in the other"):
        Tokenizer.from_pretrained(folder)
    for kind in KINDS:  # the way out that the message offers
        assert Tokenizer.from_pretrained(folder, kind=kind).kind == kind

    larger = json.loads(json.dumps(spec))
    larger["added_tokens"].append(added_token(560, "<more>"))
    with pytest.raises(ValueError, match=r"\(560 pieces\) and tokenizer.json \(561 pieces\)"):
        Tokenizer.from_pretrained(write(tmp_path / "larger", tokenizer_model=model, tokenizer_json=larger))

    unspaced = llama_json(model, add_dummy_prefix=False)
    with pytest.raises(ValueError, match="do not agree: 'a' is"):
        Tokenizer.from_pretrained(write(tmp_path / "unspaced", tokenizer_model=model, tokenizer_json=unspaced))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, small):
    """Against: an error about a missing file that names only one of the two that would do."""
    with pytest.raises(FileNotFoundError, match="neither tokenizer.model nor tokenizer.json"):
        Tokenizer.from_pretrained(tmp_path)
    folder = _json_only(small.folder)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer.model, which kind='sentencepiece' asks for"):
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
    """Against: a bare RuntimeError or Exception from a library, without the file."""
    file = name.replace("_", ".")
    with pytest.raises(ValueError, match=rf"{file}( is damaged| is not valid JSON| holds a list)") as caught:
        Tokenizer.from_pretrained(write(tmp_path, **{name: content}))
    assert "\n" not in str(caught.value)


def test_damaged_side_files_are_named(tmp_path):
    for name in ("tokenizer_config_json", "special_tokens_map_json"):
        folder = write(tmp_path / name, tokenizer_model=llama_model(), **{name: b"{"})
        with pytest.raises(ValueError, match=name.removesuffix("_json") + r"\.json is not valid JSON"):
            Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        {"type": "Sequence", "decoders": [{"type": "Strip", "content": " ", "start": 0, "stop": 1}]},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]},
    ],
)
def test_a_decoder_that_we_cannot_follow_is_refused(tmp_path, decoder):
    """Against: decoding another family's file by Llama's rules, into text with wrong spaces."""
    spec = llama_json(llama_model()) | {"decoder": decoder}
    with pytest.raises(ValueError, match="its decoder is"):
        Tokenizer.from_pretrained(write(tmp_path, tokenizer_json=spec))


def test_decoder_steps_come_from_the_file(tmp_path):
    """Against: Llama's four steps for every tokenizer.json. Two spaces to strip, no bytes, another mark for a space."""
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


def test_names_are_resolved_by_checkpoint(small, monkeypatch):
    """Against: short names and hub repositories failing here, or fetching gigabytes of weights for a tokenizer."""
    asked = []
    monkeypatch.setattr(
        "llama_jp.text.tokenizer.find_checkpoint", lambda *given, **kw: asked.append((given, kw)) or small.folder
    )
    assert Tokenizer.from_pretrained("7b-fast", "refs/pr/2").vocab_size == small.json.vocab_size
    assert asked == [(("7b-fast", "refs/pr/2"), {"weights": False})]


def test_save_pretrained_copies_the_files(tmp_path, small):
    """Against: a saved tokenizer that was written anew and is no longer the published one."""
    folder = write(
        tmp_path / "from",
        tokenizer_model=(small.folder / "tokenizer.model").read_bytes(),
        tokenizer_json=(small.folder / "tokenizer.json").read_bytes(),
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


def test_pieces_are_as_the_file_spells_them(small):
    ids = small.json.encode("the 𠮷")
    assert small.json.pieces(ids) == ["<s>", "▁the", "▁", "<0xF0>", "<0xA0>", "<0xAE>", "<0xB7>"]


# --- Llama's own files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_known_ids(llama2, kind):
    """Against: everything at once. These ids are known from elsewhere."""
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
    readings = {"published": [1, 518, 25580, 29962, 3532], "transformers5": [1, 29961, 25580, 29962]}
    readings["whole-string"] = [529, 29879, 24566]
    for reading, ids in readings.items():
        assert tokenizer.encode(start, bos=False, parse_special=True, reading=reading)[: len(ids)] == ids


def test_the_novel(llama2, novel):
    """Against: rare differences between the two libraries on real Japanese, line by line and as one text."""
    ours, theirs = llama2.both
    for line in novel.splitlines(keepends=True):
        ids = ours.encode(line, bos=False)
        assert ids == theirs.encode(line, bos=False) == llama2.sp.encode(line)
        assert ours.decode(ids) == theirs.decode(ids) == llama2.hf.decode(ids) == line
    whole = ours.encode(novel)
    assert whole == theirs.encode(novel)
    assert ours.decode(whole) == novel


@settings(deadline=None, max_examples=100)
@given(texts())
def test_real_files_agree_on_any_text(llama2, text):
    ours, theirs = llama2.both
    assert ours.encode(text) == theirs.encode(text) == [1, *llama2.sp.encode(text)]
    parsed = ours.encode(text, bos=False, parse_special=True)
    assert parsed == theirs.encode(text, bos=False, parse_special=True) == llama2.hf_encode(text)
    again = {t.kind: t.encode(text, bos=False, parse_special=True, reading="transformers5") for t in llama2.both}
    assert again["sentencepiece"] == again["json"]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(0, 31999) | st.integers(0, 260) | st.sampled_from([26308, 30140, 29871]), max_size=20))
def test_real_files_agree_on_any_ids(llama2, ids):
    ours, theirs = llama2.both
    assert ours.decode(ids) == theirs.decode(ids)
    plain = [i for i in ids if i > 2]
    if plain[:1] != [llama2.byte_id[0x20]]:
        assert ours.decode(plain) == llama2.sp.decode(plain)


def test_real_files_in_transformers_5(llama2, novel):
    """The second reading, against its source."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.LlamaTokenizer.from_pretrained(llama2.folder)
    for text in [*novel.splitlines()[:60], "<s>[INST] <<SYS>>\n犬", " 犬 ", "hi<s>there", "a<s>  b</s>"]:
        expected = reference(text, add_special_tokens=False).input_ids
        for tokenizer in llama2.both:
            assert tokenizer.encode(text, bos=False, parse_special=True, reading="transformers5") == expected
