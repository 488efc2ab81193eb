"""llama-jp finetune: train a model, or an adapter for it, on a JSONL file."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path

from ..checkpoint.parts import recorded_parts
from .arguments import (
    add_source_arguments,
    add_tokenizer_argument,
    add_trust_argument,
    int_from_0,
    number_from_0,
    positive_int,
    positive_number,
    thread_count,
)
from .console import note
from .language import translate_help

EXAMPLE = "llama-jp finetune stories.jsonl my-model --model demo --lr 3e-4 --epochs 3"
DATA_FORMS = """A line of DATA is a JSON object with one of these forms:
  {"instruction": "…", "output": "…"}           also with "input" and "system"
  {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}
  {"text": "…"}
The same command continues a run that was interrupted or killed, to the same bits."""

OPTIONS = (
    *("lora", "steps", "epochs", "lr", "warmup", "batch", "accumulate", "length", "weight_decay", "clip", "seed"),
    *("evaluation", "held_out", "save_every", "precision", "checkpointing", "device", "attention", "revision"),
    *("trust_parts", "tokenizer"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{parser.description}\n\n{translate_help(DATA_FORMS)}"
    parser.add_argument("data", metavar="DATA.jsonl", type=Path, help="examples, one per line")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder for the checkpoint, or for the adapter")
    group = parser.add_argument_group("model")
    add_source_arguments(group)
    add_tokenizer_argument(group)
    add_trust_argument(group)

    add = parser.add_argument_group("training").add_argument
    add("--lora", type=positive_int, metavar="R", help="train a LoRA adapter of rank R (default: train all weights)")
    add("--steps", type=positive_int, metavar="N", help="number of steps of the optimizer")
    add("--epochs", type=positive_int, metavar="N", help="number of times that each example is used (default: 3)")
    add("--lr", type=positive_number, metavar="X", help="peak learning rate (default: 2e-5; with --lora 2e-4)")
    add("--warmup", type=int_from_0, metavar="N", help="steps in which the learning rate rises (default: 3%% of them)")
    add("--batch", type=positive_int, metavar="N", default=4, help="rows in one call of the model (default: 4)")
    add("--accumulate", type=positive_int, metavar="N", default=1, help="calls in a step (default: 1)")
    add("--length", type=positive_int, metavar="N", help="tokens in a row (default: 1024, or the context if shorter)")
    add("--weight-decay", type=number_from_0, metavar="X", default=0.0, help="of AdamW (default: 0)")
    add("--clip", type=positive_number, metavar="X", default=1.0, help="largest norm of the gradients (default: 1)")
    add("--seed", type=int_from_0, metavar="N", default=0, help="of data and adapter (default: 0)")
    add("--eval", type=Path, metavar="FILE.jsonl", dest="evaluation", help="examples for the held-out loss")
    add("--held-out", type=int_from_0, metavar="N", help="examples of DATA to hold out (default: a twentieth)")
    add("--save-every", type=positive_int, metavar="N", default=100, help="steps between two states (default: 100)")

    add = parser.add_argument_group("computation").add_argument
    add(
        "--precision",
        choices=("auto", "float32", "autocast", "bfloat16"),
        default="auto",
        help="autocast: float32 weights, bfloat16 products; bfloat16: everything; auto: autocast, or bfloat16 with "
        "--lora, if the device multiplies bfloat16 natively, else float32 (default: auto)",
    )
    add("--checkpointing", action="store_true", help="keep fewer activations: less memory, more time, same bits")
    add("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, cuda:1, … (default: auto)")
    add("--attention", choices=("sdpa", "eager"), default="sdpa", help="fused or written out (default: sdpa)")
    add("--threads", type=thread_count, metavar="N", help="number of CPU threads (default: PyTorch's)")


def run(args: argparse.Namespace) -> int:
    if args.steps is not None and args.epochs is not None:
        args.parser.error("--steps and --epochs both set the length of the run; leave one out")
    if args.evaluation is not None and args.held_out is not None:
        args.parser.error("--eval and --held-out both choose the held-out examples; leave one out")
    # Idle threads sleep and do not spin: on cores shared with other programs, spinning makes training times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which also takes seconds
    from ..training import finetune
    from .output import check_folder_name, check_writable, count

    check_folder_name(args.out, f"; afterwards, llama-jp convert OUT {args.out} writes a GGUF file")
    check_writable(args.out)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    result = finetune(args.data, args.out, args.model, **{name: getattr(args, name) for name in OPTIONS})
    held_out = "" if result.held_out is None else f", held-out loss {result.held_out:.4f}"
    steps = count(result.steps, "step")
    if args.lora is None:
        note(f"{args.out}: checkpoint after {steps}{held_out}")
    else:
        note(f"{args.out}: adapter after {steps}{held_out}")
    note(f'try it: llama-jp generate {shlex.join(model_flags(args))} "…"')
    return 0


def model_flags(args: argparse.Namespace) -> list[str]:
    """The flags with which other commands load the result."""
    if args.lora is not None:
        flags = ["--model", args.model, "--adapter", str(args.out)]
        flags += [] if args.revision is None else ["--revision", args.revision]
        flags += [] if args.tokenizer is None else ["--tokenizer", args.tokenizer]
        trust = args.trust_parts
    else:
        flags = ["--model", str(args.out)]
        trust = bool(recorded_parts(json.loads((args.out / "config.json").read_text(encoding="utf-8"))))
    return flags + (["--trust-parts"] if trust else [])
