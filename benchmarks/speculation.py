"""The speed-up of speculation: the same greedy answers, with and without draft tokens.

    python benchmarks/speculation.py --model demo
    python benchmarks/speculation.py --random 1024
    python benchmarks/speculation.py --count --model demo --dtype bfloat16
    python benchmarks/speculation.py --count --model SmolLM2-135M-Instruct.Q4_1.gguf --dtype bfloat16

Measures a short text, where nearly every phrase is new, and a long one, where a small model repeats itself and prompt
lookup should help. `--random C` uses random weights of width C instead. They repeat a token at once, so nearly every
draft token is accepted. This shows the largest possible speed-up when a step takes as long as loading the weights.

`--count` measures no time. It counts accepted draft tokens and calls of the model in the answers to several prompts,
greedy and at temperature 0.7, so a busy machine gives the same numbers. The speed-up in the last column is computed
from the counts and the cost of a draft token that the schedule uses.
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
from llama_jp.generation.speculation import DraftModel, PromptLookup
from llama_jp.speed import self_draft

BEGINNING = "むかしむかし、あるところに"
QUESTIONS = [
    "What is the capital of Japan, and what is it known for?",
    "Explain why the sky is blue.",
    "Write a short story about a cat who finds a key.",
    "List five ways to save energy at home.",
    "How does a bicycle stay upright?",
    "Write a Python function that reverses a list.",
    "Summarise the story of Romeo and Juliet.",
    "What is the difference between a virus and a bacterium?",
    "Give me a recipe for pancakes.",
    "Who was Isaac Newton?",
]
BEGINNINGS = [  # of stories, for demo
    BEGINNING,
    "ある日、小さな猫が",
    "森の奥に、古い家が",
    "女の子は公園で",
    "雨の日に、男の子は",
    "お母さんは台所で",
    "海の近くの村に、",
    "犬のポチは、",
]
TEMPERATURE = 0.7
DRAFTS = ["lookup", "self:int8", "self:int4"]


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


def prompts_for(name: str, tokenizer) -> list[list[int]]:
    """Beginnings of stories for demo, questions for another model."""
    if name == "demo":
        return [tokenizer.encode(text) for text in BEGINNINGS]
    if tokenizer.chat_template is None:
        return [tokenizer.encode(text) for text in QUESTIONS]
    return [tokenizer.chat([{"role": "user", "content": text}]) for text in QUESTIONS]


def count(model, prompts: list[list[int]], tokens: int, cost: float, **options) -> dict[str, float]:
    """Sums over the answers to all prompts. `cost` is that of a draft token, in calls of the model."""
    answers = []
    for i, prompt in enumerate(prompts):
        seed = {"seed": i} if options["do_sample"] else {}
        answers += llama_jp.generate(model, [prompt], max_new_tokens=tokens, **seed, **options)
    new, passes = sum(len(answer.ids) for answer in answers), sum(answer.passes for answer in answers)
    drafted, accepted = sum(answer.drafted for answer in answers), sum(answer.accepted for answer in answers)
    gain = new / (passes + cost * drafted)
    return {"tokens": new, "passes": passes, "drafted": drafted, "accepted": accepted, "gain": round(gain, 2)}


def count_all(args: argparse.Namespace) -> None:
    """The table of --count."""
    model, tokenizer = llama_jp.load(args.model, dtype=args.dtype, device="cpu")
    prompts, rows = prompts_for(args.model, tokenizer), []
    sources = {}
    for draft in args.draft:
        if draft == "lookup":
            sources[draft] = ({}, PromptLookup.cost, "prompt_lookup_num_tokens")
        else:
            copy = {"assistant_model": self_draft(model, int(draft.removeprefix("self:int")))}
            sources[draft] = (copy, DraftModel.SELF_COST, "num_assistant_tokens")
    print(f"{len(prompts)} prompts, at most {args.tokens[0]} tokens each")
    for sampling in ({"do_sample": False}, {"do_sample": True, "temperature": TEMPERATURE}):
        for source, (options, cost, name) in sources.items():
            for most in args.lengths:
                counts = count(model, prompts, args.tokens[0], cost, **options, **{name: most}, **sampling)
                row = {"draft": source, "most": most, "temperature": sampling.get("temperature", 0)} | counts
                rows.append(row)
                share = f"{counts['accepted']} of {counts['drafted']} accepted"
                print(
                    f"{source:9} T {row['temperature']:<3}  at most {most}: "
                    f"{counts['tokens'] / counts['passes']:.2f} tokens a call, {share}, x {counts['gain']:.2f}",
                    flush=True,
                )
    about = {"model": args.model, "dtype": dtype_name(model.embed_tokens.weight.dtype), "torch": torch.__version__}
    print(json.dumps(about | {"cpu": platform.processor() or platform.machine(), "rows": rows}, ensure_ascii=False))


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
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 400], help="with --count, the first counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--count", action="store_true", help="count accepted draft tokens instead of measuring time")
    parser.add_argument("--draft", nargs="+", default=DRAFTS, choices=DRAFTS, help="with --count (default: all)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 3, 5, 8], help="with --count: most draft tokens")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.count:
        count_all(args)
        return
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
