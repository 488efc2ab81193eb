"""What several commands share: choosing a model, choosing how to generate, and saying how fast it went."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable

import torch

from ..checkpoint import SHORT_NAMES, load
from ..generate import Options, stream_text
from ..model import ATTENTIONS, Llama
from ..tokenizer import Tokenizer

DTYPES = ("auto", "stored", "float32", "bfloat16", "float16")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default="demo",
        metavar="MODEL",
        help=f"folder, hub repository (owner/name) or one of demo, {', '.join(SHORT_NAMES)} (default: demo)",
    )
    parser.add_argument(
        "--revision", metavar="REV", help="branch, tag or commit of a hub repository, such as refs/pr/2"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    add_source_arguments(group)
    group.add_argument("--dtype", choices=DTYPES, default="auto", help="what to compute in (default: auto)")
    group.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    group.add_argument(
        "--attention", choices=list(ATTENTIONS), default="sdpa", help="fused or written out (default: sdpa)"
    )
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: torch's choice)")


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "generation", "what is not given here is the checkpoint's own generation_config.json"
    )
    group.add_argument(
        "--max-new-tokens", type=positive, metavar="N", help="length of the answer at most (default: 256)"
    )
    group.add_argument(
        "--stop", action="append", metavar="TEXT", help="end before this text; may be given several times"
    )
    choice = group.add_mutually_exclusive_group()
    choice.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    choice.add_argument("--sample", action="store_true", help="draw tokens; the next five options imply it")
    group.add_argument("--temperature", type=float, metavar="T", help="below 1 bolder, above 1 wilder")
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens only (0: from all)")
    group.add_argument("--top-p", type=float, metavar="P", help="draw from the likeliest tokens that add up to P")
    group.add_argument(
        "--min-p", type=float, metavar="P", help="draw from tokens at least P times as likely as the likeliest"
    )
    group.add_argument("--seed", type=int, metavar="N", help="draw the same tokens again (and as transformers would)")
    group.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1: avoid tokens seen so far")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def open_model(args: argparse.Namespace) -> tuple[Llama, Tokenizer]:
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        return load(args.model, dtype=args.dtype, device=args.device, revision=args.revision, attention=args.attention)
    except RuntimeError as error:  # torch's word for a device that is not there
        raise ValueError(f"cannot load {args.model} on {args.device}: {str(error).splitlines()[0]}") from error


def generation_options(args: argparse.Namespace, model: Llama) -> dict:
    """The options that were typed. One that matters only when drawing means: draw. A seed is chosen where none was."""
    shaping = {name: getattr(args, name) for name in ("temperature", "top_k", "top_p", "min_p")}
    options = {name: value for name, value in shaping.items() if value is not None}
    if args.greedy and (options or args.seed is not None):
        raise ValueError(
            "--greedy draws nothing, so --temperature, --top-k, --top-p, --min-p and --seed do not go with it"
        )
    if args.greedy:
        options["do_sample"] = False
    elif args.sample or options or args.seed is not None:
        options["do_sample"] = True
    for name, value in (
        ("max_new_tokens", args.max_new_tokens),
        ("repetition_penalty", args.repetition_penalty),
        ("stop_strings", args.stop),
    ):
        if value is not None:
            options[name] = value
    if Options.of(model, options).do_sample:
        options["seed"] = random.randrange(2**31) if args.seed is None else args.seed
    return options


def speed_report(stream: stream_text, prompt_tokens: int, options: dict, interrupted: bool = False) -> str:
    """One line: how much, why it ended, time to the first token, tokens per second from there."""
    answer, (first, rest) = stream.generation, stream.seconds
    reason = "interrupted" if interrupted else answer.finish_reason
    parts = [f"{prompt_tokens} prompt tokens, {len(answer.ids)} new ({reason})"]
    if answer.ids:
        parts.append(f"first after {first:.2f} s")
    if rest > 0:
        parts.append(f"{(len(answer.ids) - 1) / rest:.1f} tokens/s")
    if "seed" in options:
        parts.append(f"seed {options['seed']}")
    return ", ".join(parts)


def write_pieces(pieces: Iterable[str]) -> str:
    """Show text as it comes; returns all of it."""
    shown = []
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
        shown.append(piece)
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(shown)
