"""Measure the cost of a comparison, in units of the two forward passes that it compares.

    python benchmarks/parity_cost.py                                        # a small model, 128 tokens
    python benchmarks/parity_cost.py --random 7b --layers 1 --tokens 64     # ELYZA's layers
    python benchmarks/parity_cost.py --dtype bfloat16

There are three cases. "equal": the models are bit-identical. "differing": one has eager attention, so the last digits
differ from the first attention on, and the judge computes every later operation in float64. "wrong": one has a wrong
eps as well, and the judge searches for its cause. The unit is CPU time in seconds on one thread, which other processes
disturb least. The output is the median and range of several runs, and a JSON line.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llama_jp import Llama
from llama_jp.checkpoint.random_checkpoint import SHAPES, random_config, random_ids, write_random
from llama_jp.parity import Settings, compare, open_model

RUNS = 5
SMALL = {"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
SMALL |= {"intermediate_size": 1408, "num_hidden_layers": 6, "vocab_size": 8000}


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=SHAPES, help="random weights of this shape (default: a small one)")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()

    torch.set_num_threads(1)
    config = random_config(args.random or "tiny", args.layers)
    config = config if args.random else dataclasses.replace(config, **SMALL)
    ids = random_ids(config, 1, args.tokens)
    with tempfile.TemporaryDirectory() as folder:
        write_random(Path(folder), config, getattr(torch, args.dtype))
        reference = open_model("transformers", Settings(args.dtype, "sdpa"), Path(folder))
        for case, attention in (("equal", "sdpa"), ("differing", "eager"), ("wrong", "eager")):
            model = Llama.from_pretrained(folder, dtype=args.dtype, device="cpu", attention=attention)
            if case == "wrong":
                model.layers[-1].post_attention_layernorm.eps *= 1000
            forward, comparison = [], []
            for _ in range(RUNS + 1):  # in turns, so that other processes disturb both alike
                forward.append(seconds(lambda model=model: (model(ids), reference.run_whole(ids))))
                comparison.append(seconds(lambda model=model: compare(model, reference, ids)))
            forward, comparison = forward[1:], comparison[1:]  # the first is a warm-up
            ratio = statistics.median(comparison) / statistics.median(forward)
            spread = f"{min(comparison):.2f} to {max(comparison):.2f} s a comparison"
            print(f"{case:10} {ratio:5.2f} × the two forward passes; {spread}")
            print(json.dumps({"case": case, **vars(args), "ratio": ratio, "forward": forward, "compare": comparison}))


if __name__ == "__main__":
    main()
