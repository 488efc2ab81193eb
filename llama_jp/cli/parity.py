"""llama-jp parity: are two models bit-identical? If not, where do they first differ, and is it a bug or rounding?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..checkpoint.random_checkpoint import SHAPES
from ..environment import describe_environment
from ..model import ATTENTIONS
from ..parity.modes.fullsize import compare_fullsize
from ..parity.report.certificate import add_to_certificate, replay
from ..parity.report.html import write_html_report
from ..parity.report.text import text_report
from ..parity.requests import MODES, Request, run_request
from ..parity.run.models import Settings
from .arguments import DTYPES, positive_int

EXAMPLE = "llama-jp parity --random tiny --mode whole,steps,ragged"
SPECS = "folder, hub repository, short name, transformers, transformers-cast or package.module:function"
FAILURE_STATUS = 2  # nothing could be compared; 1 is the result "different"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument("--model", default="demo", metavar="A", help=f"{SPECS} (default: demo)")
    models.add_argument("--against", default="transformers", metavar="B", help="the same; B is the reference")
    models.add_argument(
        "--checkpoint", metavar="MODEL", help="the checkpoint for transformers and functions, if A and B name none"
    )
    models.add_argument(
        "--random", choices=list(SHAPES), help="random weights of this shape, in place of A's checkpoint"
    )
    models.add_argument("--layers", type=positive_int, metavar="N", help="number of layers of the random model")
    for prefix, of in (("", "A, and of B by default"), ("against-", "B (default: as A)")):
        models.add_argument(f"--{prefix}dtype", choices=DTYPES, help=f"dtype of {of}")
        models.add_argument(f"--{prefix}attention", choices=list(ATTENTIONS), help=f"attention function of {of}")
        models.add_argument(f"--{prefix}threads", type=positive_int, metavar="N", help=f"CPU threads of {of}")
        models.add_argument(f"--{prefix}batch", type=positive_int, metavar="N", help=f"rows per forward pass of {of}")

    task = parser.add_argument_group("task")
    task.add_argument(
        "--mode",
        type=modes,
        default=["whole"],
        metavar="MODES",
        help=f"one or more of {', '.join(MODES)}, separated by commas, or all (default: whole)",
    )
    task.add_argument("--text", metavar="FILE", help="UTF-8 text for the ids (default: random ids)")
    task.add_argument("--rows", type=positive_int, default=2, metavar="N", help="rows of ids (default: 2)")
    task.add_argument("--tokens", type=positive_int, default=32, metavar="N", help="ids in a row (default: 32)")
    task.add_argument(
        "--new-tokens", type=positive_int, default=16, metavar="N", help="tokens to generate (default: 16)"
    )
    task.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of ids, weights, chunks and sampling (default: 0)"
    )

    full = parser.add_argument_group("full size")
    full.add_argument(
        "--fullsize", choices=list(SHAPES), help="write a random checkpoint in published form, and compare it by layer"
    )
    full.add_argument("--folder", metavar="DIR", help="folder of this checkpoint (7b: 13.5 GB), new or existing")

    output = parser.add_argument_group(
        "verdict and output", "exit status: 0 equal or within the tolerance, 1 different, 2 nothing could be compared"
    )
    output.add_argument("--max-ulp", type=int, metavar="N", help="let logits differ by up to N ULP")
    output.add_argument("--max-kl", type=float, metavar="X", help="let next-token distributions differ by X nats (KL)")
    output.add_argument("--json", action="store_true", help="print all results as one JSON object")
    output.add_argument("--report", metavar="FILE.html", help="write an HTML page with a map of all operations")
    output.add_argument("--certificate", metavar="FILE.json", help="write a certificate of this run, or add to one")
    output.add_argument("--replay", metavar="FILE.json", help="run a certificate again, and compare the results")


def modes(text: str) -> list[str]:
    """The modes of a list with commas. "all" stands for every mode."""
    chosen = list(MODES) if text == "all" else text.split(",")
    if unknown := [mode for mode in chosen if mode not in MODES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is unknown; known are {', '.join(MODES)}")
    return chosen


def run(args: argparse.Namespace) -> int:
    """Exit status 0: equal or within the tolerance, 1: different. `main` returns FAILURE_STATUS for failures."""
    if args.fullsize:
        return run_fullsize(args)
    return run_replay(args) if args.replay else run_comparison(args)


def run_comparison(args: argparse.Namespace) -> int:
    request = to_request(args)
    comparisons = run_request(request)
    if args.json:
        content = {"environment": describe_environment(), "request": request.as_dict()}
        print(json.dumps(content | {"comparisons": [each.as_dict() for each in comparisons]}, ensure_ascii=False))
    else:
        print(text_report(comparisons))
    if args.report:
        write_html_report(Path(args.report), request, comparisons)
    if args.certificate:
        add_to_certificate(Path(args.certificate), request, comparisons)
    return 0 if all(each.passed for each in comparisons) else 1


def run_fullsize(args: argparse.Namespace) -> int:
    if not args.folder:
        raise ValueError("--fullsize writes a checkpoint of several gigabytes: name its folder with --folder")
    result = compare_fullsize(args.fullsize, Path(args.folder), layers=args.layers, seed=args.seed)
    print(json.dumps(result.as_dict()) if args.json else result.text())
    return 1 if result.different else 0


def to_request(args: argparse.Namespace) -> Request:
    """The request of a command line. Settings of B default to those of A."""
    chosen = args.mode
    if args.random and chosen == list(MODES):
        chosen = [mode for mode in chosen if mode != "tokenizer"]  # a random checkpoint has no tokenizer
    first = Settings(args.dtype or "auto", args.attention or "sdpa", args.threads, args.batch)
    second = Settings(
        args.against_dtype or first.dtype,
        args.against_attention or first.attention,
        args.against_threads or first.threads,
        args.against_batch or first.rows,
    )
    return Request(
        model=args.model,
        against=args.against,
        checkpoint=args.checkpoint,
        random=args.random,
        layers=args.layers,
        modes=chosen,
        first=first,
        second=second,
        rows=args.rows,
        tokens=args.tokens,
        new_tokens=args.new_tokens,
        text=args.text,
        seed=args.seed,
        max_ulp=args.max_ulp,
        max_kl=args.max_kl,
    )


def run_replay(args: argparse.Namespace) -> int:
    runs, changes = replay(Path(args.replay))
    same = all(run.same for run in runs)
    if args.json:
        results = [{"request": r.request.as_dict(), "same": r.same, "then_and_now": r.results} for r in runs]
        print(json.dumps({"same": same, "other_conditions": changes, "runs": results}, ensure_ascii=False))
        return 0 if same else 1
    for run in runs:
        request = run.request
        models = f"{request.random or request.model} against {request.against}"
        for then, now in run.results:
            outcome = "the same bytes" if then == now else f"different: {then['verdict']} then, {now['verdict']} now"
            print(f"{models}, {request.first.dtype}, {request.first.attention}, {then['mode']}: {outcome}")
    for change in changes:
        print(f"other conditions: {change}")
    return 0 if same else 1
