"""What several commands share: choosing a model, choosing how to generate, and saying how fast it went."""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
from collections.abc import Iterable

import torch

from ..checkpoint.hub import SHORT_NAMES
from ..checkpoint.load import load_model
from ..evaluation.documents import TEXTS
from ..generation.interface import stream_text
from ..generation.options import Options
from ..loading import load
from ..long_context import extend_context
from ..model import ATTENTIONS, Llama
from ..speed.optimization import LEVELS, optimize
from ..text.tokenizer import Tokenizer

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
    group.add_argument(
        "--optimize",
        choices=list(LEVELS),
        help="faster after some seconds of measuring (CPU): exact keeps the bits, close and int8 say what they cost",
    )


def add_generation_arguments(parser: argparse.ArgumentParser, several: bool = True) -> None:
    """One flag for each option that can be typed, under the option's own name, in groups; most used ones first.

    Without `several`, none for beams and more than one answer.
    """
    length = parser.add_argument_group(
        "length and stopping", "what is not given, here and below, is the checkpoint's own generation_config.json"
    )
    length.add_argument("--max-new-tokens", type=positive, metavar="N", help="length at most (default: 256)")
    length.add_argument(
        "--stop",
        action="append",
        dest="stop_strings",
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    length.add_argument("--min-new-tokens", type=int, metavar="N", help="no end of text before N tokens")
    length.add_argument("--max-length", type=positive, metavar="N", help="length at most, prompt included")
    length.add_argument("--min-length", type=int, metavar="N", help="length at least, prompt included")
    length.add_argument("--max-time", type=float, metavar="S", help="end after so many seconds")
    length.add_argument("--stop-on-loop", action="store_true", default=None, help="end when the text goes in circles")
    length.add_argument("--eos-token-id", type=ids, metavar="IDS", help="ids that end the text, as 2 or 2,13")

    draw = parser.add_argument_group("drawing", "all but --greedy imply --sample; several narrow it down together")
    choice = draw.add_mutually_exclusive_group()
    choice.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    choice.add_argument("--sample", action="store_true", help="draw tokens")
    draw.add_argument("--temperature", type=float, metavar="T", help="below 1 safer, above 1 wilder (default: 1)")
    draw.add_argument(
        "--top-p", type=float, metavar="P", help="from the likeliest tokens whose probabilities add up to P"
    )
    draw.add_argument("--top-k", type=int, metavar="K", help="from the K likeliest tokens (default: 50; 0: all)")
    draw.add_argument("--seed", type=int, metavar="N", help="draw the same tokens again (and as transformers would)")
    draw.add_argument(
        "--min-p", type=float, metavar="P", help="from tokens at least P times as likely as the likeliest"
    )
    draw.add_argument("--typical-p", type=float, metavar="P", help="from tokens about as surprising as expected")
    draw.add_argument("--epsilon-cutoff", type=float, metavar="P", help="from tokens at least as likely as P")
    draw.add_argument(
        "--eta-cutoff", type=float, metavar="P", help="the same, with a lower bar where the model is unsure"
    )
    draw.add_argument(
        "--top-h", type=float, metavar="H", help="from the likeliest tokens with the share H of the entropy"
    )

    repetition = parser.add_argument_group("against repetition")
    repetition.add_argument("--repetition-penalty", type=float, metavar="X", help="above 1: avoid tokens seen so far")
    repetition.add_argument("--no-repeat-ngram-size", type=int, metavar="N", help="never N tokens in a row twice")
    repetition.add_argument(
        "--encoder-no-repeat-ngram-size", type=int, metavar="N", help="nor any N of the prompt again"
    )
    repetition.add_argument(
        "--encoder-repetition-penalty", type=float, metavar="X", help="above 1: prefer tokens of the prompt"
    )
    repetition.add_argument(
        "--presence-penalty", type=float, metavar="X", help="subtracted from the logits of tokens seen so far"
    )
    repetition.add_argument(
        "--frequency-penalty", type=float, metavar="X", help="the same, once for each time they were seen"
    )
    repetition.add_argument("--penalty-window", type=positive, metavar="N", help="penalties look at the last N tokens")
    repetition.add_argument(
        "--penalty-generated-only", action="store_true", default=None, help="penalties leave the prompt alone"
    )

    tokens = parser.add_argument_group("tokens that must or must not come", "llama-jp tokenize shows ids")
    tokens.add_argument("--bad-words-ids", type=json_value, metavar="JSON", help="sequences to forbid: [[5], [7, 8]]")
    tokens.add_argument(
        "--sequence-bias", type=json_value, metavar="JSON", help="sequences to favour or avoid: [[[7, 8], -2.5]]"
    )
    tokens.add_argument("--suppress-tokens", type=ids, metavar="IDS", help="never these: 5,7")
    tokens.add_argument("--begin-suppress-tokens", type=ids, metavar="IDS", help="not these as the first new token")
    tokens.add_argument(
        "--forced-bos-token-id", type=int, metavar="ID", help="the first new token, after a prompt of one token"
    )
    tokens.add_argument("--forced-eos-token-id", type=ids, metavar="IDS", help="the last token, where the length ends")
    tokens.add_argument(
        "--exponential-decay-length-penalty",
        type=json_value,
        metavar="JSON",
        help="make the end likelier after N new tokens: [20, 1.1]",
    )
    tokens.add_argument("--guidance-scale", type=float, metavar="X", help="above 1: keep closer to the prompt")
    tokens.add_argument("--negative-prompt-ids", type=ids, metavar="IDS", help="and away from this prompt")
    tokens.add_argument("--remove-invalid-values", action="store_true", default=None, help="NaN and inf become finite")
    tokens.add_argument("--renormalize-logits", action="store_true", default=None, help="log-softmax after all filters")

    if several:
        beams = parser.add_argument_group("beam search, and several answers (nothing streams)")
        beams.add_argument("--num-beams", type=positive, metavar="N", help="follow the N likeliest beginnings")
        beams.add_argument(
            "--num-return-sequences", type=positive, metavar="N", help="N answers, drawn or from the beams"
        )
        beams.add_argument(
            "--length-penalty", type=float, metavar="X", help="above 0: prefer longer answers (default: 1)"
        )
        beams.add_argument(
            "--early-stopping",
            choices=("true", "false", "never"),
            help="stop at N ended answers, or when none can win (default: false)",
        )

    speed = parser.add_argument_group(
        "speculation: guess tokens, check several in one step", "the same answers, sooner where many guesses are right"
    )
    speed.add_argument(
        "--prompt-lookup-num-tokens",
        type=positive,
        metavar="N",
        help="look up to N guesses in the text so far (10 is a start)",
    )
    speed.add_argument(
        "--max-matching-ngram-size", type=positive, metavar="N", help="by its last N tokens (default: 2)"
    )
    speed.add_argument("--assistant-model", metavar="MODEL", help="let a smaller model with the same tokenizer guess")
    speed.add_argument(
        "--num-assistant-tokens", type=positive, metavar="N", help="up to N tokens at a time (default: 4)"
    )

    long = parser.add_argument_group("long texts and memory")
    long.add_argument("--past-context", choices=("refuse", "shift"), help="when the context is full (default: refuse)")
    long.add_argument("--sink-tokens", type=int, metavar="N", help="first tokens that shift never forgets (default: 4)")
    long.add_argument(
        "--rope-scaling", type=rope_scaling, metavar="TYPE:X", help="stretch the context: linear:2, dynamic:2, yarn:4"
    )
    long.add_argument("--prefill-chunk-size", type=positive, metavar="N", help="read the prompt in parts of N tokens")
    if several:
        long.add_argument(
            "--inexact",
            action="store_false",
            dest="exact",
            default=None,
            help="read a prompt once for all its answers even where rounding may differ from transformers'",
        )


DRAWING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff", "top_h")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def ids(text: str) -> list[int]:
    if not all(part.strip().isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids such as 2,13")
    return [int(part) for part in text.split(",")]


def json_value(text: str) -> list:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(value, list):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list")
    return value


def rope_scaling(text: str) -> tuple[str, float]:
    kind, _, factor = text.partition(":")
    try:
        return kind, float(factor)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a type and a factor such as linear:2") from error


def open_model(args: argparse.Namespace) -> tuple[Llama, Tokenizer]:
    if args.threads:
        torch.set_num_threads(args.threads)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from .ranks import open_sharded

        if args.optimize:
            raise ValueError("--optimize is for one process; leave it out under torchrun")
        model, tokenizer = open_sharded(args)
    else:
        model, tokenizer = load(
            args.model, dtype=args.dtype, device=args.device, revision=args.revision, attention=args.attention
        )
    if getattr(args, "rope_scaling", None):
        extend_context(model, *args.rope_scaling)
    if args.optimize:
        text = (TEXTS / "prose.ja.txt").read_text(encoding="utf-8")
        ids = torch.tensor([tokenizer.encode(text)[:128]])
        optimized = optimize(model, args.optimize, 1 + (getattr(args, "prompt_lookup_num_tokens", None) or 0), ids)
        print(f"optimised; numerical deviation on a page of prose: {optimized.deviation}", file=sys.stderr)
    return model, tokenizer


def open_assistant(args: argparse.Namespace) -> Llama | None:
    """The model that drafts, if one was asked for. Its tokenizer is taken to be the model's."""
    if args.assistant_model is None:
        if args.num_assistant_tokens is not None:
            raise ValueError("--num-assistant-tokens needs --assistant-model")
        return None
    return load_model(args.assistant_model, dtype=args.dtype, device=args.device, attention=args.attention)


def generation_options(args: argparse.Namespace, model: Llama) -> dict:
    """The options that were typed. One that matters only when drawing means: draw. A seed is chosen where none was."""
    names = {field.name for field in dataclasses.fields(Options)} & vars(args).keys()
    options = {name: getattr(args, name) for name in sorted(names) if getattr(args, name) is not None}
    if "early_stopping" in options:
        options["early_stopping"] = {"true": True, "false": False}.get(args.early_stopping, "never")
    drawing = [name for name in (*DRAWING, "seed") if name in options]
    if args.greedy and drawing:
        flags = ", ".join("--" + name.replace("_", "-") for name in drawing)
        raise ValueError(f"--greedy draws nothing, so {flags} cannot go with it")
    if args.greedy:
        options["do_sample"] = False
    elif args.sample or drawing:
        options["do_sample"] = True
    if Options.of(model, options).do_sample:
        options.setdefault("seed", random.randrange(2**31))
    return options


def common_prefix(cached: list[int], ids: list[int]) -> list[int]:
    """What a cache of the ids `cached` knows of a prompt, but never all of it: its last token has to be read."""
    most = min(len(cached), len(ids) - 1)
    return ids[: next((i for i in range(most) if cached[i] != ids[i]), most)]


def speed_report(
    stream: stream_text, prompt_tokens: int, options: dict, interrupted: bool = False, known: int = 0
) -> str:
    """One line: how much (and what of it a cache knew), why it ended, time to the first token, tokens per second."""
    answer, (first, rest) = stream.generation, stream.seconds
    reason = "interrupted" if interrupted else answer.finish_reason
    parts = [f"{prompt_tokens} prompt tokens" + (f" ({known} known)" if known else "")]
    parts.append(f"{len(answer.ids)} new ({reason})")
    if answer.ids:
        parts.append(f"first after {first:.2f} s")
    if rest > 0:
        parts.append(f"{(len(answer.ids) - 1) / rest:.1f} tokens/s")
    if answer.drafted:
        parts.append(f"{answer.accepted} of {answer.drafted} guesses accepted in {answer.passes} passes")
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
