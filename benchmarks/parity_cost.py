"""The time of a comparison, relative to the two forward passes that it compares.

    python benchmarks/parity_cost.py                                        # a small model, 128 tokens
    python benchmarks/parity_cost.py --random 7b --layers 1 --tokens 64     # ELYZA's layers
    python benchmarks/parity_cost.py --dtype bfloat16

Measures three pairs of models. "equal": the models are equal. "differing": fused and eager attention give other last
digits, so each later operation is judged in float64. "wrong": eps is wrong as well, so the comparison searches for the
cause. Runs on one thread and measures CPU time, which other processes disturb least. Prints the medians and the spread
of several runs, and a JSON line for each pair.
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
from llama_jp.parity import Settings, compare, open_subject

RUNS = 5
SMALL = {"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
SMALL |= {"intermediate_size": 1408, "num_hidden_layers": 6, "vocab_size": 8000}


def seconds(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--random", choices=SHAPES, help="shape of the random weights (default: a small model)")
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
        theirs = open_subject("transformers", Settings(args.dtype, "sdpa"), Path(folder))
        for pair, attention in (("equal", "sdpa"), ("differing", "eager"), ("wrong", "eager")):
            ours = Llama.from_pretrained(folder, dtype=args.dtype, device="cpu", attention=attention)
            if pair == "wrong":
                ours.layers[-1].post_attention_layernorm.eps *= 1000
            forward, both = [], []
            for _ in range(RUNS + 1):  # in turn, so that a slow moment of the machine affects both
                forward.append(seconds(lambda ours=ours: (ours(ids), theirs.whole(ids))))
                both.append(seconds(lambda ours=ours: compare(ours, theirs, ids)))
            forward, both = forward[1:], both[1:]  # the first is a warm-up
            ratio = statistics.median(both) / statistics.median(forward)
            print(f"{pair:10} {ratio:5.2f} × the two passes; {min(both):.2f} to {max(both):.2f} s per comparison")
            print(json.dumps({"pair": pair, **vars(args), "ratio": ratio, "forward": forward, "compare": both}))


if __name__ == "__main__":
    main()
