"""llama-jp bench: the speed of a model on this machine, and the share of the machine's limits that it reaches."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..checkpoint.config import dtype_name
from ..checkpoint.load import load_model
from ..checkpoint.random_checkpoint import SHAPES, random_config
from ..model import ATTENTIONS, Llama
from ..speed.kept_plans import forget_plans
from ..speed.optimization import LEVELS
from ..speed.static_steps import StaticLlama
from .arguments import (
    DTYPES,
    add_adapter_argument,
    add_positional_source_arguments,
    add_trust_argument,
    int_list,
    positive_int,
    thread_count,
)
from .console import note
from .models import add_compile_argument, check_compile, optimize_model

if TYPE_CHECKING:
    from ..speed.benchmark import Rates

EXAMPLE = "llama-jp bench demo --batch 1,8 --optimize exact"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model = add_positional_source_arguments(parser)
    model.add_argument("--random", choices=list(SHAPES), help="random weights of this shape in place of a checkpoint")
    add_adapter_argument(parser)
    parser.add_argument("--layers", type=positive_int, metavar="N", help="with --random: the number of layers")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of weights and activations (default: auto)")
    parser.add_argument("--device", default="auto", metavar="DEVICE", help="auto, cpu, cuda, … (default: auto)")
    parser.add_argument("--attention", choices=list(ATTENTIONS), default="sdpa", help="default: sdpa")
    add_trust_argument(parser)
    parser.add_argument("--threads", type=thread_count, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument(
        "--prompt",
        type=int_list,
        default=[128, 512, 2048],
        metavar="N,…",
        help="lengths of prompts, in tokens (default: 128,512,2048)",
    )
    parser.add_argument(
        "--batch", type=int_list, default=[1, 8, 32], metavar="N,…", help="batch sizes (default: 1,8,32)"
    )
    parser.add_argument(
        "--steps", type=positive_int, default=16, metavar="N", help="decoding steps per run (default: 16)"
    )
    parser.add_argument("--runs", type=positive_int, default=3, metavar="N", help="runs per median (default: 3)")
    parser.add_argument(
        "--optimize",
        choices=list(LEVELS),
        help="measure again after optimising for the first batch size; exact: the logits stay bit-identical; close: "
        "rounding may differ; int8: activations of int8 weights are also rounded to int8",
    )
    add_compile_argument(parser)
    parser.add_argument(
        "--forget",
        action="store_true",
        help="remove the kernel choices and compiled programs that --optimize keeps in the user's cache folder, and "
        "measure nothing",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to standard error")


def run(args: argparse.Namespace) -> int:
    if args.forget:
        removed = forget_plans()
        for file in removed:
            note(f"{file}: removed")
        if not removed:
            note("no kernel choices are kept")
        return 0
    if args.random is None and args.layers is not None:
        args.parser.error("--layers needs --random; a checkpoint has its own number of layers")
    for flag in ("revision", "adapter"):
        if args.random is not None and getattr(args, flag) is not None:
            args.parser.error(f"--{flag} belongs to a checkpoint, and --random has none")
    check_compile(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    if 0 in (*args.prompt, *args.batch):
        raise ValueError("--prompt and --batch are whole numbers of at least 1")
    with ExitStack() as stack:
        if args.random is not None:
            args.model = write_random_checkpoint(args, stack)
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            result = run_benchmark(args)
    if args.json:
        print(json.dumps(result, ensure_ascii=False))
    return 0


def write_random_checkpoint(args: argparse.Namespace, stack: ExitStack) -> Path:
    """Write random weights to a temporary folder, which `stack` removes."""
    from ..checkpoint.published_form import write_published

    config = random_config(args.random, args.layers)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="llama-jp-")))
    with torch.device("meta"):
        size = 2 * sum(parameter.numel() for parameter in Llama(config).parameters())
    free = shutil.disk_usage(folder).free
    if free < size:  # first, because a full disk under a memory-mapped file kills the process
        raise ValueError(
            f"the random weights need {size / 1e9:.2f} GB, but {folder.parent} has {free / 1e9:.2f} GB free; "
            "make room, take fewer --layers, or name another folder in TMPDIR"
        )
    note(f"writing random float16 weights of shape {args.random} to {folder} …")
    write_published(folder, config)
    return folder


def run_benchmark(args: argparse.Namespace) -> dict[str, Any]:
    """Load the model, measure it, print the tables, and return everything for JSON."""
    from ..environment import peak_memory
    from ..speed.benchmark import Workload, measure, measure_machine, size_of_step

    begun = time.perf_counter()
    model = load_model(
        args.model,
        args.dtype,
        args.device,
        revision=args.revision,
        attention=args.attention,
        adapter=args.adapter,
        trust_parts=args.trust_parts,
    )
    load_seconds = time.perf_counter() - begun
    size = size_of_step(model)
    device = model.embed_tokens.weight.device
    first_token(model)
    first_token_seconds = time.perf_counter() - begun
    after_loading = peak_memory()

    dtype = model.embed_tokens.weight.dtype
    limits = measure_machine(dtype, device)
    name = args.model if args.random is None else f"random {args.random}, {len(model.layers)} layers"
    result: dict[str, Any] = {
        "model": name,
        "dtype": dtype_name(dtype),
        "device": str(device),
        "weights_read_per_step": size.nbytes,
        "load_seconds": load_seconds,
        "first_token_seconds": first_token_seconds,
        "peak_memory_after_loading": after_loading,
        "bandwidth": limits.bandwidth,
        "flops": limits.flops,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    print(
        f"{name}, {dtype_name(dtype)} on {device}, {torch.get_num_threads()} threads: loaded in {load_seconds:.2f} s, "
        f"first token after {first_token_seconds:.2f} s, peak memory {after_loading / 1e9:.2f} GB\n"
        f"the machine: {limits.bandwidth / 1e9:.1f} GB/s, {limits.flops / 1e12:.2f} TFLOP/s; "
        f"a step loads {size.nbytes / 1e9:.3f} GB of weights"
    )
    context = model.config.max_position_embeddings
    for tokens in (tokens for tokens in args.prompt if tokens > context):
        note(f"a prompt of {tokens} tokens is left out: the context has {context} tokens")
    workload = Workload(args.prompt, args.batch, args.steps, args.runs)
    rates = measure(model, workload, limits, size)
    result["as_loaded"] = asdict(rates)
    print_rates("as loaded", rates)
    if args.optimize:
        optimized = optimize_model(model, args.optimize, rows=args.batch[0])
        rates = measure(model, workload, limits, size)
        result["optimized"] = asdict(rates)
        result["optimization"] = optimized.as_dict()
        print_rates(f"optimised ({args.optimize})", rates)
        print(optimized)
    if args.compile:
        rates = measure(StaticLlama(model, on_compile=note), workload, limits, size)
        result["compiled"] = asdict(rates)
        print_rates("compiled", rates)
    result["peak_memory"] = peak_memory()
    return result


@torch.inference_mode()
def first_token(model: Llama) -> None:
    model(torch.ones(1, 1, dtype=torch.long, device=model.embed_tokens.weight.device), last_only=True)


def print_rates(title: str, rates: Rates) -> None:
    print(f"\n{title:24} {'tokens/s':>10} {'lowest':>9} {'highest':>9}   share of the limit")
    for tokens, rate in rates.prefill.items():
        print_rate(f"prompt of {tokens}", rate, f"{rate['share_of_peak']:5.0%} of the arithmetic")
    for batch, rate in rates.decode.items():
        print_rate(f"decoding, batch {batch}", rate, f"{rate['mbu']:5.0%} of the bandwidth")


def print_rate(name: str, rate: dict[str, float], share: str) -> None:
    print(f"{name:24} {rate['median']:10.1f} {rate['lowest']:9.1f} {rate['highest']:9.1f}   {share}")
