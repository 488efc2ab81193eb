"""Many prompts with answers of many lengths: in-flight batching beside padded batches.

    python benchmarks/many.py                                   # the demo model
    python benchmarks/many.py FOLDER --optimize close
    python benchmarks/many.py --prompts 16 --only in-flight padded

Random prompts of 16 to 512 tokens, and answers of 8 to 200 tokens, the same for all contenders. None of them knows the
length of an answer before it ends: in flight a criterion ends it, and a padded batch runs until its longest answer
ends. The prompts are sorted by length, so that padding costs little. Each contender runs in its own process, in turn.
Prints the tokens of answers per second, and a JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time

import torch

from llama_jp import Llama, generate, generate_many, optimize
from llama_jp.checkpoint.hub import find_checkpoint

LONGEST_ANSWER = 200  # tokens
KEY = 16  # tokens that tell one prompt from the others
CONTENDERS = ("in-flight", "padded", "transformers")


def make_work(V: int, number: int, context: int) -> list[tuple[list[int], int]]:
    """Prompts and the lengths of their answers, the longest prompt first."""
    rng = random.Random(0)
    longest = min(512, context - LONGEST_ANSWER)
    work = [
        ([rng.randrange(300, V) for _ in range(rng.randint(KEY, longest))], rng.randint(8, LONGEST_ANSWER))
        for _ in range(number)
    ]
    return sorted(work, key=lambda pair: -len(pair[0]))


def batches(work: list[tuple[list[int], int]], size: int) -> list[tuple[list[list[int]], int]]:
    """Prompts of a padded batch, and the steps that it takes."""
    parts = [work[begin : begin + size] for begin in range(0, len(work), size)]
    return [([prompt for prompt, _ in part], max(limit for _, limit in part)) for part in parts]


def measure(name: str, args: argparse.Namespace) -> float:
    """Tokens of answers per second, of the work as a whole. The model is loaded and optimised before."""
    if name == "transformers":
        return measure_transformers(args)
    model = Llama.from_pretrained(args.model, dtype=args.dtype, device="cpu")
    work = make_work(model.config.vocab_size, args.prompts, model.config.context_length)
    if args.optimize:
        optimize(model, args.optimize, rows=args.batch)
    options = {"do_sample": False, "eos_token_id": [], "exact": False}
    prompts, limits = map(list, zip(*work, strict=True))
    generate_many(model, prompts[:2], batch=2, max_new_tokens=2, **options)  # a warm-up
    begun = time.perf_counter()
    if name == "in-flight":
        ends = {tuple(prompt[:KEY]): len(prompt) + limit for prompt, limit in work}

        def has_ended(ids: torch.Tensor, scores: torch.Tensor) -> bool:
            return ids.shape[1] >= ends[tuple(ids[0, :KEY].tolist())]

        answers = generate_many(
            model, prompts, batch=args.batch, max_new_tokens=LONGEST_ANSWER, stopping_criteria=has_ended, **options
        )
        assert [len(answer.ids) for answer in answers] == limits
    else:
        for batch, steps in batches(work, args.batch):
            generate(model, batch, max_new_tokens=steps, **options)
    return sum(limits) / (time.perf_counter() - begun)


def measure_transformers(args: argparse.Namespace) -> float:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, dtype = find_checkpoint(args.model), getattr(torch, args.dtype)
    model = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    work = make_work(model.config.vocab_size, args.prompts, model.config.max_position_embeddings)
    options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}

    def answer(batch: list[list[int]], steps: int) -> None:
        N = max(map(len, batch))
        ids = torch.tensor([[0] * (N - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (N - len(prompt)) + [1] * len(prompt) for prompt in batch])
        model.generate(ids, attention_mask=mask, max_new_tokens=steps, min_new_tokens=steps, **options)

    answer([work[0][0], work[1][0]], 2)  # a warm-up
    begun = time.perf_counter()
    for batch, steps in batches(work, args.batch):
        answer(batch, steps)
    return sum(limit for _, limit in work) / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="demo", help="a folder or a short name (default: demo)")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--optimize", help="a level of llama_jp.optimize (default: as loaded)")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--work", choices=CONTENDERS, help=argparse.SUPPRESS)  # the contender of this process
    args = parser.parse_args()
    if args.work:
        print(measure(args.work, args))
        return
    found: dict[str, list[float]] = {name: [] for name in args.only}
    for round_ in range(args.rounds):
        for name in args.only if round_ % 2 == 0 else reversed(args.only):
            command = [sys.executable, __file__, *sys.argv[1:], "--work", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name].append(float(done.stdout.splitlines()[-1]))
            print(f"round {round_ + 1}, {name}: {found[name][-1]:.1f} tokens/s", file=sys.stderr, flush=True)
    for name, rates in found.items():
        print(f"{name:16} {statistics.median(rates):8.1f} tokens/s [{min(rates):.1f}..{max(rates):.1f}]")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
