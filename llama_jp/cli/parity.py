"""llama-jp parity: are two models the same, to which bit; if not, where do they part, and is it a bug or rounding?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..checkpoint.random_checkpoint import SHAPES
from ..environment import describe_environment
from ..model import ATTENTIONS
from ..parity.modes.fullsize import prove
from ..parity.report.certificate import add_to_certificate, replay
from ..parity.report.html import write_page
from ..parity.report.text import text_report
from ..parity.requests import ALL_MODES, Request, run_request
from ..parity.run.models import Settings
from .arguments import DTYPES, positive_int

EXAMPLE = "llama-jp parity --random tiny --mode whole,steps,ragged"
FAILURE_STATUS = 2  # 1 is the result "different"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    sides = parser.add_argument_group("the two sides")
    sides.add_argument("--model", default="demo", metavar="A", help=f"{SPECS} (default: demo)")
    sides.add_argument("--against", default="transformers", metavar="B", help="the same, taken for the reference")
    sides.add_argument(
        "--checkpoint", metavar="MODEL", help="what transformers and functions load, where A is no model"
    )
    sides.add_argument("--random", choices=list(SHAPES), help="random weights of this shape in place of A's checkpoint")
    sides.add_argument("--layers", type=positive_int, metavar="N", help="how many layers the random model has")
    for prefix, whose in (("", "both sides or A"), ("against-", "B, where it is not as A")):
        sides.add_argument(f"--{prefix}dtype", choices=DTYPES, help=f"what {whose} computes in")
        sides.add_argument(f"--{prefix}attention", choices=list(ATTENTIONS), help=f"the attention of {whose}")
        sides.add_argument(f"--{prefix}threads", type=positive_int, metavar="N", help=f"the CPU threads of {whose}")
        sides.add_argument(f"--{prefix}batch", type=positive_int, metavar="N", help=f"rows at once through {whose}")

    work = parser.add_argument_group("what is run")
    work.add_argument(
        "--mode",
        type=modes,
        default=["whole"],
        metavar="MODES",
        help=f"one or several of {', '.join(ALL_MODES)}, with commas between, or all",
    )
    work.add_argument("--text", metavar="FILE", help="text to run on, UTF-8 (default: random ids)")
    work.add_argument("--rows", type=positive_int, default=2, metavar="N", help="rows of ids (default: 2)")
    work.add_argument("--tokens", type=positive_int, default=32, metavar="N", help="ids in a row (default: 32)")
    work.add_argument(
        "--new-tokens", type=positive_int, default=16, metavar="N", help="tokens to generate (default: 16)"
    )
    work.add_argument("--seed", type=int, default=0, metavar="N", help="for ids, cuts, weights, draws (default: 0)")

    full = parser.add_argument_group("the proof at full size")
    full.add_argument(
        "--fullsize", choices=list(SHAPES), help="write a random checkpoint as published, compare by layer"
    )
    full.add_argument("--folder", metavar="DIR", help="where it is written (7b: 13.5 GB), or read if it is there")

    out = parser.add_argument_group("verdict and output", "exit status: 0 equal or within the tolerance, 1 different")
    out.add_argument("--max-ulp", type=int, metavar="N", help="let logits differ by up to N ULP")
    out.add_argument("--max-kl", type=float, metavar="X", help="let next-token distributions differ by a KL of up to X")
    out.add_argument("--json", action="store_true", help="print everything as one JSON object")
    out.add_argument("--report", metavar="FILE.html", help="write a page with the map of all operations")
    out.add_argument("--certificate", metavar="FILE.json", help="write, or add to, a certificate of this run")
    out.add_argument("--replay", metavar="FILE.json", help="run a certificate again: do the same bytes come out?")


def modes(text: str) -> list[str]:
    asked = list(ALL_MODES) if text == "all" else text.split(",")
    if unknown := [mode for mode in asked if mode not in ALL_MODES]:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is unknown; known are {', '.join(ALL_MODES)}")
    return asked


SPECS = "folder, hub repository, short name, transformers, transformers-cast or package.module:function"


def run(args: argparse.Namespace) -> int:
    """0 equal, 1 different, 2 when there was nothing to compare: a program must be able to tell the two apart."""
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
        write_page(Path(args.report), request, comparisons)
    if args.certificate:
        add_to_certificate(Path(args.certificate), request, comparisons)
    return 0 if all(each.passed for each in comparisons) else 1


def run_fullsize(args: argparse.Namespace) -> int:
    if not args.folder:
        raise ValueError("--fullsize writes a checkpoint of several gigabytes: name its folder with --folder")
    result = prove(args.fullsize, Path(args.folder), layers=args.layers, seed=args.seed)
    print(json.dumps(result.as_dict()) if args.json else result.text())
    return 1 if result.different else 0


def to_request(args: argparse.Namespace) -> Request:
    everything = args.mode == list(ALL_MODES)
    chosen = [mode for mode in args.mode if not (everything and args.random and mode == "tokenizer")]  # it has none
    first = Settings(args.dtype or "auto", args.attention or "sdpa", args.threads, args.batch)
    second = Settings(
        args.against_dtype or first.dtype,
        args.against_attention or first.attention,
        args.against_threads or first.threads,
        args.against_batch or first.rows,
    )
    return Request(
        args.model,
        args.against,
        args.checkpoint,
        args.random,
        args.layers,
        chosen,
        first,
        second,
        args.rows,
        args.tokens,
        args.new_tokens,
        args.text,
        args.seed,
        args.max_ulp,
        args.max_kl,
    )


def run_replay(args: argparse.Namespace) -> int:
    runs, changed = replay(Path(args.replay))
    same = all(run.same for run in runs)
    if args.json:
        results = [{"request": r.request.as_dict(), "same": r.same, "then_and_now": r.results} for r in runs]
        print(json.dumps({"same": same, "other_conditions": changed, "runs": results}, ensure_ascii=False))
        return 0 if same else 1
    for each in runs:
        request = each.request
        what = f"{request.random or request.model} against {request.against}, {request.first.dtype}"
        for then, now in each.results:
            word = "the same bytes" if then == now else f"different: {then['verdict']} then, {now['verdict']} now"
            print(f"{what}, {request.first.attention}, {then['mode']}: {word}")
    for line in changed:
        print(f"other conditions: {line}")
    return 0 if same else 1
