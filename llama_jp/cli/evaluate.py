"""llama-jp evaluate: how well a model predicts a text, how far it is from others, and its answers to tasks."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.conventions import CONVENTIONS
from ..evaluation.documents import HELD_OUT, find_text
from ..evaluation.perplexity import Evaluation, evaluate
from ..model import Llama
from ..numerics import json_values
from ..text.tokenizer import Tokenizer
from ..text.vocabulary import first_other_piece
from ..text_files import read_text_file
from .arguments import add_positional_source_arguments, positive_int
from .console import note, read_standard_input
from .models import add_computation_arguments, model_name, open_model
from .output import count
from .tasks_file import add_tasks_arguments, answer_file, compare_file, difference_line
from .versions_table import measure_versions

EXAMPLE = "llama-jp evaluate demo --text held-out.ja.txt --convention documents"
OF_TEXT = ("against", "convention", "window", "stride")
OF_TASKS = ("out", "batch", "seed")
DISTANCE = ("kl", "top1", "first_difference")  # keys of a reference; null where there is no KL divergence


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_positional_source_arguments(parser, several=True)
    subject = parser.add_mutually_exclusive_group()
    subject.add_argument("--text", metavar="FILE", help="measure on a UTF-8 text, a text of the package, or - (stdin)")
    add_tasks_arguments(parser, subject)
    text = parser.add_argument_group(
        "with --text",
        "Perplexities compare between models of one vocabulary and in one convention. Bits per byte and per\n"
        "character compare between vocabularies as well.",
    ).add_argument
    text(
        "--against",
        action="append",
        metavar="B",
        help="measure the reference B as well, and the KL divergence from it, the share of equal most probable tokens "
        "(top 1) and the first different one; may be given several times. With several models: their original, and a "
        "table of what each loses",
    )
    text(
        "--convention",
        choices=list(CONVENTIONS),
        help="transformers: overlapping windows, as on its documentation's page; lm-eval: loglikelihood_rolling; "
        "llama.cpp: llama-perplexity; documents: lines of four hyphens separate documents, and requests in [INST] are "
        "not scored (default: transformers)",
    )
    text(
        "--window",
        type=positive_int,
        metavar="N",
        help="tokens that the model sees at most (default: the model's context; llama.cpp, documents: 512)",
    )
    text(
        "--stride",
        type=positive_int,
        metavar="N",
        help="tokens from one window to the next, for the convention transformers (default: half the window)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (--text, --published)")
    add_computation_arguments(parser)
    parser.set_defaults(rope_scaling=None, prompt_lookup_num_tokens=None)  # other flags of `open_model`


def run(args: argparse.Namespace) -> int:
    if len(args.models) > 1:
        return measure_table(args)
    mode = next((name for name in ("text", "tasks", "published") if getattr(args, name)), "")
    if not mode:
        args.parser.error("there is nothing to evaluate on; name a file with --text, --tasks or --published")
    unused = {"text": (*OF_TASKS, "max_new_tokens"), "published": (*OF_TEXT, *OF_TASKS), "tasks": (*OF_TEXT, "json")}
    for name in unused[mode]:
        if getattr(args, name) is not None and getattr(args, name) is not False:
            args.parser.error(f"--{name.replace('_', '-')} has no effect with --{mode}")
    return {"text": measure_text, "tasks": answer_file, "published": compare_file}[mode](args)


def measure_table(args: argparse.Namespace) -> int:
    """Measure several versions of a model beside their original. The default text is that of certificates."""
    for name in ("tasks", "published", *OF_TASKS, "max_new_tokens"):
        if getattr(args, name) is not None:
            args.parser.error(f"--{name.replace('_', '-')} takes one model, and {len(args.models)} are named")
    options = settings(args) if args.text else settings(args) | {"convention": args.convention or "documents"}
    return measure_versions(args, args.models, read_text(args.text or HELD_OUT), options)


@dataclass
class Comparison:
    """A reference of the command line."""

    name: str
    own: Evaluation  # of the reference
    compared: Evaluation | None  # of the model, with the distance from the reference
    reason: str | None  # why there is no distance


def measure_text(args: argparse.Namespace) -> int:
    """Measure the model and its references on --text, print the result, and return the exit status."""
    text = read_text(args.text)
    if "\n----\n" in text and args.convention != "documents":
        note("the text has several documents; --convention documents measures each for itself")
    model, tokenizer = open_model(args)
    comparisons = [compare(args, source, model, tokenizer, text) for source in args.against or ()]
    measured = [each.compared for each in comparisons if each.compared is not None]
    result = measured[0] if measured else evaluate(model, tokenizer, text, **settings(args))
    if args.json:
        content: dict[str, Any] = {"model": model_name(args), "text": args.text, **result.as_dict()}
        content |= {"convention": result.convention, "window": result.window, "stride": result.stride}
        if comparisons:
            against = [as_dict(each) for each in comparisons]
            content |= {name: against[0][name] for name in DISTANCE} | {"against": against}
        print(json.dumps(json_values(content), ensure_ascii=False))
    else:
        print_report(args, result, comparisons)
    return 0


def read_text(name: str) -> str:
    """The text to measure, byte for byte: bits per byte are those of the file."""
    return read_standard_input() if name == "-" else read_text_file(find_text(name))


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options of `evaluate`."""
    return {"window": args.window, "stride": args.stride, "convention": args.convention or "transformers"}


def compare(args: argparse.Namespace, source: str, model: Llama, tokenizer: Tokenizer, text: str) -> Comparison:
    """Load a reference and measure it, together with the model if the two have the same vocabulary."""
    own = {"model": source, "revision": None, "adapter": None, "tokenizer": None}  # these belong to the model alone
    reference, other = open_model(argparse.Namespace(**vars(args) | own))
    reason = why_not_comparable(model, tokenizer, reference, other)
    if reason is not None:
        return Comparison(source, evaluate(reference, other, text, **settings(args)), None, reason)
    result = evaluate(model, tokenizer, text, reference, **settings(args))
    assert result.against is not None, "there is a reference"
    return Comparison(source, result.against, result, None)


def why_not_comparable(model: Llama, tokenizer: Tokenizer, reference: Llama, other: Tokenizer) -> str | None:
    """Why there is no KL divergence between two models, as a sentence; None if there is one."""
    V, reference_V = model.config.vocab_size, reference.config.vocab_size
    way_out = "only bits per byte and per character compare"
    if reference_V != V:
        return f"no KL divergence: it has {reference_V:,} ids, and the model {V:,}; {way_out}"
    if different := first_other_piece(tokenizer.vocabulary, other.vocabulary):
        i, here, there = different
        return f"no KL divergence: id {i} is {there!r} in its tokenizer, and {here!r} in the model's; {way_out}"
    return None


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """A comparison for JSON: the reference's own measurements, and the distance of the model from it."""
    distance = {} if comparison.compared is None else comparison.compared.as_dict()
    content = {"model": comparison.name, **comparison.own.as_dict(), "window": comparison.own.window}
    content |= {name: distance.get(name) for name in DISTANCE}
    return content | ({} if comparison.reason is None else {"reason": comparison.reason})


def print_report(args: argparse.Namespace, result: Evaluation, comparisons: list[Comparison]) -> None:
    """Print the measurements for people: a column for each model, then the distances."""
    size = result.size
    print(f"text        {Path(args.text).name}: {count(size.bytes, 'byte')}, {count(size.characters, 'character')}")
    stride = f", stride {result.stride}" if result.stride < result.window else ""
    print(f"convention  {result.convention}, windows of {result.window} tokens{stride}\n")
    models = [(str(args.adapter or args.model), result), *((each.name, each.own) for each in comparisons)]
    names = [Path(name).name for name, _ in models]
    widths = [max(len(name), 12) for name in names]
    rows = [
        ("", names),
        ("loss (nats per token)", [f"{each.loss:.6f}" for _, each in models]),
        ("perplexity", [f"{each.perplexity:.6g}" for _, each in models]),
        ("bits per byte", [f"{each.bits_per_byte:.6f}" for _, each in models]),
        ("bits per character", [f"{each.bits_per_character:.6f}" for _, each in models]),
        ("tokens", [f"{each.tokens:,}" for _, each in models]),
    ]
    if result.convention == "lm-eval":
        rows.insert(3, ("byte perplexity", [f"{each.byte_perplexity:.6g}" for _, each in models]))
        rows.insert(4, ("word perplexity", [f"{each.word_perplexity:.6g}" for _, each in models]))
    for name, values in rows:
        cells = (value.rjust(width) for value, width in zip(values, widths, strict=True))
        print(f"{name:<22} {'  '.join(cells)}".rstrip())
    for each in comparisons:
        windows = "" if each.own.window == result.window else f", windows of {each.own.window} tokens"
        print(f"\nagainst {each.name}{windows}")
        if each.compared is None:
            print(f"  {each.reason}")
            continue
        assert each.compared.top1 is not None, "kl and top1 come together"
        print(f"  KL divergence        {each.compared.kl:.6g} nats per token")
        print(f"  top-1 agreement      {each.compared.top1:.4%}")
        print(f"  first difference     {difference_line(each.compared.first_difference)}")
