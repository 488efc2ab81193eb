"""llama-jp generate: one prompt, one answer, streamed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from ..cache import Cache
from ..generation.interface import generate, stream_text
from ..generation.results import Generation
from ..generation.stop_strings import StopStringBuffer
from ..model import Llama
from ..rope import context_length
from ..text.template import DEFAULT_SYSTEM_PROMPT, instruct_prompt, is_instruction_tuned
from ..text.tokenizer import Tokenizer
from .common import (
    add_generation_arguments,
    add_model_arguments,
    common_prefix,
    generation_options,
    open_assistant,
    open_model,
    speed_report,
    write_pieces,
)

HELP = "answer an instruction, or continue a text, and show the text while it is made"
EXAMPLE = (
    "llama-jp generate "
    '"クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="the instruction or text; without it, standard input"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--raw", action="store_true", help="continue the prompt as it stands, without ELYZA's instruction template"
    )
    form.add_argument(
        "--instruct",
        action="store_true",
        help="use the template (default: for models with 'instruct' in the name, and demo)",
    )
    parser.add_argument(
        "--system", metavar="TEXT", help=f"system prompt of the template (default: {DEFAULT_SYSTEM_PROMPT})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of streaming")
    parser.add_argument("--top-logprobs", type=int, metavar="N", help="with --json: the N likeliest at each place")
    parser.add_argument(
        "--cache", type=Path, metavar="FILE", help="keep what was read here, and do not read its beginning again"
    )
    add_generation_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prompt = read_prompt(args.prompt)
    if args.top_logprobs is not None and not args.json:
        raise ValueError("--top-logprobs are shown with --json only")
    if args.cache and not args.cache.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {args.cache.absolute().parent} to keep {args.cache.name} in")
    model, tokenizer = open_model(args)
    if args.raw or not (args.instruct or is_instruction_tuned(model.folder)):
        if args.system is not None:
            raise ValueError("--system is part of the instruction template: add --instruct, or leave out --raw")
        ids = tokenizer.encode(prompt)
    else:
        ids = instruct_prompt(tokenizer, prompt, DEFAULT_SYSTEM_PROMPT if args.system is None else args.system)
    options = generation_options(args, model)
    if options.get("num_beams", 1) > 1 or options.get("num_return_sequences", 1) > 1:
        return several_answers(model, tokenizer, ids, options, args)
    cache, cached = open_cache(args.cache, model, ids) if args.cache else (None, [])
    stream = stream_text(model, tokenizer, ids, cache=cache, assistant_model=open_assistant(args), **options)
    if not args.json:
        write_pieces(stream)
    else:
        text = "".join(stream)
        print(
            json.dumps(as_dict(stream.generation, text) | {"prompt_ids": ids, "options": options}, ensure_ascii=False)
        )
    print(speed_report(stream, len(ids), options, known=len(cached)), file=sys.stderr)
    if args.cache:
        cache.save(args.cache, ids + stream.generation.ids)
        print(f"{args.cache}: {len(cached)} tokens of the prompt were known, {cache.length} are now", file=sys.stderr)
    return 0


def several_answers(model: Llama, tokenizer: Tokenizer, ids: list[int], options: dict, args: argparse.Namespace) -> int:
    """Beams, and more than one answer: nothing to stream, so they are shown when all of them are there."""
    if args.cache or args.assistant_model:
        raise ValueError("--cache and --assistant-model go with one answer without beams")
    begun = time.perf_counter()
    answers = generate(model, [ids], tokenizer=tokenizer, **options)
    seconds = time.perf_counter() - begun
    texts = [answer_text(tokenizer, ids, answer, options.get("stop_strings")) for answer in answers]
    if args.json:
        shown = [as_dict(answer, text) for answer, text in zip(answers, texts, strict=True)]
        print(json.dumps({"answers": shown, "prompt_ids": ids, "options": options}, ensure_ascii=False))
    else:
        print("\n".join(texts if len(texts) == 1 else [f"[{i}] {text}" for i, text in enumerate(texts, 1)]))
    lengths = ", ".join(f"{len(answer.ids)} ({answer.finish_reason})" for answer in answers)
    print(f"{len(ids)} prompt tokens, new: {lengths}, after {seconds:.2f} s", file=sys.stderr)
    return 0


def answer_text(tokenizer: Tokenizer, prompt: list[int], answer: Generation, stop_strings: list[str] | None) -> str:
    text = StopStringBuffer(tokenizer, stop_strings, prompt)
    for token in answer.ids:
        text.push(token)
    return text.finish()


def as_dict(answer: Generation, text: str) -> dict:
    content = {"text": text, "finish_reason": answer.finish_reason, "ids": answer.ids, "logprobs": answer.logprobs}
    extra = {"top_logprobs": answer.top_logprobs, "sequence_score": answer.sequence_score}
    if answer.drafted:
        extra |= {"drafted": answer.drafted, "accepted": answer.accepted, "passes": answer.passes}
    return content | {name: value for name, value in extra.items() if value not in (None, [])}


def open_cache(file: Path, model: Llama, ids: list[int]) -> tuple[Cache, list[int]]:
    """A cache with what the file knows of the prompt, and the ids of that; empty where there is no file yet."""
    cache = model.new_cache(1, context_length(model.config))
    known = common_prefix(cache.load(file) if file.exists() else [], ids)
    cache.crop(len(known))
    return cache, known


def read_prompt(given: str | None) -> str:
    """The prompt as typed, or standard input without its last line end."""
    if given is None or given == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError('there is no prompt; type one after the command: llama-jp generate "…"')
        given = sys.stdin.read().removesuffix("\n")
    if not given:
        raise ValueError("the prompt is empty")
    return given
