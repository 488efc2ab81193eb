"""The numbers, the picture and the claims of chapter 1: tokens."""

from __future__ import annotations

import json

from demo import REQUEST, Demo
from drawing import Picture

import llama_jp

SENTENCE = "むかしむかし、クマが海辺に行きました。"
SHORT = "クマが海辺に行きました。"
# Llama 2's pieces of SENTENCE. Its tokenizer is not bundled: tests/project/test_learn.py compares where the file is.
LLAMA_2 = ["<s>", "▁", *"むかしむかし、クマが海", "<0xE8>", "<0xBE>", "<0xBA>", *"に行きました。"]


def merges(demo: Demo) -> list[list[str]]:
    spec = json.loads((demo.tokenizer.folder / "tokenizer.json").read_text(encoding="utf-8"))
    return [pair.split(" ") for pair in spec["model"]["merges"]]


def numbers(demo: Demo) -> dict[str, str]:
    rank = {"".join(pair): place for place, pair in enumerate(merges(demo))}
    empty = llama_jp.instruct_prompt(demo.tokenizer, "")
    return {
        "tokens": str(len(demo.tokenizer.encode(SENTENCE))),
        "tokens.llama2": str(len(LLAMA_2)),
        "characters": str(len(SENTENCE)),
        "utf8": " ".join(f"{byte:02X}" for byte in "海辺".encode()),
        "pieces": f"{demo.model.config.vocab_size:,}",
        "merges": f"{len(merges(demo)):,}",
        "rank.rashi": str(rank["ラシ"]),
        "rank.aza": str(rank["アザ"]),
        "rank.azarashi": str(rank["アザラシ"]),
        "id": str(demo.id_of("アザラシ")),
        "template": str(len(demo.prompt)),
        "template.empty": str(len(empty)),
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "01-pieces": draw(demo, "One sentence, cut in four ways", "characters"),
        "01-pieces.ja": draw(demo, "一つの文の、四通りの切り方", "文字"),
    }


def draw(demo: Demo, title: str, characters: str) -> str:
    """Characters, bytes, and the pieces of two tokenizers, one above the other; a byte is one unit wide."""
    short = demo.tokenizer.pieces(demo.tokenizer.encode(SHORT, bos=False))[1:]
    llama_2 = LLAMA_2[LLAMA_2.index("ク") :]
    rows = [
        (characters, list(SHORT), "ink", 0.12),
        ("UTF-8", [f"<0x{byte:02X}>" for byte in SHORT.encode()], "ink", 0.06),
        ("demo", short, "a", 0.3),
        ("Llama 2", llama_2, "b", 0.3),
    ]
    picture = Picture(title, 760, 250, left=84, right=16, below=16)
    unit = (picture.right - picture.left) / len(SHORT.encode())
    for number, (name, pieces, kind, opacity) in enumerate(rows):
        y, x = picture.top + 8 + 46 * number, float(picture.left)
        picture.text(picture.left - 12, y + 21, name, "faint", anchor="end")
        picture.text(picture.right, y - 3, str(len(pieces)), "faint small", anchor="end")
        for piece in pieces:
            is_byte = piece.startswith("<0x")
            width = unit * (1 if is_byte else len(piece.encode()))
            picture.box(x + 1, y, width - 2, 32, kind, f"{piece}", opacity)
            text = piece[3:5] if is_byte else piece
            picture.text(x + width / 2, y + 21, text, "small" if is_byte else "")
            x += width
    return str(picture)


def claims(demo: Demo) -> None:
    tokenizer, pieces = demo.tokenizer, demo.tokenizer.vocabulary.pieces
    assert "".join(LLAMA_2[1:13]) == "▁むかしむかし、クマが海" and len(SENTENCE) - 1 + 3 + 2 == len(LLAMA_2), (
        "19 characters, one of which becomes three bytes, and the two tokens at the start"
    )
    assert list("海辺".encode()) == [0xE6, 0xB5, 0xB7, 0xE8, 0xBE, 0xBA], "海辺 has six bytes"
    assert [pieces[i] for i in range(3)] == ["<unk>", "<s>", "</s>"], "ids 0 to 2 are the special tokens"
    assert [pieces[3 + byte] for byte in range(256)] == [f"<0x{byte:02X}>" for byte in range(256)], "then the bytes"
    born: dict[str, int] = {}
    for number, pair in enumerate(merges(demo)):
        born.setdefault("".join(pair), number)
    ids = {piece: i for i, piece in pieces.items()}
    assert sorted(born, key=born.get) == sorted(born, key=ids.get), "joined pieces have their ids in the order of birth"
    assert sorted(ids[piece] for piece in born) == list(range(259, 2409)), "they are 259 to 2408"
    assert all(len(pieces[i]) == 1 for i in range(2409, demo.model.config.vocab_size)), "single characters follow"
    rare = "鬱蒼とした森の🐻"
    assert tokenizer.decode(tokenizer.encode(rare)) == rare, "no character cannot be written"
    order = ["".join(pair) for pair in merges(demo)]
    assert [order.index(piece) for piece in ("した", "ました", "きました")] == [0, 1, 19], "the rules of exercise 1"
    assert len(LLAMA_2) > 2 * len(tokenizer.encode(SENTENCE)), "more than twice as much"
    assert REQUEST in tokenizer.decode(demo.prompt)
