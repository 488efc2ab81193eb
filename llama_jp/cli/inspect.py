"""llama-jp inspect: one HTML page that shows a prompt's way through the model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..inspection import report
from ..inspection.interface import DEFAULT_NEW_TOKENS
from ..loading import load_tokenizer
from ..text_files import check_file_target
from .arguments import MODEL_HELP, int_list
from .console import note
from .generate import encode_prompt, prompt_form, read_prompt
from .generation_arguments import add_generation_arguments, generation_options
from .models import add_model_arguments, open_assistant, open_model

EXAMPLE = 'llama-jp inspect "クマが海辺に行きました。" --report page.html'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="instruction, or text to continue (default: standard input)"
    )
    parser.add_argument(
        "--report",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"the page to write; it shows {DEFAULT_NEW_TOKENS} new tokens unless --max-new-tokens says otherwise",
    )
    parser.add_argument(
        "--layers",
        type=int_list,
        metavar="N,…",
        help="show the attention and the values of these layers (default: all)",
    )
    parser.add_argument("--heads", type=int_list, metavar="N,…", help="show these heads (default: all)")
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="MODEL",
        help=f"also show the tokens of this tokenizer; can be given several times; {MODEL_HELP}",
    )
    template = parser.add_mutually_exclusive_group()
    template.add_argument("--raw", action="store_true", help="continue the prompt as plain text, without a template")
    template.add_argument(
        "--instruct",
        action="store_true",
        help="apply the checkpoint's chat template, or ELYZA's if it has none (default for checkpoints that have one)",
    )
    parser.add_argument("--system", metavar="TEXT", help="system prompt (default: the template's own)")
    add_generation_arguments(parser, several_answers=False)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    prompt = read_prompt(args)
    check_file_target(args.report, "page.html")
    compare = {name: load_tokenizer(name) for name in args.compare}
    model, tokenizer = open_model(args)
    ids = encode_prompt(prompt, tokenizer, args)
    options = generation_options(args, model)
    shown = report(
        model,
        ids,
        args.report,
        text=prompt,
        tokenizer=tokenizer,
        compare=compare,
        layers=args.layers,
        heads=args.heads,
        assistant_model=open_assistant(args, tokenizer),
        **options,
    )
    print(tokenizer.decode(shown.answer.ids))
    note(prompt_form(tokenizer, args))
    size = args.report.stat().st_size / 1000
    note(f"{args.report}: {len(shown.ids)} tokens, {size:,.0f} kB; open it in a browser")
    return 0
