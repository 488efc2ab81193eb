"""llama-jp tokenize: how a text is cut, by one tokenizer or by several side by side."""

from __future__ import annotations

import argparse
import json
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from ..text.tokenizer import Tokenizer

EXAMPLE = "llama-jp tokenize 吾輩は猫である。名前はまだ無い。"

GAP = "  "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text; without it and --file, standard input")
    source.add_argument("--file", metavar="FILE", help="read the text from a UTF-8 file and print only the summary")
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="folder, hub repository or short name; give it several times to compare (default: demo)",
    )
    parser.add_argument("--no-bos", action="store_true", help="do not begin with the BOS token")
    parser.add_argument("--parse-special", action="store_true", help="take <s>, </s>, ... in the text for the tokens")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every id and piece")


def run(args: argparse.Namespace) -> int:
    text = _read_text(args)
    columns = [Column.of(name, text, args) for name in args.model or ["demo"]]
    if args.json:
        content = {"characters": len(text), "bytes": len(text.encode("utf-8"))}
        print(json.dumps(content | {"tokenizers": [column.as_dict(text) for column in columns]}, ensure_ascii=False))
        return 0
    if args.file is None:
        print("\n".join(_side_by_side(columns)))
        print()
    print("\n".join(_summary(columns, text)))
    return 0


@dataclass
class Column:
    """One tokenizer's cut of the text: what stands in its column of the table."""

    model: str
    kind: str
    ids: list[int]
    pieces: list[str]
    bytes: list[int]  # how many bytes of UTF-8 each token stands for
    byte_tokens: int  # how many tokens are a single raw byte, because no piece has the character

    @classmethod
    def of(cls, model: str, text: str, args: argparse.Namespace) -> Column:
        tokenizer = Tokenizer.from_pretrained(model)
        ids = tokenizer.encode(text, bos=not args.no_bos, parse_special=args.parse_special)
        vocabulary = tokenizer.vocabulary
        return cls(
            model=model,
            kind=tokenizer.kind,
            ids=ids,
            pieces=tokenizer.pieces(ids),
            bytes=[vocabulary.text_bytes(i) for i in ids],
            byte_tokens=sum(i in vocabulary.byte_values for i in ids),
        )

    def as_dict(self, text: str) -> dict:
        return {
            "model": self.model,
            "kind": self.kind,
            "tokens": len(self.ids),
            "byte_tokens": self.byte_tokens,
            "characters_per_token": len(text) / len(self.ids) if self.ids else None,
            "ids": self.ids,
            "pieces": self.pieces,
            "bytes": self.bytes,
        }


def _read_text(args: argparse.Namespace) -> str:
    """The text as it is, line ends included: a CR is a character that the tokenizer sees."""
    if args.text is not None:
        return args.text
    name = args.file if args.file is not None else "standard input"
    data = Path(args.file).read_bytes() if args.file is not None else sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from error


def _side_by_side(columns: list[Column]) -> list[str]:
    """A table of id, bytes and piece for each tokenizer; tokens that begin at the same byte share a row."""
    placed = [_by_place(column) for column in columns]
    rows = sorted(set().union(*placed))
    blocks = []
    for column, tokens in zip(columns, placed, strict=True):
        cells = [["id", "bytes", "piece"], *(tokens.get(row, ["", "", ""]) for row in rows)]
        id_width, bytes_width = (max(len(each[i]) for each in cells) for i in (0, 1))
        lines = [GAP.join([c[0].rjust(id_width), c[1].rjust(bytes_width), c[2]]) for c in cells]
        if len(columns) > 1:
            lines.insert(0, column.model)
        width = max(map(_width, lines))
        blocks.append([_pad(line, width) for line in lines])
    return [f"{GAP}|{GAP}".join(parts).rstrip() for parts in zip(*blocks, strict=True)]


def _by_place(column: Column) -> dict[tuple[int, int], list[str]]:
    """(byte where a token begins, how many began there before) -> its cells. Specials take no bytes."""
    cells = {}
    offset = nth = 0
    for token_id, piece, size in zip(column.ids, column.pieces, column.bytes, strict=True):
        cells[offset, nth] = [str(token_id), str(size), _visible(piece)]
        offset, nth = (offset + size, 0) if size else (offset, nth + 1)
    return cells


def _summary(columns: list[Column], text: str) -> list[str]:
    lines = [f"{len(text)} characters, {len(text.encode('utf-8'))} bytes"]
    width = max(_width(column.model) for column in columns)
    for column in columns:
        tokens = len(column.ids)
        ratio = f"{len(text) / tokens:.3f} characters per token, " if tokens else ""
        lines.append(
            f"{_pad(column.model, width)}{GAP}{tokens} tokens, {ratio}{column.byte_tokens} raw bytes ({column.kind})"
        )
    return lines


def _visible(piece: str) -> str:
    """Line ends, tabs and the like as escapes, so that a piece keeps to its row."""
    return "".join(c if c.isprintable() or c == "\u3000" else c.encode("unicode_escape").decode() for c in piece)


def _width(text: str) -> int:
    """Columns that a terminal needs: two for a full-width character, none for a mark on the one before it."""
    marks = ("Mn", "Me")
    wide = ("W", "F")
    return sum(1 + (unicodedata.east_asian_width(c) in wide) for c in text if unicodedata.category(c) not in marks)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
