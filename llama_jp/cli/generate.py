"""llama-jp generate: answer one prompt, streamed; print several answers when complete; or answer a file of prompts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ..checkpoint.chat_template import elyza_template
from ..generation.interface import generate, stream_text
from ..model import Llama
from ..text.template import DEFAULT_SYSTEM_PROMPT
from ..text.tokenizer import Tokenizer
from ..text_files import check_file_target
from .console import check_decoded, note, read_standard_input
from .generation_arguments import add_generation_arguments, generation_options
from .models import (
    add_compile_argument,
    add_model_arguments,
    compile_as_asked,
    load_model_of,
    open_assistant,
    optimize_as_asked,
)
from .output import answer_text, as_dict, speed_report, write_pieces
from .prompt_cache import fingerprint, open_cache, save_cache
from .prompts_file import add_prompts_arguments, answer_prompts

EXAMPLE = (
    "llama-jp generate "
    '"クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="instruction, or text to continue (default: standard input)"
    )
    add_prompts_arguments(parser)
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
    add_model_arguments(parser, optimize="large")
    add_compile_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.prompts is not None or args.out is not None or args.batch is not None:
        return answer_prompts(args, encode_prompt)
    prompt = read_prompt(args)
    if args.top_logprobs is not None and not args.json:
        raise ValueError("--top-logprobs needs --json")
    if args.cache:
        check_file_target(args.cache, "prompt.cache")
    model, tokenizer = load_model_of(args)
    written_by = fingerprint(model) if args.cache else ""  # before a kernel packs a weight
    assistant = open_assistant(args, tokenizer, model)  # a self-draft is made of weights that are not packed
    optimize_as_asked(args, model, tokenizer)
    model = compile_as_asked(args, model)
    ids = encode_prompt(prompt, tokenizer, args)
    options = generation_options(args, model)
    if args.top_logprobs is not None:
        options["top_logprobs"] = args.top_logprobs
    if options.get("num_beams", 1) > 1 or options.get("num_return_sequences", 1) > 1:
        return print_several_answers(model, tokenizer, ids, options, args)
    cache, cached = open_cache(args.cache, model, ids, written_by) if args.cache else (None, 0)
    stream = stream_text(model, tokenizer, ids, cache=cache, assistant_model=assistant, **options)
    if args.json:
        text = "".join(stream)
        content = as_dict(stream.generation, text)
        print(json.dumps(content | {"prompt_ids": ids, "options": options}, ensure_ascii=False))
    else:
        write_pieces(stream)
    note(prompt_form(tokenizer, args))
    print(speed_report(stream, len(ids), options, cached=cached), file=sys.stderr)
    if cache is not None:
        save_cache(cache, args.cache, ids + stream.generation.ids, written_by)
        note(f"{args.cache}: {cached} prompt tokens reused, {cache.length} tokens saved")
    return 0


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt of the command line, or standard input without its last line end."""
    if args.prompt is None or args.prompt == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError('there is no prompt; type one after the command: llama-jp generate "…"')
        prompt = read_standard_input().removesuffix("\n")
    else:
        prompt = check_decoded(args.prompt, "the prompt")
    if not prompt and not args.raw:
        raise ValueError('the prompt is empty; --raw "" generates a text from its start')
    return prompt


def encode_prompt(prompt: str, tokenizer: Tokenizer, args: argparse.Namespace) -> list[int]:
    """The ids of the prompt, in the chat template or as plain text."""
    if not uses_template(tokenizer, args):
        if args.system is not None:
            raise ValueError("--system is part of the instruction template: add --instruct, or leave out --raw")
        return tokenizer.encode(prompt)
    system = []
    if args.system is not None:
        system = [{"role": "system", "content": check_decoded(args.system, "the system prompt")}]
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
    note(prompt_form(tokenizer, args))
    note(f"{len(ids)} prompt tokens, new: {lengths}, after {seconds:.2f} s")
    return 0
