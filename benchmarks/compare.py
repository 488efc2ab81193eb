"""Compare this project with other implementations, on the same weights and the same machine.

    python benchmarks/compare.py                               # 4 layers of ELYZA's width, bfloat16
    python benchmarks/compare.py --shape tiny --dtype float32  # 15 million parameters: time to start operations
    python benchmarks/compare.py --layers 32 --only llama_jp transformers "llama.cpp BF16"
    python benchmarks/compare.py --context 64 512 2048         # decoding after texts of these lengths
    python benchmarks/compare.py --ids 64                      # compare greedy ids with transformers'

Random weights are written once, to --folder or to a temporary folder, and converted to the format of each contender.
Each contender runs in its own process. All of them run in turn in several rounds, so that a slow quarter of an hour
affects all. Prints a table of medians with their spread, and one JSON line last. Rates are tokens per second over the
whole batch. The text of the random weights repeats itself, so nearly every draft token of prompt lookup and of
self-drafts is accepted: their rates are upper bounds. The machine's limits are measured before every round, and the
highest values count. A contender that is not installed is left out:

    pip install llama-cpp-python gguf ctranslate2 tiktoken sentencepiece
    git clone https://github.com/pytorch-labs/gpt-fast; export GPT_FAST=$PWD/gpt-fast
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peers import Answer, contenders, missing_packages, prompt_ids

from llama_jp import LlamaConfig
from llama_jp.checkpoint.random_checkpoint import random_config, write_random
from llama_jp.environment import describe_environment
from llama_jp.speed.benchmark import measure_machine

CONTEXT = 32  # tokens before decoding

TINY = LlamaConfig(
    vocab_size=32000,
    hidden_size=288,
    intermediate_size=768,
    num_hidden_layers=6,
    num_attention_heads=6,
    rms_norm_eps=1e-6,
)


def make_weights(folder: Path, shape: str, layers: int, dtype: torch.dtype) -> Path:
    """Random weights whose text soon repeats itself: the head equals the embedding, and the layers add little."""
    if (folder / "config.json").is_file():
        return folder
    from safetensors.torch import load_file, save_file

    write_random(folder, TINY if shape == "tiny" else random_config(shape, layers), dtype)
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                tensor.mul_(0.02)
        if "lm_head.weight" in tensors and "model.embed_tokens.weight" in tensors:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def measure_contender(name: str, folder: Path, args: argparse.Namespace) -> dict:
    """Tokens per second of one contender, in this process."""
    # not in inference mode: there the weights would be inference tensors, which users do not have
    contender = contenders(args.dtype)[name](folder)
    result = {}
    with torch.inference_mode():
        for tokens in args.prompt:
            contender.prefill(tokens)  # a warm-up
            result[f"prompt {tokens}"] = tokens / statistics.median(contender.prefill(tokens) for _ in range(3))
        for batch in args.batch:
            for context in args.context if batch <= contender.max_batch else ():
                column = f"decode {batch}" if context == CONTEXT else f"decode {batch} at {context}"
                result[column] = batch / contender.step(batch, args.steps, context)  # includes a warm-up
        if args.ids and contender.ids is not None:
            result["ids"] = contender.ids(prompt_ids(1, CONTEXT)[0], args.ids)
    return result


def run_in_process(name: str, folder: Path, args: argparse.Namespace) -> dict | str:
    command = [sys.executable, __file__, "--work", name, "--folder", str(folder), "--dtype", args.dtype]
    command += ["--prompt", *map(str, args.prompt), "--batch", *map(str, args.batch), "--steps", str(args.steps)]
    command += ["--context", *map(str, args.context), "--ids", str(args.ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"failed ({done.returncode}): {lines[-1] if lines else 'no message'}"
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="7b", help="7b, 7b-fast, 13b or tiny (default: 7b)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--prompt", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument(
        "--context", type=int, nargs="*", default=[CONTEXT], help=f"tokens before decoding (default: {CONTEXT})"
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ids", type=int, default=0, metavar="N", help="compare N greedy ids with transformers'")
    parser.add_argument("--only", nargs="*", help="contenders by name")
    parser.add_argument("--folder", type=Path, help="for weights in all formats, kept for the next comparison")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # the contender of this process
    args = parser.parse_args()
    if args.work:
        print(json.dumps(measure_contender(args.work, args.folder, args)))
        return

    names = list(contenders(args.dtype))
    if unknown := set(args.only or ()) - set(names):
        raise SystemExit(f"unknown contenders: {', '.join(unknown)}; known are {', '.join(names)}")
    names = [name for name in names if args.only is None or name in args.only]
    absent = {name: missing for name in names if (missing := missing_packages(name))}
    for name, missing in absent.items():
        print(f"{name} is left out: {' and '.join(missing)} not installed", file=sys.stderr)
    names = [name for name in names if name not in absent]

    dtype = getattr(torch, args.dtype)
    with tempfile.TemporaryDirectory() as temporary:
        base = make_weights((args.folder or Path(temporary)) / "weights", args.shape, args.layers, dtype)
        limits: dict[str, float] = {}
        found: dict[str, list[dict]] = {name: [] for name in names}
        answers: dict[str, Answer] = {}
        for round_ in range(args.rounds):
            for limit, measured in measure_machine(dtype, torch.device("cpu"))._asdict().items():
                limits[limit] = max(limits.get(limit, 0.0), measured)
            for name in names if round_ % 2 == 0 else reversed(names):
                result = run_in_process(name, base, args)
                print(f"round {round_ + 1}, {name}: {result}", file=sys.stderr, flush=True)
                if not isinstance(result, str):
                    if "ids" in result:
                        answers[name] = Answer(*result.pop("ids"))
                    found[name].append(result)
    summary = report(found, limits)
    for name, answer in answers.items():
        print(f"{name:32}{compare_ids(answer, answers.get('transformers'))}")
    settings = {key: getattr(args, key) for key in ("shape", "layers", "dtype", "steps", "rounds")}
    print(json.dumps({"settings": settings, "limits": limits, "rates": summary, "environment": describe_environment()}))


def compare_ids(answer: Answer, expected: Answer | None) -> str:
    """Whether an answer has transformers' ids. In an answer of ours that differs, how near the tie was."""
    if expected is None:
        return "no ids of transformers to compare with"
    pairs = zip(answer.ids, expected.ids, strict=True)
    different = next((i for i, (own, their) in enumerate(pairs) if own != their), None)
    if different is None:
        return f"the {len(answer.ids)} ids of transformers"
    tie = f"; the two best logits were {answer.margins[different]:.4f} apart" if answer.margins else ""
    return f"other ids than transformers from id {different + 1} of {len(answer.ids)} on{tie}"


def report(found: dict[str, list[dict]], limits: dict[str, float]) -> dict:
    """Print the table; return [median, lowest, highest] by contender and column."""
    columns = list(next((runs[0] for runs in found.values() if runs), {}))
    print(f"the machine: {limits['bandwidth'] / 1e9:.1f} GB/s, {limits['flops'] / 1e12:.2f} TFLOP/s")
    print("tokens/s, median [lowest..highest]")
    print(f"{'':32}" + "".join(f"{column:>28}" for column in columns))
    summary: dict[str, dict[str, list[float]]] = {}
    for name, runs in found.items():
        cells = []
        for column in columns:
            rates = [run[column] for run in runs if column in run]
            if rates:
                middle = statistics.median(rates)
                summary.setdefault(name, {})[column] = [middle, min(rates), max(rates)]
                cells.append(f"{middle:.1f} [{min(rates):.1f}..{max(rates):.1f}]")
            else:
                cells.append("")
        print(f"{name:32}" + "".join(f"{cell:>28}" for cell in cells))
    return summary


if __name__ == "__main__":
    main()
