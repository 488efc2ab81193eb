"""llama-jp quantize: int8 or int4 weights with a certificate, and the certificate checked."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..evaluation.documents import CALIBRATION, HELD_OUT
from ..linear.scheme import GROUP_SIZES, METHODS
from ..quantization.certificate import Verdict, verify
from ..quantization.convert import quantize

EXAMPLE = "llama-jp quantize demo demo-int4 --bits 4 --group-size 64 --method gptq"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", nargs="?", metavar="MODEL", help="folder, hub repository or short name")
    parser.add_argument("target", nargs="?", metavar="OUT", type=Path, help="folder to write; it must be new or empty")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the original on the hub")
    make = parser.add_argument_group("quantising")
    make.add_argument("--bits", type=int, choices=(8, 4), help="bits of a weight (default: 8)")
    sizes = ", ".join(map(str, sorted(GROUP_SIZES)))
    make.add_argument("--group-size", type=int, metavar="N", help=f"int4: inputs to a scale, {sizes} (default: 128)")
    make.add_argument("--method", choices=METHODS, help="round to nearest, or calibrated int4 (default: rtn)")
    make.add_argument(
        "--head-bits", type=int, choices=(8, 4), help="bits of lm_head, 8 also for int4 unless 4 is given"
    )
    make.add_argument("--calibrate", metavar="FILE", help=f"text that gptq looks at (default: {CALIBRATION})")
    check = parser.add_argument_group("certificate")
    check.add_argument("--verify", metavar="FOLDER", help="measure FOLDER again; exit status 0: as certified, 1: not")
    check.add_argument("--against", metavar="MODEL", help="the original, where the certificate does not say")
    check.add_argument(
        "--text", metavar="FILE", help=f"text to measure on (default: {HELD_OUT}, or the one that was certified)"
    )
    check.add_argument("--json", action="store_true", help="print the certificate, or the verdict, as JSON")


def run(args: argparse.Namespace) -> int:
    making = {name: getattr(args, name) for name in ("bits", "group_size", "method", "head_bits", "calibrate")}
    making = {name: value for name, value in making.items() if value is not None}
    if args.verify is not None:
        if args.source is not None or making:
            raise ValueError("--verify FOLDER measures what is there: MODEL, OUT and what is for quantising do not fit")
        return report(verify(args.verify, args.against, args.text, args.revision), args.json)
    if args.target is None:
        raise ValueError("say what to quantise and where to write it: llama-jp quantize MODEL OUT, or --verify FOLDER")
    if args.against is not None:
        raise ValueError("--against goes with --verify")
    if "group_size" in making and making.get("bits", 8) == 8:
        raise ValueError("--group-size is for --bits 4; int8 has one scale for each row")
    if "calibrate" in making and making.get("method") != "gptq":
        raise ValueError("--calibrate is for --method gptq; rounding to nearest looks at no text")
    if args.text is not None:
        making["text"] = args.text
    certificate = quantize(args.source, args.target, revision=args.revision, **making)
    size = sum(file.stat().st_size for file in args.target.glob("*.safetensors"))
    if args.json:
        print(json.dumps(certificate, indent=2, ensure_ascii=False))
    else:
        print(f"{args.target}: {size:,} bytes of weights")
        print("\n".join(lines(certificate) if certificate else ["no certificate: there is no tokenizer"]))
    return 0


def report(verdict: Verdict, as_json: bool) -> int:
    if as_json:
        content = {"equal": verdict.equal, "exactly": verdict.exactly, "differences": verdict.differences}
        print(json.dumps(content | {"measured": verdict.measured}, indent=2, ensure_ascii=False))
    else:
        print("\n".join([*lines(verdict.measured), conclusion(verdict)]))
    return 1 if verdict.equal is False else 0


def lines(certificate: dict) -> list[str]:
    result, text, arithmetic = (certificate[key] for key in ("result", "text", "arithmetic"))
    before, after = (result["perplexity"][side] for side in ("original", "quantized"))
    return [
        f"text            {text['file']}, {text['tokens']:,} tokens, sha256 {text['sha256'][:12]}…",
        f"arithmetic      {arithmetic['dtype']}, torch {arithmetic['torch']}, {arithmetic['threads']} threads",
        f"KL divergence   {result['kl_divergence']:.6f} nats",
        f"top-1 agreement {result['top1_agreement']:.2%}",
        f"perplexity      {before:.4f} original, {after:.4f} quantised ({after / before - 1:+.2%})",
    ]


def conclusion(verdict: Verdict) -> str:
    if verdict.equal is None:
        return f"another text than the certificate's ({verdict.certificate['text']['file']}): nothing to compare with"
    if verdict.exactly:
        return "equal: every number as certified, to the last digit"
    if verdict.equal:
        return "equal: every number as certified, within what another CPU or number of threads explains"
    return f"NOT equal: {'; '.join(verdict.differences)}"
