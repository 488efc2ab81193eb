"""llama-jp generate: one prompt, one answer, streamed."""

from __future__ import annotations

import argparse
import json
import sys

from ..generate import stream_text
from ..prompt import DEFAULT_SYSTEM_PROMPT, instruct_prompt, is_instruction_tuned
from .common import (
    add_generation_arguments,
    add_model_arguments,
    generation_options,
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
    add_generation_arguments(parser)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prompt = read_prompt(args.prompt)
    model, tokenizer = open_model(args)
    if args.raw or not (args.instruct or is_instruction_tuned(model.folder)):
        if args.system is not None:
            raise ValueError("--system is part of the instruction template: add --instruct, or leave out --raw")
        ids = tokenizer.encode(prompt)
    else:
        ids = instruct_prompt(tokenizer, prompt, DEFAULT_SYSTEM_PROMPT if args.system is None else args.system)
    options = generation_options(args, model)
    stream = stream_text(model, tokenizer, ids, **options)
    if not args.json:
        write_pieces(stream)
    else:
        text = "".join(stream)
        answer = stream.generation
        content = {"text": text, "finish_reason": answer.finish_reason, "ids": answer.ids, "logprobs": answer.logprobs}
        print(json.dumps(content | {"prompt_ids": ids, "options": options}, ensure_ascii=False))
    print(speed_report(stream, len(ids), options), file=sys.stderr)
    return 0


def read_prompt(given: str | None) -> str:
    """The prompt as typed, or standard input without its last line end."""
    if given is None or given == "-":
        if sys.stdin is None or sys.stdin.isatty():
            raise ValueError('there is no prompt; type one after the command: llama-jp generate "…"')
        given = sys.stdin.read().removesuffix("\n")
    if not given:
        raise ValueError("the prompt is empty")
    return given
