"""Time and memory from the start of a process to the first token: llama_jp and transformers.

    python benchmarks/loading.py [--layers 4] [--runs 5] [--model FOLDER]

Random weights of ELYZA's shapes in bfloat16 (four layers: 2.1 GB) are written to a temporary folder. Each run is a
process of its own, and the two implementations run in turn: first with the files in the page cache, then without.
Prints medians with their spread, and one JSON line last. Memory is the peak of the process. It includes pages of
memory-mapped files, so a whole copy of the weights would show.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMPLEMENTATIONS = ("llama_jp", "transformers")
PROMPT = list(range(1, 33))


def first_token(implementation: str, folder: str) -> dict:
    """Run from the imports to the first token in this process. Returns moments of the system's clock, and memory."""
    moments = {"begun": time.monotonic()}
    if implementation == "llama_jp":
        from llama_jp import Llama, generate

        moments["imported"] = time.monotonic()
        before = memory()
        model = Llama.from_pretrained(folder, dtype="bfloat16", device="cpu")
        moments["loaded"] = time.monotonic()
        (answer,) = generate(model, [PROMPT], max_new_tokens=1, do_sample=False)
        token = answer.ids[0]
    else:
        import torch
        from transformers import LlamaForCausalLM

        moments["imported"] = time.monotonic()
        before = memory()
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        moments["loaded"] = time.monotonic()
        token = model.generate(torch.tensor([PROMPT]), max_new_tokens=1, do_sample=False)[0, -1].item()
    moments["first token"] = time.monotonic()
    return {"moments": moments, "token": token, "before": before, "after": memory()}


def memory() -> dict[str, int]:
    """Resident bytes: now, at the peak, and now in pages of files and outside of files."""
    names = {"VmRSS": "resident", "VmHWM": "peak", "RssFile": "of files", "RssAnon": "anonymous"}
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {names[word[0][:-1]]: int(word[1]) * 1024 for word in lines if word[0][:-1] in names}


def run_once(implementation: str, folder: Path) -> dict:
    """Run one process. Seconds count from its start."""
    started = time.monotonic()
    command = [sys.executable, __file__, "--implementation", implementation, "--model", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{implementation} failed: {done.stderr.strip().splitlines()[-1]}")
    result = json.loads(done.stdout.splitlines()[-1])
    at = result["moments"]
    return {
        "token": result["token"],
        "from process start": at["first token"] - started,
        "imports": at["imported"] - started,
        "loading": at["loaded"] - at["imported"],
        "first pass": at["first token"] - at["loaded"],
        "after imports": at["first token"] - at["imported"],
        "peak": result["after"]["peak"] - result["before"]["resident"],
        "anonymous": result["after"]["anonymous"] - result["before"]["anonymous"],
    }


def drop_from_cache(folder: Path) -> None:
    """Drop the files from the page cache, so that the next process loads them from the disk."""
    for file in folder.glob("*.safetensors"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def measure(folder: Path, runs: int) -> dict[str, dict[str, list[dict]]]:
    results: dict[str, dict[str, list[dict]]] = {
        cache: {name: [] for name in IMPLEMENTATIONS} for cache in ("warm", "cold")
    }
    for cache, runs_of in results.items():
        for i in range(-1 if cache == "warm" else 0, runs):
            for name in IMPLEMENTATIONS:
                if cache == "cold":
                    drop_from_cache(folder)
                result = run_once(name, folder)
                if i >= 0:  # the first warm run fills the page cache
                    runs_of[name].append(result)
    return results


def report(results: dict, weights: int) -> dict:
    """Print the table; return both medians and their ratio, by cache and quantity."""
    summary = {}
    for cache, runs_of in results.items():
        print(f"\n{cache} page cache{'':13}{IMPLEMENTATIONS[0]:>22}{IMPLEMENTATIONS[1]:>24}     ratio")
        for quantity in (
            "from process start",
            "imports",
            "loading",
            "first pass",
            "after imports",
            "peak",
            "anonymous",
        ):
            unit, scale = ("GB", 1e9) if quantity in ("peak", "anonymous") else ("s ", 1)
            columns = [[run[quantity] / scale for run in runs_of[name]] for name in IMPLEMENTATIONS]
            middle = [statistics.median(column) for column in columns]
            cells = [f"{m:7.3f} {unit} [{min(c):.2f}..{max(c):.2f}]" for m, c in zip(middle, columns, strict=True)]
            print(f"  {quantity:20} {cells[0]:>24} {cells[1]:>24} {middle[0] / middle[1]:8.2f}")
            summary[f"{cache}, {quantity}"] = [round(m, 4) for m in (*middle, middle[0] / middle[1])]
        peaks = [statistics.median(run["peak"] for run in runs_of[name]) / weights for name in IMPLEMENTATIONS]
        print(f"  {'peak / weights':20} {peaks[0]:>24.3f} {peaks[1]:>24.3f}")
        summary[f"{cache}, peak / weights"] = [round(peak, 4) for peak in peaks]
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", type=Path, help="a folder with a checkpoint (default: random weights)")
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, help=argparse.SUPPRESS)  # of this process
    args = parser.parse_args()
    if args.implementation:
        print(json.dumps(first_token(args.implementation, str(args.model))))
        return

    from llama_jp.checkpoint.random_checkpoint import random_config, write_random
    from llama_jp.environment import describe_environment

    with tempfile.TemporaryDirectory() as temporary:
        folder = args.model
        if folder is None:
            import torch

            folder = write_random(Path(temporary) / "random", random_config("7b", args.layers), torch.bfloat16)
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        results = measure(folder, args.runs)
    tokens = {run["token"] for runs_of in results.values() for runs in runs_of.values() for run in runs}
    print(f"{weights / 1e9:.2f} GB of weights; the first tokens are {'equal' if len(tokens) == 1 else 'NOT equal'}")
    print(json.dumps({"weights": weights, "median": report(results, weights), "environment": describe_environment()}))


if __name__ == "__main__":
    main()
