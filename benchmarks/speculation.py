"""The speed-up of speculation: the same greedy answers, with and without draft tokens.

    python benchmarks/speculation.py --model demo
    python benchmarks/speculation.py --random 1024

Measures a short text, where nearly every phrase is new, and a long one, where a small model repeats itself and prompt
lookup should help. `--random C` uses random weights of width C instead. They repeat a token at once, so nearly every
draft token is accepted. This shows the largest possible speed-up when a step takes as long as loading the weights.
Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import platform
import time

import torch

import llama_jp
from llama_jp.checkpoint.config import dtype_name
from llama_jp.checkpoint.load import load_model

BEGINNING = "むかしむかし、あるところに"


def measure(model, prompt: list[int], tokens: int, **options) -> tuple[llama_jp.Generation, float]:
    """The answer, and the seconds of the fastest of three runs after a warm-up."""
    options |= {"eos_token_id": None, "do_sample": False}
    llama_jp.generate(model, [prompt], max_new_tokens=8, **options)
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        (answer,) = llama_jp.generate(model, [prompt], max_new_tokens=tokens, **options)
        times.append(time.perf_counter() - begun)
    return answer, min(times)


def random_model(width: int, dtype: str) -> llama_jp.Llama:
    torch.manual_seed(0)
    config = llama_jp.LlamaConfig(
        vocab_size=8000,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=8,
        num_attention_heads=width // 64,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,  # the most probable token is the last one
    )
    return llama_jp.Llama(config).eval().to(torch.float32 if dtype == "auto" else getattr(torch, dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--random", type=int, metavar="C", help="random weights of width C instead of a model")
    parser.add_argument("--assistant-model")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 400])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.random:
        model, prompt = random_model(args.random, args.dtype), [1, 2, 3, 4, 5]
    else:
        model, tokenizer = llama_jp.load(args.model, dtype=args.dtype)
        prompt = tokenizer.encode(BEGINNING)
    methods = {"plain": {}} | {f"prompt lookup, {n} tokens": {"prompt_lookup_num_tokens": n} for n in (3, 8)}
    if args.assistant_model:
        assistant = load_model(args.assistant_model, dtype=args.dtype)
        methods |= {
            f"draft model, {n} tokens": {"assistant_model": assistant, "num_assistant_tokens": n} for n in (2, 4)
        }

    rows = []
    for tokens in args.tokens:
        answers = {method: measure(model, prompt, tokens, **options) for method, options in methods.items()}
        for method, (answer, seconds) in answers.items():
            speed, gain = tokens / seconds, answers["plain"][1] / seconds
            same = answer.ids == answers["plain"][0].ids
            row = {"tokens": tokens, "method": method, "tokens_per_second": round(speed, 1), "gain": round(gain, 2)}
            rows.append(row | {"accepted": answer.accepted, "drafted": answer.drafted, "same_tokens": same})
            share = f"{answer.accepted} of {answer.drafted} draft tokens accepted" if answer.drafted else ""
            print(f"{tokens:5} tokens  {method:<24} {speed:7.1f} tokens/s  x {gain:4.2f}  {share}")
    weight = model.embed_tokens.weight
    about = {"model": args.model if not args.random else f"random, {args.random} wide", "threads": args.threads}
    about |= {"dtype": dtype_name(weight.dtype), "device": str(weight.device), "torch": torch.__version__}
    print(json.dumps(about | {"cpu": platform.processor() or platform.machine(), "rows": rows}, ensure_ascii=False))


if __name__ == "__main__":
    main()
