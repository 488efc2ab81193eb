"""llama-jp quantize: write int8 or int4 weights with a certificate, or verify a certificate."""

from __future__ import annotations

import argparse
import json

from ..evaluation.documents import CALIBRATION, HELD_OUT
from ..linear.scheme import GROUP_SIZES, METHODS
from ..quantization.certificate import Certificate, Verdict, verify
from ..quantization.convert import quantize
from .arguments import add_conversion_arguments, take_model_as_source
from .output import check_folder_name, check_writable

EXAMPLE = "llama-jp quantize demo demo-int4 --bits 4 --group-size 64 --method gptq"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_conversion_arguments(parser, "MODEL", "OUT")
    make = parser.add_argument_group("quantising")
    make.add_argument("--bits", type=int, choices=(8, 4), help="bits per weight (default: 8)")
    sizes = ", ".join(map(str, sorted(GROUP_SIZES)))
    make.add_argument(
        "--group-size", type=int, metavar="N", help=f"int4: inputs that share a scale, {sizes} (default: 128)"
    )
    make.add_argument("--method", choices=METHODS, help="rtn: round to nearest; gptq: calibrated int4 (default: rtn)")
    make.add_argument("--head-bits", type=int, choices=(8, 4), help="bits of lm_head (default: 8, also for int4)")
    make.add_argument("--calibrate", metavar="FILE", help=f"calibration text for gptq (default: {CALIBRATION})")
    check = parser.add_argument_group("certificate")
    check.add_argument("--verify", metavar="FOLDER", help="measure FOLDER again; exit status 0: as certified, 1: not")
    check.add_argument("--against", metavar="MODEL", help="the original, if the certificate does not name its source")
    check.add_argument(
        "--text", metavar="FILE", help=f"text to measure on (default: {HELD_OUT}, or the text of the certificate)"
    )
    check.add_argument("--json", action="store_true", help="print the certificate, or the verdict, as JSON")


def run(args: argparse.Namespace) -> int:
    take_model_as_source(args)
    given = {
        "bits": args.bits,
        "group_size": args.group_size,
        "method": args.method,
        "head_bits": args.head_bits,
        "calibrate": args.calibrate,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if args.verify is not None:
        if given or any(value is not None for value in (args.source, args.adapter, args.tokenizer)):
            raise ValueError("--verify FOLDER takes no MODEL, no OUT and no options for quantising; remove them")
        return print_verdict(verify(args.verify, args.against, args.text, args.revision), args.json)
    if args.target is None:
        raise ValueError("MODEL and OUT are needed: llama-jp quantize MODEL OUT, or llama-jp quantize --verify FOLDER")
    if args.against is not None:
        raise ValueError("--against needs --verify")
    if "group_size" in given and given.get("bits", 8) == 8:
        raise ValueError("--group-size needs --bits 4; int8 has one scale per row")
    if "calibrate" in given and given.get("method") != "gptq":
        raise ValueError("--calibrate needs --method gptq; rounding to nearest uses no text")
    if args.text is not None:
        given["text"] = args.text
    check_folder_name(args.target, f"; llama-jp convert MODEL {args.target} --type q8_0 writes a GGUF file")
    check_writable(args.target)
    named = {"revision": args.revision, "adapter": args.adapter, "tokenizer": args.tokenizer}
    certificate = quantize(args.source, args.target, **named, **given)
    size = sum(file.stat().st_size for file in args.target.glob("*.safetensors"))
    if args.json:
        print(json.dumps(certificate, indent=2, ensure_ascii=False))
    else:
        print(f"{args.target}: {size:,} bytes of weights")
        print(certificate_table(certificate) if certificate else "no certificate: the checkpoint has no tokenizer")
    return 0


def print_verdict(verdict: Verdict, as_json: bool) -> int:
    """Print the result of `verify`; returns the exit status."""
    if as_json:
        content = {
            "equal": verdict.equal,
            "exactly": verdict.exactly,
            "differences": verdict.differences,
            "measured": verdict.measured,
        }
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        print(certificate_table(verdict.measured))
        print(conclusion(verdict))
    return 1 if verdict.equal is False else 0


def certificate_table(certificate: Certificate) -> str:
    """The measured numbers and their settings, one per line."""
    result, text, arithmetic = certificate["result"], certificate["text"], certificate["arithmetic"]
    original, quantized = result["perplexity"]["original"], result["perplexity"]["quantized"]
    lines = [
        f"text            {text['file']}, {text['tokens']:,} tokens, sha256 {text['sha256'][:12]}…",
        f"arithmetic      {arithmetic['dtype']}, torch {arithmetic['torch']}, {arithmetic['threads']} threads",
        f"KL divergence   {result['kl_divergence']:.6f} nats",
        f"top-1 agreement {result['top1_agreement']:.2%}",
        f"perplexity      {original:.4f} original, {quantized:.4f} quantised ({quantized / original - 1:+.2%})",
    ]
    return "\n".join(lines)


def conclusion(verdict: Verdict) -> str:
    if verdict.equal is None:
        certified = verdict.certificate["text"]["file"]
        return f"no comparison: the certificate is for another text ({certified})"
    if verdict.exactly:
        return "equal: every number as certified, to the last digit"
    if verdict.equal:
        return "equal: every number as certified, within the tolerance for another CPU or number of threads"
    return f"NOT equal: {'; '.join(verdict.differences)}"
