"""The value types of flags."""

from __future__ import annotations

import argparse

import pytest

from llama_jp.cli.arguments import int_list, json_list, positive_int


def test_values_are_parsed():
    assert positive_int("12") == 12
    assert int_list("2") == [2] and int_list("2, 13") == [2, 13]
    assert json_list("[[5], [7, 8]]") == [[5], [7, 8]]


@pytest.mark.parametrize(
    ("parse", "text", "sentence"),
    [
        (positive_int, "0", "'0' is not a whole number of at least 1"),
        (positive_int, "-3", "'-3' is not a whole number of at least 1"),
        (positive_int, "1.5", "'1.5' is not a whole number of at least 1"),
        (int_list, "2,x", "'2,x' is not a list of whole numbers, such as 2,13"),
        (int_list, "", "'' is not a list of whole numbers, such as 2,13"),
        (json_list, "[1", "'[1' is not JSON: "),
        (json_list, "3", "'3' is JSON, but not a list"),
    ],
)
def test_wrong_values_are_named(parse, text, sentence):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        parse(text)
    assert str(error.value).startswith(sentence)
