"""Two vocabularies compared by their pieces."""

from __future__ import annotations

from dataclasses import replace

from llama_jp.text.vocabulary import Vocabulary, first_other_piece

PIECES = {0: "<unk>", 1: "<s>", 2: "</s>", 5: "犬", 7: "猫"}
VOCABULARY = Vocabulary(PIECES, byte_values={}, special=frozenset({0, 1, 2}), replacements=(), strip=0)


def test_the_first_id_with_different_pieces_is_found():
    """Guards against vocabularies that differ late, or in the order of their dictionaries, and against a swap."""
    other = replace(VOCABULARY, pieces={7: "鳥", 5: "魚"} | {i: PIECES[i] for i in (2, 1, 0)})
    assert first_other_piece(VOCABULARY, other) == (5, "犬", "魚")
    assert first_other_piece(other, VOCABULARY) == (5, "魚", "犬")
    assert first_other_piece(VOCABULARY, replace(VOCABULARY, pieces=PIECES | {7: "鳥"})) == (7, "猫", "鳥")


def test_pieces_that_one_vocabulary_lacks_are_no_difference():
    """Guards against refusing a GGUF file that names the padding rows, or a draft model with a padding token."""
    assert first_other_piece(VOCABULARY, replace(VOCABULARY, pieces=dict(reversed(PIECES.items())))) is None
    longer = replace(VOCABULARY, pieces=PIECES | {8: "[PAD8]"})
    assert first_other_piece(VOCABULARY, longer) is first_other_piece(longer, VOCABULARY) is None
