"""llama-jp tokenize: the tokens of a text, by one tokenizer or several; and the prompt of a model, explained."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass

from ..loading import load_tokenizer
from ..text_files import read_text_file
from .arguments import MODEL_HELP
from .columns import display_width, pad, visible
from .console import check_decoded, read_exactly
from .explain import explain_ids, explain_prompt, pasted_ids

EXAMPLE = "llama-jp tokenize 吾輩は猫である。名前はまだ無い。"

GAP = "  "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text (default: standard input)")
    source.add_argument("--file", metavar="FILE", help="a UTF-8 file with the text; only the summary is printed")
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help=f"{MODEL_HELP}; repeat it to compare several (default: demo)",
    )
    parser.add_argument("--no-bos", action="store_true", help="encode without BOS")
    parser.add_argument(
        "--parse-special", action="store_true", help="encode <s>, </s>, … in the text as special tokens"
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show TEXT in the model's prompt as trained, and as other tools encode it",
    )
    parser.add_argument(
        "--ids",
        type=pasted_ids,
        metavar="IDS",
        help="with --explain: name the mistakes in these ids, such as 1,518,25580; TEXT is their message, if known",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with all ids and pieces")


def run(args: argparse.Namespace) -> int:
    if args.ids is not None and not args.explain:
        raise ValueError("--ids needs --explain")
    if args.explain:
        return explain(args)
    text = read_text(args)
    columns = [Column.of(name, text, args) for name in args.model or ["demo"]]
    if args.json:
        content = {
            "characters": len(text),
            "bytes": len(text.encode("utf-8")),
            "tokenizers": [column.as_dict(text) for column in columns],
        }
        print(json.dumps(content, ensure_ascii=False))
        return 0
    if args.file is None:
        print("\n".join(side_by_side(columns)))
        print()
    print("\n".join(summary(columns, text)))
    return 0


def explain(args: argparse.Namespace) -> int:
    """Explain a prompt, or the ids of one. Returns the exit status."""
    models = args.model or ["demo"]
    if len(models) > 1:
        raise ValueError(f"--explain takes one --model, and there are {len(models)}")
    if args.no_bos or args.parse_special:
        raise ValueError("--explain shows BOS and special tokens as they are: leave out --no-bos and --parse-special")
    tokenizer = load_tokenizer(models[0])
    if args.ids is None:
        explain_prompt(tokenizer, read_text(args), args.json)
    else:
        explain_ids(
            tokenizer, args.ids, None if args.text is None and args.file is None else read_text(args), args.json
        )
    return 0


@dataclass
class Column:
    """The tokens of the text from one tokenizer: a column of the table."""

    model: str
    kind: str
    ids: list[int]
    pieces: list[str]
    bytes: list[int]  # the number of UTF-8 bytes of each token
    byte_tokens: int  # tokens that are a byte, or hold a part of a character

    @classmethod
    def of(cls, model: str, text: str, args: argparse.Namespace) -> Column:
        """Encode the text with the tokenizer of a model."""
        tokenizer = load_tokenizer(model)
        ids = tokenizer.encode(text, bos=False if args.no_bos else None, parse_special=args.parse_special)
        vocabulary = tokenizer.vocabulary
        return cls(
            model=model,
            kind=tokenizer.kind,
            ids=ids,
            pieces=tokenizer.pieces(ids),
            bytes=[vocabulary.text_bytes(i) for i in ids],
            byte_tokens=sum(map(vocabulary.is_part_of_character, ids)),
        )

    def as_dict(self, text: str) -> dict[str, object]:
        """The JSON object of this tokenizer."""
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


def read_text(args: argparse.Namespace) -> str:
    """The text with unchanged line ends, because a CR is a token of its own."""
    if args.text is not None:
        return check_decoded(args.text, "the text")
    return read_exactly() if args.file is None else read_text_file(args.file)


def side_by_side(columns: list[Column]) -> list[str]:
    """A table of id, bytes and piece for each tokenizer; tokens that begin at the same byte share a row."""
    cells_by_row = [cells_by_position(column) for column in columns]
    rows = sorted({row for cells in cells_by_row for row in cells})
    blocks = []
    for column, tokens in zip(columns, cells_by_row, strict=True):
        cells = [["id", "bytes", "piece"], *(tokens.get(row, ["", "", ""]) for row in rows)]
        id_width, bytes_width = (max(len(each[i]) for each in cells) for i in (0, 1))
        lines = [GAP.join([c[0].rjust(id_width), c[1].rjust(bytes_width), c[2]]) for c in cells]
        if len(columns) > 1:
            lines.insert(0, column.model)
        width = max(map(display_width, lines))
        blocks.append([pad(line, width) for line in lines])
    return [f"{GAP}|{GAP}".join(parts).rstrip() for parts in zip(*blocks, strict=True)]


def cells_by_position(column: Column) -> dict[tuple[int, int], list[str]]:
    """The cells of each token by its position: (first byte, number of earlier tokens that begin at this byte).

    Several tokens begin at one byte only if all but the last have no bytes, as special tokens do.
    """
    cells = {}
    offset = nth = 0
    for token_id, piece, size in zip(column.ids, column.pieces, column.bytes, strict=True):
        cells[offset, nth] = [str(token_id), str(size), visible(piece)]
        offset, nth = (offset + size, 0) if size else (offset, nth + 1)
    return cells


def summary(columns: list[Column], text: str) -> list[str]:
    """The lines below the table: the size of the text, and the number of tokens of each tokenizer."""
    lines = [f"{len(text)} characters, {len(text.encode('utf-8'))} bytes"]
    width = max(display_width(column.model) for column in columns)
    for column in columns:
        tokens = len(column.ids)
        ratio = f"{len(text) / tokens:.3f} characters per token, " if tokens else ""
        lines.append(
            f"{pad(column.model, width)}{GAP}{tokens} tokens, {ratio}{column.byte_tokens} raw bytes ({column.kind})"
        )
    return lines
