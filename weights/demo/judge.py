"""Generate stories for held-out requests, and count the stories that meet each requirement.

    python weights/demo/judge.py --count 100 --show 3

A story is right if it has both animals, the place, and the ending near its end, and if it ends with EOS and repeats no
sentence. The count does not measure style; --show prints stories for a human reader.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import corpus

import llama_jp
from llama_jp import Llama, Tokenizer, instruct_prompt

HERE = Path(__file__).resolve().parent


def verdict(plan: corpus.Plan, story: str, finish_reason: str) -> dict[str, bool]:
    """Whether a story meets each requirement: those of its plan, an end by itself, and no repeated sentence."""
    sentences = [sentence for sentence in re.split(r"(?<=。)|\n", story) if len(sentence) > 10]
    checks = {"ends by itself": finish_reason == "eos", "no loop": len(set(sentences)) == len(sentences)}
    return corpus.keeps_promise(plan, story) | checks


def ask_and_judge(model: Llama, tokenizer: Tokenizer, count: int, seed: int | str = 0, batch: int = 20):
    """For each of `count` held-out requests: (plan, request, story, verdict). Generation runs in batches."""
    requests = list(islice(corpus.requests(seed, "held-out"), count))
    for start in range(0, count, batch):
        part = requests[start : start + batch]
        prompts = [instruct_prompt(tokenizer, request) for _, request in part]
        answers = llama_jp.generate(model, prompts, max_new_tokens=400)
        for (plan, request), answer in zip(part, answers, strict=True):
            story = tokenizer.decode(answer.ids)
            yield plan, request, story, verdict(plan, story, answer.finish_reason)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--show", type=int, default=0, help="print this many stories, and every one that failed")
    options = parser.parse_args()
    model, tokenizer = llama_jp.load(options.folder, dtype=options.dtype)
    passed = Counter()
    for i, (_, request, story, checks) in enumerate(ask_and_judge(model, tokenizer, options.count, options.seed)):
        passed.update(name for name, good in checks.items() if good)
        passed["everything"] += all(checks.values())
        if i < options.show or not all(checks.values()):
            print(f"▷ {request}\n{story}\n{[name for name, good in checks.items() if not good] or 'all right'}\n")
    for name in (*checks, "everything"):
        print(f"{name:16} {passed[name]:4} of {options.count}")
