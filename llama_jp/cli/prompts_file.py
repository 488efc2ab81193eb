"""Answer every prompt of a JSONL file: `generate --prompts FILE.jsonl --out FILE.jsonl`.

A line of the input is a JSON string, or an object with the key "prompt". A line of the output is an object: the keys of
the input and those of `ANSWER_KEYS`. Each answer is written when it ends, so the same command goes on after an
interruption. The complete file has the order of the input.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..generation.interface import generate, stream_many
from ..generation.options import Options
from ..generation.results import Generation
from ..generation.task import as_prompts, resolve_max_new_tokens
from ..model import Llama
from ..text.tokenizer import Tokenizer
from ..text_files import check_file_target, parse_json, read_text_file, write_whole
from .arguments import positive_int
from .console import note, read_standard_input
from .generation_arguments import generation_options
from .models import model_name, open_model
from .output import answer_text, count

BATCH = 8
ANSWER_KEYS = ("line", "text", "finish_reason", "ids", "prompt_tokens", "model", "options")
SETTINGS = ("prompt_tokens", "model", "options")  # equal for all answers of a file, apart from the first
ONE_PROMPT = ("prompt", "json", "top_logprobs", "cache", "assistant_model", "prompt_lookup_num_tokens", "compile")

Encode = Callable[[str, Tokenizer, argparse.Namespace], list[int]]


def add_prompts_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "many prompts",
        "Answers are appended to the output as they end; the same command continues an unfinished one.",
    ).add_argument
    add(
        "--prompts",
        metavar="FILE.jsonl",
        help='answer every line of FILE: a JSON string, or an object with the key "prompt"; -: standard input',
    )
    add("--out", type=Path, metavar="FILE.jsonl", help="with --prompts: write one JSON object per prompt to FILE")
    add("--batch", type=positive_int, metavar="N", help=f"with --prompts: prompts at a time (default: {BATCH})")


@dataclass
class Item:
    """One prompt of the file."""

    line: int  # from 1
    content: dict[str, Any]  # the object of the input
    ids: list[int]
    new_tokens: int = 0  # the most that the answer can have

    @property
    def name(self) -> str:
        return f"line {self.line}"


def answer_prompts(args: argparse.Namespace, encode: Encode) -> int:
    """Answer the prompts without an answer, and return the exit status. `encode` makes the ids of a prompt."""
    items = check_arguments(args)
    answers = read_answers(args.out, items)
    if len(answers) == len(items):
        note(f"{args.out}: all {len(items)} prompts are answered already")
        return 0
    if args.seed is None:  # an earlier run may have chosen one
        args.seed = next((answer["options"].get("seed") for answer in answers.values()), None)
    model, tokenizer = open_model(args, rows=args.batch or BATCH)
    options = generation_options(args, model)
    resolved = Options.resolve(model, None, options)
    if resolved.copies > 1:
        raise ValueError("--prompts writes one answer per prompt; leave out --num-return-sequences")
    for item in items:
        try:
            item.ids = encode(item.content["prompt"], tokenizer, args)
            item.new_tokens = resolve_max_new_tokens(model, as_prompts([item.ids], model), resolved)
        except ValueError as error:
            raise ValueError(f"{args.prompts}, {item.name}: {error}") from error
    for item in items:
        if item.line in answers:
            check_settings(answers[item.line], settings(item, args, options), args.out)
    waiting = [item for item in items if item.line not in answers]
    begun, tokens = time.perf_counter(), 0
    with (
        args.out.open("a", encoding="utf-8") as file,
        tqdm(total=len(items), initial=len(answers), unit=" prompts", disable=None, leave=False) as bar,
    ):
        for item, answer in answers_of(model, tokenizer, waiting, args.batch or BATCH, resolved, options):
            text = answer_text(tokenizer, item.ids, answer, resolved.strings)
            shown = {"line": item.line, "text": text, "finish_reason": answer.finish_reason, "ids": answer.ids}
            answers[item.line] = item.content | shown | settings(item, args, options)
            file.write(json.dumps(answers[item.line], ensure_ascii=False) + "\n")
            file.flush()
            tokens += len(answer.ids)
            bar.update()
    write_whole(args.out, "".join(json.dumps(answers[item.line], ensure_ascii=False) + "\n" for item in items))
    seconds = time.perf_counter() - begun
    note(
        f"{args.out}: {count(len(items), 'answer')}, {len(waiting)} of them new, with {count(tokens, 'token')} "
        f"after {seconds:.2f} s ({tokens / seconds:.1f} tokens/s)"
    )
    return 0


def check_arguments(args: argparse.Namespace) -> list[Item]:
    """The prompts of the file. Wrong usage ends the command before the model is loaded."""
    if args.prompts is None or args.out is None:
        args.parser.error("--prompts FILE.jsonl and --out FILE.jsonl belong together, and --batch to both")
    for name in ONE_PROMPT:
        if getattr(args, name) not in (None, False):
            flag = "PROMPT" if name == "prompt" else "--" + name.replace("_", "-")
            args.parser.error(f"{flag} belongs to a single prompt; leave it out with --prompts")
    check_file_target(args.out, "answers.jsonl")
    if args.prompts != "-" and args.out.exists() and args.out.samefile(args.prompts):
        raise ValueError(f"--prompts and --out are the same file {args.out}; choose another --out")
    return read_prompts(args.prompts)


def read_prompts(name: str) -> list[Item]:
    """The prompts of a JSONL file. Raises ValueError with the number of a wrong line."""
    text = read_standard_input() if name == "-" else read_text_file(name)
    items = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):  # U+2028 is no line end in JSON
        if not line.strip():
            continue
        try:
            content = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{name}, line {number} is not JSON: {error}") from error
        if isinstance(content, str):
            content = {"prompt": content}
        if not isinstance(content, dict) or not isinstance(content.get("prompt"), str):
            raise ValueError(f'{name}, line {number} is no string and no object with a text in "prompt"')
        if taken := [key for key in ANSWER_KEYS if key in content]:
            raise ValueError(f'{name}, line {number} has the key "{taken[0]}", which belongs to the answer; rename it')
        items.append(Item(number, content, []))
    if not items:
        raise ValueError(f"{name} holds no prompts")
    return items


def read_answers(file: Path, items: list[Item]) -> dict[int, dict[str, Any]]:
    """The answers of an earlier run by line. An incomplete last line is removed from the file.

    Raises ValueError for a file that holds something else, or answers to other prompts.
    """
    if not file.exists():
        return {}
    prompts = {item.line: item.content for item in items}
    data, answers = file.read_bytes(), {}
    complete = data[: data.rfind(b"\n") + 1]
    for number, line in enumerate(complete.split(b"\n")[:-1], 1):
        try:
            answer = parse_json(line.decode("utf-8"))
            own = {key: value for key, value in answer.items() if key not in ANSWER_KEYS}
            belongs = set(ANSWER_KEYS) <= answer.keys() and prompts.get(answer["line"]) == own
        except (ValueError, AttributeError):
            belongs = False
        if not belongs:
            raise ValueError(f"{file}, line {number} is no answer to these prompts; choose another --out, or remove it")
        answers[answer["line"]] = answer
    if len(complete) < len(data):
        with file.open("r+b") as opened:
            opened.truncate(len(complete))
    return answers


def settings(item: Item, args: argparse.Namespace, options: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an answer that shows how it was made."""
    return {"prompt_tokens": len(item.ids), "model": model_name(args), "options": dict(sorted(options.items()))}


def check_settings(answer: Mapping[str, Any], now: Mapping[str, Any], file: Path) -> None:
    """Raise ValueError for an answer of an earlier run that was made with other settings."""
    now = json.loads(json.dumps(now))
    if different := [key for key in SETTINGS if answer[key] != now[key]]:
        key = different[0]
        raise ValueError(
            f"{file} has answers with other settings: {key} was {answer[key]} and is {now[key]}; "
            "repeat the earlier command, or choose another --out"
        )


def answers_of(
    model: Llama,
    tokenizer: Tokenizer,
    items: list[Item],
    batch: int,
    resolved: Options,
    options: Mapping[str, Any],
) -> Iterator[tuple[Item, Generation]]:
    """The prompts and their answers, as they end. The longest prompts start first: a full memory shows at once.

    Each prompt has its own random numbers, so only rounding depends on the others. Beam search has one at a time.
    """
    items = sorted(items, key=lambda item: (-len(item.ids), item.line))
    named: dict[str, Any] = dict(options)
    if resolved.beams > 1:
        named.pop("max_length", None)
        for item in items:
            named["max_new_tokens"] = item.new_tokens
            (answer,) = generate(model, [item.ids], tokenizer=tokenizer, **named)
            yield item, answer
        return
    if resolved.do_sample:
        named["seed"] = [options["seed"] + item.line for item in items]
    prompts, limits = [item.ids for item in items], [item.new_tokens for item in items]
    stream = stream_many(model, prompts, batch=batch, tokenizer=tokenizer, limits=limits, **named)
    rows = min(batch, len(items))
    note(f"{count(rows, 'prompt')} at a time; KV cache: up to {stream.cache_bytes / 1e6:,.1f} MB")
    for number, answer in stream:
        yield items[number], answer
