"""llama-jp chat: a conversation. Every answer streams; Ctrl-C ends an answer and keeps the conversation."""

from __future__ import annotations

import argparse
import sys

from ..cache import Cache
from ..generation.filter_chain import make_filters
from ..generation.interface import stream_text
from ..generation.options import Options
from ..model import Llama
from ..rope import context_length
from ..text.template import BASE_MODEL_WARNING, DEFAULT_SYSTEM_PROMPT, instruct_prompt, is_instruction_tuned
from ..text.tokenizer import Tokenizer
from .common import (
    add_generation_arguments,
    add_model_arguments,
    common_prefix,
    generation_options,
    open_assistant,
    open_model,
    speed_report,
)

HELP = "talk to an instruction-tuned model"
EXAMPLE = "llama-jp chat --model demo"
COMMANDS = """\
/reset          forget the conversation
/system TEXT    set the system prompt and forget the conversation; without TEXT, show it
/exit           leave (Ctrl-D does, too); Ctrl-C ends an answer
/help           show this"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--system", default=DEFAULT_SYSTEM_PROMPT, metavar="TEXT", help="system prompt (default: %(default)s)"
    )
    add_generation_arguments(parser, several=False)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    model, tokenizer = open_model(args)
    if not is_instruction_tuned(model.folder):
        say(f"warning: {BASE_MODEL_WARNING}")
    make_filters(
        Options.resolve(model, None, generation_options(args, model))
    )  # wrong values are refused now, not in a turn
    conversation = Conversation(model, tokenizer, args.system, open_assistant(args))
    interactive = sys.stdin.isatty()
    if interactive:
        import readline  # noqa: F401 (gives input() a history and line editing)

        say("type a message; /help shows the commands")
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            say("\n/exit leaves")
            continue
        command, _, rest = line.partition(" ")
        if command == "/exit":
            return 0
        elif command == "/help":
            say(COMMANDS)
        elif command == "/reset":
            conversation.reset()
            say("the conversation is forgotten")
        elif command == "/system" and not rest:
            say(conversation.system or "there is no system prompt")
        elif command == "/system":
            conversation.reset(system=rest.strip())
            say("the system prompt is set and the conversation forgotten")
        elif command.startswith("/"):
            say(f"there is no command {command}; /help shows those that are")
        elif line:
            try:
                conversation.answer(line, generation_options(args, model))
            except ValueError as error:  # too long, say: the conversation goes on
                say(f"{error}; /reset begins anew")


def say(text: str) -> None:
    print(text, file=sys.stderr)


class Conversation:
    """The turns so far, and a cache of the ids they begin with, so that a turn costs only what is new."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, system: str, assistant_model: Llama | None = None):
        self.model, self.tokenizer, self.system, self.assistant_model = model, tokenizer, system, assistant_model
        self.history: list[tuple[str, str]] = []
        self.cache: Cache = model.new_cache(1, context_length(model.config))
        self.cached: list[int] = []  # the ids that the cache holds

    def reset(self, system: str | None = None) -> None:
        self.history = []
        self.system = self.system if system is None else system

    def answer(self, message: str, options: dict) -> None:
        """Stream the answer to standard output; an interrupted one is remembered as far as it came."""
        ids = instruct_prompt(self.tokenizer, message, self.system, self.history)
        known = len(common_prefix(self.cached, ids))
        self.cache.crop(known)
        stream = stream_text(
            self.model, self.tokenizer, ids, cache=self.cache, assistant_model=self.assistant_model, **options
        )
        text, interrupted = "", False
        try:
            for piece in stream:
                text += piece
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            seen = ids + stream.generation.ids
            shifted = options.get("past_context") == "shift" and self.cache.length < len(seen) - 1
            self.cached = [] if shifted else seen[: self.cache.length]
        print(flush=True)
        self.history.append((message, text))
        say(speed_report(stream, len(ids), options, interrupted, known))
