"""evaluate --against ORIGINAL A B C: one table of what each version of a model loses."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.hub import find_checkpoint
from ..checkpoint.layouts import weight_files
from ..checkpoint.parts import is_function_name
from ..evaluation.documents import HELD_OUT
from ..evaluation.perplexity import Evaluation
from ..evaluation.versions import Original
from ..model import LlamaConfig
from ..numerics import json_values
from ..text.tokenizer import Tokenizer
from ..text.vocabulary import first_other_piece
from .columns import display_width, pad, visible
from .info import count_parameters
from .models import open_model

HEADINGS = (
    "", "bytes", "bits/weight", "KL", "KL 99 %", "KL max", "top 1", "perplexity", "per character", "first difference",
)  # fmt: skip


@dataclass
class Row:
    """A model of the table."""

    name: str
    bytes: int | None  # of its weight files; None: a function makes the model
    bits_per_weight: float | None
    measured: Evaluation
    tokenizer: str | None = None  # why the original's tokenizer stands in for its own


def measure_versions(args: argparse.Namespace, sources: list[str], text: str, settings: dict[str, Any]) -> int:
    """Measure the original, then each version, print the table, and return the exit status."""
    check_flags(args, sources)
    source = args.against[0]
    for each in (source, *sources):  # before the first measurement, which takes minutes for a large model
        if not is_function_name(each):
            find_checkpoint(each)
    args.tokenizer = args.tokenizer or source  # every version reads the ids of the original
    original, config, tokenizer = open_original(args, source, text, settings)
    with original:
        rows = [make_row(source, config, original.evaluation)]
        for each in sources:
            print(f"{each} …", file=sys.stderr)
            reason = check_vocabulary(each, tokenizer, args)
            model, _ = open_model(with_model(args, each))
            try:
                measured = original.compare(model)
            except ValueError as error:
                raise ValueError(f"{each}: {error}") from error
            del model  # before the next one is loaded
            rows.append(make_row(each, config, measured))
            rows[-1].tokenizer = reason
    if args.json:
        print(json.dumps(json_values(as_dict(args, rows)), ensure_ascii=False))
    else:
        print_table(args, rows)
    return 0


def check_flags(args: argparse.Namespace, sources: list[str]) -> None:
    """End with a usage error for flags that belong to a single model."""
    if len(args.against or ()) != 1:
        args.parser.error(f"{len(sources)} models make a table of what each loses; name their original with --against")
    for name in ("adapter", "revision"):
        if getattr(args, name) is not None:
            args.parser.error(f"--{name} belongs to one model, and {len(sources)} are named")


def open_original(
    args: argparse.Namespace, source: str, text: str, settings: dict[str, Any]
) -> tuple[Original, LlamaConfig, Tokenizer]:
    """Load and measure the original. The model itself does not stay in memory."""
    print(f"{source} …", file=sys.stderr)
    model, tokenizer = open_model(with_model(args, source))
    return Original(model, tokenizer, text, **settings), model.config, tokenizer


def with_model(args: argparse.Namespace, source: str) -> argparse.Namespace:
    return argparse.Namespace(**vars(args) | {"model": source})


def check_vocabulary(source: str, tokenizer: Tokenizer, args: argparse.Namespace) -> str | None:
    """Why a version's own tokenizer cannot be read, or None.

    Raises ValueError if it has other pieces than the original's.
    """
    if is_function_name(source):
        return None
    try:
        own = Tokenizer.from_pretrained(source)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    if different := first_other_piece(tokenizer.vocabulary, own.vocabulary):
        i, piece, other = different
        raise ValueError(
            f"{source} is no version of {args.against[0]}: id {i} is {other!r} in its tokenizer and "
            f"{piece!r} in the original's; measure it alone, and compare bits per character"
        )
    return None


def make_row(source: str, config: LlamaConfig, measured: Evaluation) -> Row:
    if is_function_name(source):
        return Row(source, None, None, measured)
    size = sum(file.stat().st_size for file in weight_files(find_checkpoint(source)))
    return Row(source, size, 8 * size / count_parameters(config), measured)


def as_dict(args: argparse.Namespace, rows: list[Row]) -> dict[str, Any]:
    """The table for JSON."""
    first = rows[0].measured
    content: dict[str, Any] = {"text": args.text or HELD_OUT, "convention": first.convention}
    content |= {"window": first.window, "stride": first.stride}
    models = []
    for row in rows:
        size = {"model": row.name, "bytes": row.bytes, "bits_per_weight": row.bits_per_weight}
        models.append(size | row.measured.as_dict() | {"character_perplexity": row.measured.character_perplexity})
    return content | {"original": models[0], "versions": models[1:]}


def print_table(args: argparse.Namespace, rows: list[Row]) -> None:
    """Print the table for people, each number with the digits that tell versions apart."""
    first = rows[0].measured
    print(f"text        {Path(args.text or HELD_OUT).name}: {first.tokens:,} scored tokens")
    print(f"convention  {first.convention}, windows of {first.window} tokens")
    print("KL          divergence from the original, in nats per token: mean, 99 % of the tokens, largest\n")
    table = [list(HEADINGS), *(cells(row) for row in rows)]
    widths = [max(map(display_width, column)) for column in zip(*table, strict=True)]
    for line in table:
        name, *numbers, last = line
        middle = (" " * (width - display_width(each)) + each for each, width in zip(numbers, widths[1:-1], strict=True))
        print("  ".join([pad(name, widths[0]), *middle, last]).rstrip())
    for row in rows:
        if row.tokenizer is not None:
            print(f"\n{row.name} was measured with the original's tokenizer: {row.tokenizer}")


def cells(row: Row) -> list[str]:
    """The columns of a row."""
    found, size = row.measured, row.bytes
    cells = [Path(row.name).name if size else row.name, "–" if size is None else f"{size:,}"]
    cells.append("–" if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}")
    if found.kl is None:
        cells += ["–"] * 4
    else:
        assert found.kl_99 is not None and found.kl_max is not None and found.top1 is not None, "they come together"
        cells += [f"{found.kl:.6f}", f"{found.kl_99:.5f}", f"{found.kl_max:.4f}", f"{found.top1:.2%}"]
    cells += [f"{found.perplexity:.4f}", f"{found.character_perplexity:.4f}"]
    first = found.first_difference
    if first is None:
        return [*cells, "original" if found.kl is None else "none"]
    return [*cells, f"token {first.position:,}: {visible(first.piece)} for {visible(first.reference_piece)}"]
