"""What does a comparison cost, measured in the two forward passes that it compares?

    python benchmarks/parity_cost.py

Once for sides that are equal, once for sides whose last digits differ (fused against written-out attention), where each
operation that differs is computed again in float64. Prints medians and the spread of several runs, and a JSON line.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from llama_jp import Llama
from llama_jp.parity import Settings, compare, open_subject
from llama_jp.parity.shapes import random_config, random_ids, write_random

RUNS = 5


def seconds(run: Callable[[], object]) -> list[float]:
    run()  # warm-up
    times = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return times


@torch.no_grad()
def main() -> None:
    shape = {"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
    shape |= {"intermediate_size": 1408, "num_hidden_layers": 6, "vocab_size": 8000}
    config = dataclasses.replace(random_config("tiny"), **shape)
    ids = random_ids(config, 1, 128)
    with tempfile.TemporaryDirectory() as folder:
        write_random(Path(folder), config, torch.float32)
        theirs = open_subject("transformers", Settings("float32", "sdpa"), Path(folder))
        for what, attention in (("equal", "sdpa"), ("differing", "eager")):
            ours = Llama.from_pretrained(folder, dtype="float32", device="cpu", attention=attention)
            forward = seconds(lambda ours=ours: (ours(ids), theirs.whole(ids)))
            both = seconds(lambda ours=ours: compare(ours, theirs, ids))
            ratio = statistics.median(both) / statistics.median(forward)
            print(f"{what:10} {ratio:5.1f} × the two passes; {min(both):.2f} to {max(both):.2f} s a comparison")
            print(json.dumps({"sides": what, "ratio": ratio, "forward": forward, "compare": both}))


if __name__ == "__main__":
    main()
