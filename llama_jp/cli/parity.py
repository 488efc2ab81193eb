"""llama-jp parity: are two models bit-identical? If not, where do they first differ, and is it a bug or rounding?"""

from __future__ import annotations

import argparse
import json
import math
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

from ..checkpoint.random_checkpoint import SHAPES
from ..environment import describe_environment
from ..model import ATTENTIONS
from ..parity.llamacpp.model import CACHE_TYPES
from ..parity.modes.fullsize import compare_fullsize
from ..parity.modes.generation import GENERATION_MODES
from ..parity.report.certificate import add_to_certificate, replay
from ..parity.report.html import write_html_report
from ..parity.report.text import text_report
from ..parity.requests import MODES, Request, run_request
from ..parity.run.models import Settings, spec_kind
from ..text_files import check_file_target
from .arguments import DTYPES, add_trust_argument, is_whole, positive_int

EXAMPLE = "llama-jp parity --random tiny --mode whole,steps,ragged"
SPECS = (
    "folder, hub repository, short name, transformers, transformers-cast, llama.cpp:FILE.gguf, "
    "checkout:FOLDER or package.module:function"
)
FAILURE_STATUS = 2  # nothing could be compared; 1 is the result "different"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    models.add_argument("--model", metavar="A", help=f"{SPECS} (default: demo)")
    models.add_argument("--against", metavar="B", help=f"the same; B is the reference (default: {Request.against})")
    models.add_argument(
        "--checkpoint", metavar="MODEL", help="the checkpoint for transformers and functions, if A and B name none"
    )
    models.add_argument(
        "--random", choices=list(SHAPES), help="random weights of this shape, in place of A's checkpoint"
    )
    models.add_argument("--layers", type=positive_int, metavar="N", help="number of layers of the random model")
    add_trust_argument(models)
    for prefix, of in (("", "A, and of B by default"), ("against-", "B (default: as A)")):
        models.add_argument(f"--{prefix}dtype", choices=DTYPES, help=f"dtype of {of}")
        models.add_argument(f"--{prefix}attention", choices=list(ATTENTIONS), help=f"attention function of {of}")
        models.add_argument(f"--{prefix}threads", type=positive_int, metavar="N", help=f"CPU threads of {of}")
        models.add_argument(f"--{prefix}batch", type=positive_int, metavar="N", help=f"rows per forward pass of {of}")
        models.add_argument(
            f"--{prefix}kv-cache", choices=list(CACHE_TYPES), help=f"dtype of llama.cpp's KV cache in {of}"
        )

    task = parser.add_argument_group("task")
    task.add_argument(
        "--mode",
        type=modes,
        metavar="MODES",
        help=f"one or more of {', '.join(MODES)}, separated by commas, or all (default: whole)",
    )
    task.add_argument("--text", metavar="FILE", help="UTF-8 text for the ids (default: random ids)")
    task.add_argument("--rows", type=positive_int, metavar="N", help="rows of ids (default: 2)")
    task.add_argument("--tokens", type=positive_int, metavar="N", help="ids in a row (default: 32)")
    task.add_argument("--new-tokens", type=positive_int, metavar="N", help="tokens to generate (default: 16)")
    task.add_argument("--seed", type=int, metavar="N", help="seed of ids, weights, chunks and sampling (default: 0)")

    full = parser.add_argument_group("full size")
    full.add_argument(
        "--fullsize", choices=list(SHAPES), help="write a random checkpoint in published form, and compare it by layer"
    )
    full.add_argument("--folder", metavar="DIR", help="folder of this checkpoint (7b: 13.5 GB), new or existing")

    output = parser.add_argument_group(
        "verdict and output",
        "exit status: 0 equal, as expected or within the tolerance, 1 different, 2 nothing could be compared",
    )
    output.add_argument(
        "--expect",
        action="append",
        metavar="PATTERN",
        help="an operation that was changed on purpose, such as 'layers.*.self_attn.scores'; all others have to be "
        "right; may be given several times",
    )
    output.add_argument("--max-ulp", type=whole_number, metavar="N", help="let logits differ by up to N ULP")
    output.add_argument("--max-kl", type=nats, metavar="X", help="let next-token distributions differ by X nats (KL)")
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


def whole_number(text: str) -> int:
    if not is_whole(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def nats(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def run(args: argparse.Namespace) -> int:
    """Exit status 0: equal, as expected or within the tolerance, 1: different. `main` returns 2 for failures."""
    refuse_unused(args)
    if args.fullsize:
        return run_fullsize(args)
    return run_replay(args) if args.replay else run_comparison(args)


def refuse_unused(args: argparse.Namespace) -> None:
    """Raise ValueError for the first option that the others leave without effect."""
    given = {name.replace("_", "-") for name, value in vars(args).items() if value is not None and value is not False}
    given -= {"run", "parser", "failure-status"}
    if args.replay:
        refuse(
            "--{flag} has no effect with --replay, which repeats the settings of the certificate",
            given - {"replay", "json", "trust-parts"},
        )
    elif args.fullsize:
        refuse(
            "--{flag} has no effect with --fullsize, which compares one pass in bfloat16 with transformers",
            given - {"fullsize", "folder", "layers", "seed", "json"},
        )
    else:
        refuse_unused_in_comparison(args, given)


def refuse_unused_in_comparison(args: argparse.Namespace, given: set[str]) -> None:
    request = to_request(args)
    modes, specs = set(request.modes), (request.model, request.against)
    refuse("--{flag} names the checkpoint of --fullsize, which is not given", given & {"folder"})
    if not args.random:
        refuse(
            "--{flag} is the number of layers of a random model; it needs --random or --fullsize", given & {"layers"}
        )
    elif args.model and names_checkpoint(args.model):
        raise ValueError(f"both models load the random checkpoint, so {args.model} cannot be named with --random")
    kinds = [spec_kind(spec) for spec in specs]
    if set(kinds) <= {"checkpoint", "llama.cpp"}:
        refuse("--{flag} has no effect: both models name their own checkpoint", given & {"checkpoint"})
    for prefix, chosen in (("", specs), ("against-", specs[1:])):
        if all(spec_kind(spec) == "function" for spec in chosen):
            refuse(
                f"--{{flag}} has no effect: the function {chosen[0]} chooses it itself",
                given & {f"{prefix}dtype", f"{prefix}attention"},
            )
        if all(spec_kind(spec) == "llama.cpp" for spec in chosen):
            refuse("--{flag} has no effect: llama.cpp runs without flash attention", given & {f"{prefix}attention"})
        if all(spec_kind(spec) != "llama.cpp" for spec in chosen):
            refuse("--{flag} is a setting of llama.cpp, which is not compared", given & {f"{prefix}kv-cache"})
    if modes <= {"tokenizer"}:
        ids_and_models = {"rows", "tokens", "seed", "dtype", "attention", "threads", "batch", "expect"}
        ids_and_models |= {f"against-{name}" for name in ids_and_models} | {"max-ulp", "max-kl"}
        refuse("--{flag} has no effect: the mode tokenizer runs no model", given & ids_and_models)
    if not modes & set(GENERATION_MODES):
        refuse(f"--{{flag}} needs a mode that generates: {' or '.join(GENERATION_MODES)}", given & {"new-tokens"})
    if modes <= {"tokenizer", "gradients"}:
        refuse("--{flag} needs a mode that compares logits, such as whole", given & {"expect", "max-kl"})
    if "gradients" in modes:
        refuse(
            "--{flag} judges single operations, which the mode gradients does not; leave one out", given & {"expect"}
        )
    if args.text and not args.random and not modes & {"chunks", "ragged", "sampled"}:
        refuse("--{flag} has no effect: the ids come from --text, and no mode is random", given & {"seed"})


def refuse(sentence: str, options: set[str]) -> None:
    """Raise ValueError with this sentence for the first of the options, if there is one."""
    if options:
        raise ValueError(sentence.replace("{flag}", min(options)))


def names_checkpoint(spec: str) -> bool:
    return spec_kind(spec) == "checkpoint"


def run_comparison(args: argparse.Namespace) -> int:
    request = to_request(args)
    for file in filter(None, (args.report, args.certificate)):  # before the comparison, which may take minutes
        check_file_target(Path(file), "parity.html" if file == args.report else "parity.json")
    with redirect_stdout(sys.stderr):  # a function may print, and standard output is for the result
        comparisons = run_request(request, args.trust_parts)
    if args.report:
        write_html_report(Path(args.report), request, comparisons)
    if args.certificate:
        add_to_certificate(Path(args.certificate), request, comparisons)
    if args.json:
        content = {"environment": describe_environment(), "request": request.as_dict()}
        print(json.dumps(content | {"comparisons": [each.as_dict() for each in comparisons]}, ensure_ascii=False))
    else:
        print(text_report(comparisons))
    return 0 if all(each.passed for each in comparisons) else 1


def run_fullsize(args: argparse.Namespace) -> int:
    if not args.folder:
        raise ValueError("--fullsize writes a checkpoint of several gigabytes: name its folder with --folder")
    result = compare_fullsize(args.fullsize, Path(args.folder), layers=args.layers, seed=args.seed or 0)
    print(json.dumps(result.as_dict()) if args.json else result.text())
    return 1 if result.different or not result.finite else 0


def to_request(args: argparse.Namespace) -> Request:
    """The request of a command line. Settings of B default to those of A."""
    chosen = args.mode or ["whole"]
    kinds = {spec_kind(spec) for spec in (args.model, args.against) if spec}
    without_tokenizer = args.random or kinds & {"function", "llama.cpp", "checkout"}
    if without_tokenizer and chosen == list(MODES):
        chosen = [mode for mode in chosen if mode != "tokenizer"]
    first = Settings(args.dtype or "auto", args.attention or "sdpa", args.threads, args.batch, args.kv_cache)
    second = Settings(
        args.against_dtype or first.dtype,
        args.against_attention or first.attention,
        args.against_threads or first.threads,
        args.against_batch or first.rows,
        args.against_kv_cache or first.kv_cache,
    )
    request = Request(modes=chosen, first=first, second=second)
    names = ("model", "against", "checkpoint", "random", "layers", "rows", "tokens", "new_tokens", "text", "seed")
    given = {name: getattr(args, name) for name in (*names, "max_ulp", "max_kl", "expect")}
    return replace(request, **{name: value for name, value in given.items() if value is not None})


def run_replay(args: argparse.Namespace) -> int:
    with redirect_stdout(sys.stderr):
        runs, changes = replay(Path(args.replay), trust_parts=args.trust_parts)
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
