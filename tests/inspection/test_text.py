"""Characters, bytes and tokens."""

from __future__ import annotations

import pytest
from helpers.tokenizer_files import llama_folder

from llama_jp import Tokenizer
from llama_jp.inspection.text import tokens_of_text

TEXT = "  海辺の𠮷野家は鬱\nABC 👩‍👩‍👧"


@pytest.fixture(scope="module")
def tokenizers(demo, tmp_path_factory):
    return [demo[1], Tokenizer.from_pretrained(llama_folder(tmp_path_factory.mktemp("llama")))]


def test_the_offsets_cut_the_text(tokenizers):
    """Against: offsets that are one space off, or that count characters. The bytes of all tokens are the text."""
    data = TEXT.encode()
    for tokenizer in tokenizers:
        found = tokens_of_text("", tokenizer, TEXT)["tokens"]
        assert [token["id"] for token in found] == tokenizer.encode(TEXT)
        assert all(token["begin"] is not None for token in found)
        end = 0
        for token in found:
            assert token["begin"] == end
            end = token["end"]
            assert bytes.fromhex(token["bytes"]).endswith(data[token["begin"] : end])
        assert end == len(data)


def test_a_special_token_has_no_bytes(demo):
    first = tokens_of_text("", demo[1], "クマ")["tokens"][0]
    assert first == {"id": demo[1].bos_id, "bytes": "", "begin": 0, "end": 0}


def test_a_text_that_the_tokenizer_rewrites_has_no_offsets(demo):
    class Lower(Tokenizer):
        def encode(self, text, bos=True, **_):
            return super().encode(text.lower(), bos)

    lower = Lower.from_pretrained("demo")
    assert {token["begin"] for token in tokens_of_text("", lower, "ABC")["tokens"]} == {None}
