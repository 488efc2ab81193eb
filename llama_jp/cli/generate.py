"""llama-jp generate: answer one prompt, streamed; or print several answers when they are complete."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ..checkpoint.chat_template import elyza_template
from ..generation.interface import generate, stream_text
from ..generation.results import Generation
from ..generation.stop_strings import StopStringBuffer
from ..model import Llama
from ..text.template import DEFAULT_SYSTEM_PROMPT
from ..text.tokenizer import Tokenizer
from .generation_arguments import add_generation_arguments, generation_options
from .models import add_model_arguments, open_assistant, open_model
from .output import speed_report, write_pieces
from .prompt_cache import open_cache

EXAMPLE = (
    "llama-jp generate "
    '"クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="instruction, or text to continue (default: standard input)"
    )
    template = parser.add_mutually_exclusive_group()
    template.add_argument("--raw", action="store_true", help="continue the prompt as plain text, without a template")
    template.add_argument(
        "--instruct",
        action="store_true",
        help="apply the checkpoint's chat template, or ELYZA's if it has none (default for checkpoints that have one)",
    )
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help=f"system prompt (default: the template's own; ELYZA's is {DEFAULT_SYSTEM_PROMPT})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, without streaming")
    parser.add_argument(
        "--top-logprobs",
        type=int,
        metavar="N",
        help="with --json: log probabilities of the N most probable tokens at each position",
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="FILE",
        help="save the KV cache in FILE; if FILE exists, reuse it for the beginning of the prompt",
    )
    add_generation_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prompt = read_prompt(args.prompt)
    if args.top_logprobs is not None and not args.json:
        raise ValueError("--top-logprobs needs --json")
    if args.cache and not args.cache.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {args.cache.absolute().parent} for the cache {args.cache.name}")
    model, tokenizer = open_model(args)
    ids = encode_prompt(prompt, tokenizer, args)
    options = generation_options(args, model)
    if args.top_logprobs is not None:
        options["top_logprobs"] = args.top_logprobs
    if options.get("num_beams", 1) > 1 or options.get("num_return_sequences", 1) > 1:
        return print_several_answers(model, tokenizer, ids, options, args)
    cache, cached = open_cache(args.cache, model, ids) if args.cache else (None, 0)
    stream = stream_text(model, tokenizer, ids, cache=cache, assistant_model=open_assistant(args), **options)
    if args.json:
        text = "".join(stream)
        content = as_dict(stream.generation, text)
        print(json.dumps(content | {"prompt_ids": ids, "options": options}, ensure_ascii=False))
    else:
        write_pieces(stream)
    print(prompt_form(tokenizer, args), file=sys.stderr)
    print(speed_report(stream, len(ids), options, cached=cached), file=sys.stderr)
    if cache is not None:
        cache.save(args.cache, ids + stream.generation.ids)
        print(f"{args.cache}: {cached} prompt tokens reused, {cache.length} tokens saved", file=sys.stderr)
    return 0


def read_prompt(prompt: str | None) -> str:
    """The prompt of the command line, or standard input without its last line end."""
    if prompt is None or prompt == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError('there is no prompt; type one after the command: llama-jp generate "…"')
        prompt = sys.stdin.read().removesuffix("\n")
    if not prompt:
        raise ValueError("the prompt is empty")
    return prompt


def encode_prompt(prompt: str, tokenizer: Tokenizer, args: argparse.Namespace) -> list[int]:
    """The ids of the prompt, in the chat template or as plain text."""
    if not uses_template(tokenizer, args):
        if args.system is not None:
            raise ValueError("--system is part of the instruction template: add --instruct, or leave out --raw")
        return tokenizer.encode(prompt)
    system = [] if args.system is None else [{"role": "system", "content": args.system}]
    return tokenizer.chat([*system, {"role": "user", "content": prompt}])


def uses_template(tokenizer: Tokenizer, args: argparse.Namespace) -> bool:
    """Whether the prompt is put into a chat template: the flags decide, then the checkpoint."""
    return not args.raw and (args.instruct or tokenizer.chat_template is not None)


def prompt_form(tokenizer: Tokenizer, args: argparse.Namespace) -> str:
    """One line for people: the form of the prompt, and its reason."""
    if uses_template(tokenizer, args):
        return f"prompt: {tokenizer.chat_template or elyza_template()}"
    reason = "--raw" if args.raw else "the checkpoint has no chat template; --instruct applies ELYZA's"
    return f"prompt: plain text ({reason})"


def print_several_answers(
    model: Llama, tokenizer: Tokenizer, ids: list[int], options: dict[str, Any], args: argparse.Namespace
) -> int:
    """Generate the answers of beam search, or several sampled answers, and print them. Returns the exit status."""
    if args.cache or args.assistant_model:
        raise ValueError("--cache and --assistant-model work with one answer and without beam search")
    start = time.perf_counter()
    answers = generate(model, [ids], tokenizer=tokenizer, **options)
    seconds = time.perf_counter() - start
    texts = [answer_text(tokenizer, ids, answer, options.get("stop_strings")) for answer in answers]
    if args.json:
        content = [as_dict(answer, text) for answer, text in zip(answers, texts, strict=True)]
        print(json.dumps({"answers": content, "prompt_ids": ids, "options": options}, ensure_ascii=False))
    else:
        print("\n".join(texts if len(texts) == 1 else [f"[{i}] {text}" for i, text in enumerate(texts, 1)]))
    lengths = ", ".join(f"{len(answer.ids)} ({answer.finish_reason})" for answer in answers)
    print(prompt_form(tokenizer, args), file=sys.stderr)
    print(f"{len(ids)} prompt tokens, new: {lengths}, after {seconds:.2f} s", file=sys.stderr)
    return 0


def answer_text(tokenizer: Tokenizer, prompt: list[int], answer: Generation, stop_strings: list[str] | None) -> str:
    """The text of an answer, without its stop string."""
    buffer = StopStringBuffer(tokenizer, stop_strings, prompt)
    for token in answer.ids:
        buffer.push(token)
    return buffer.finish()


def as_dict(answer: Generation, text: str) -> dict[str, Any]:
    """An answer for JSON. Fields that this kind of generation does not fill are left out."""
    content: dict[str, Any] = {"text": text, "finish_reason": answer.finish_reason}
    content |= {"ids": answer.ids, "logprobs": answer.logprobs}
    if answer.top_logprobs:
        content["top_logprobs"] = answer.top_logprobs
    if answer.sequence_score is not None:
        content["sequence_score"] = answer.sequence_score
    if answer.drafted:
        content |= {"drafted": answer.drafted, "accepted": answer.accepted, "passes": answer.passes}
    return content
