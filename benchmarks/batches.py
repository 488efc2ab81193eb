"""The time of a batch whose prompts have different lengths.

    python benchmarks/batches.py                         # the demo model
    python benchmarks/batches.py FOLDER --dtype bfloat16

Measures the seconds to the first token of every prompt in three ways: each prompt by itself; in one batch, padded to
the longest prompt as in transformers, which keeps its bits; and in one batch with exact=False. The three run in turn.
Prints medians with the spread, and a JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable

import torch

from llama_jp import Llama, generate
from llama_jp.checkpoint.random_checkpoint import random_ids
from llama_jp.speed.benchmark import Seconds, seconds

LENGTHS = (512, 16, 128, 24, 480, 32, 96, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo", help="a folder or a short name (default: demo)")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()

    model = Llama.from_pretrained(args.model, dtype=args.dtype, device="cpu")
    prompts = [random_ids(model.config, 1, length)[0].tolist() for length in LENGTHS]

    def first_tokens(batch: list[list[int]], **options) -> None:
        generate(model, batch, max_new_tokens=1, do_sample=False, eos_token_id=[], **options)

    methods: dict[str, Callable[[], object]] = {
        "each by itself": lambda: [first_tokens([prompt]) for prompt in prompts],
        "one batch, padded": lambda: first_tokens(prompts),
        "one batch, exact=False": lambda: first_tokens(prompts, exact=False),
    }
    durations: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(args.runs):
        for name, run in methods.items():
            durations[name] += seconds(run, 1, torch.device("cpu")).runs
    print(f"prompts of {', '.join(map(str, LENGTHS))} tokens: {sum(LENGTHS)}, padded {max(LENGTHS) * len(LENGTHS)}")
    result = {}
    for name, runs in durations.items():
        result[name] = Seconds(runs).rate(sum(LENGTHS))
        print(f"{name:24} {statistics.median(runs):8.3f} s [{min(runs):.3f}..{max(runs):.3f}]")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
