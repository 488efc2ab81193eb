"""Ids to text, one token at a time."""

from __future__ import annotations

from helpers.tokenizer_files import TEXT, llama_json, llama_model, write
from helpers.tokenizer_pairs import REPLACEMENT, decode_plainly, id_sequences, unicode_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_jp.text.streaming import decode_whole_characters
from llama_jp.text.tokenizer import Tokenizer


@given(st.binary(max_size=12))
def test_whole_characters_equal_the_plain_implementation(data):
    """Guards against Python's rule for broken UTF-8 (one U+FFFD for several bytes), and against bytes held back."""
    text, waiting = decode_whole_characters(data)
    assert text + REPLACEMENT * len(waiting) == decode_plainly(data)
    assert len(waiting) <= 3
    surrogate = waiting[:1] == b"\xed" and waiting[1:2] >= b"\xa0"  # Python refuses these only at the third byte
    if waiting and not surrogate:  # more bytes can complete a character
        tails = (b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xbf", b"\xbf\x80", b"\xbf\x80\x80", b"\x9f\x80")
        assert any(len(decode_plainly(waiting + tail)) == 1 for tail in tails)


@settings(deadline=None, max_examples=300)
@given(st.data(), st.booleans())
def test_streamed_pieces_joined_are_the_full_decode(pair, pair_without_prefix, data, skip_special):
    """Guards against errors between pieces. The expected text comes from a plain implementation in this test."""
    for each in (pair, pair_without_prefix):
        ids = data.draw(id_sequences(each))
        expected, run = "", b""
        for i in [*ids, None]:
            if i in each.vocabulary.byte_values:
                run += bytes([each.vocabulary.byte_values[i]])
            elif i is None or i not in each.vocabulary.special or not skip_special:
                expected, run = expected + decode_plainly(run), b""
                expected += "" if i is None else each.vocabulary.pieces[i].replace("▁", " ")
        if each is pair:
            expected = expected.removeprefix(" ")
        for tokenizer in each.both:
            stream = tokenizer.stream(skip_special)
            joined = "".join([stream.push(i) for i in ids]) + stream.finish()
            assert joined == tokenizer.decode(ids, skip_special) == expected


@settings(deadline=None, max_examples=200)
@given(unicode_texts())
def test_a_character_appears_with_the_token_that_completes_it(pair, text):
    """Guards against text that is held back until the next token, and against half a character."""
    for tokenizer in pair.both:
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


def test_an_example_of_streaming(pair):
    """The same as an example: 𠮷 has no piece and consists of four byte tokens."""
    ids = [1, *(pair.byte_id[b] for b in "𠮷".encode()), pair.sp.piece_to_id("▁the"), pair.byte_id[0xE3], 2]
    stream = pair.json.stream()
    assert [stream.push(i) for i in ids] == ["", "", "", "", "𠮷", " the", "", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""


def test_a_piece_that_is_u_fffd_is_text(tmp_path):
    """Guards against holding back every text that ends in U+FFFD. Llama's vocabulary has two such pieces."""
    spec = llama_json(llama_model())
    size = len(spec["model"]["vocab"])
    spec["model"]["vocab"] |= {REPLACEMENT: size, REPLACEMENT * 2: size + 1}
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, tokenizer_json=spec))
    stream = tokenizer.stream()
    assert [stream.push(i) for i in (size, size + 1, size)] == ["\ufffd", "\ufffd\ufffd", "\ufffd"]
    assert stream.finish() == ""
    assert tokenizer.decode([size, size + 1]) == "\ufffd" * 3


def test_a_stream_keeps_at_most_three_bytes(pair):
    """Guards against decoding all ids again for every token, which makes long texts slow."""
    stream = pair.json.stream()
    ids = pair.json.encode(TEXT) + [pair.byte_id[0xF0]] * 50 + [pair.byte_id[b] for b in b"\xf0\x9f\x90"]
    for i in ids:
        stream.push(i)
        assert sum(len(value) for value in vars(stream).values() if isinstance(value, (bytes, str, list))) <= 3


def test_streams_are_independent(pair):
    """Guards against state in the tokenizer, which would mix the rows of a batch."""
    one, other = pair.json.stream(), pair.json.stream()
    first, second, third = (pair.byte_id[b] for b in "犬".encode())
    one.push(first), other.push(first), one.push(second), other.push(second)
    assert (one.push(third), other.finish(), one.finish()) == ("犬", "\ufffd\ufffd", "")
