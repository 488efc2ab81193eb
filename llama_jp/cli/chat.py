"""llama-jp chat: a conversation. Each answer streams; Ctrl-C ends the answer and keeps the conversation."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..cache import Cache
from ..checkpoint.chat_template import elyza_template
from ..generation.filter_chain import make_filters
from ..generation.interface import stream_text
from ..generation.options import Options
from ..model import Llama
from ..rope import context_length
from ..text.template import BASE_MODEL_WARNING, DEFAULT_SYSTEM_PROMPT
from ..text.tokenizer import Tokenizer
from .generation_arguments import add_generation_arguments, generation_options
from .models import add_model_arguments, open_assistant, open_model
from .output import speed_report
from .prompt_cache import common_prefix_length

EXAMPLE = "llama-jp chat --model demo"
COMMANDS = """\
/reset          clear the conversation
/system TEXT    set the system prompt and clear the conversation
/system         show the system prompt
/exit           leave the chat, as Ctrl-D does; Ctrl-C ends an answer
/help           show these commands"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help=f"system prompt (default: the template's own; ELYZA's is {DEFAULT_SYSTEM_PROMPT})",
    )
    add_generation_arguments(parser, several_answers=False)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    model, tokenizer = open_model(args)
    if tokenizer.chat_template is None:
        print_message(f"warning: {BASE_MODEL_WARNING}")
    make_filters(
        Options.resolve(model, None, generation_options(args, model))
    )  # refuses wrong values before the first turn
    conversation = Conversation(model, tokenizer, args.system, open_assistant(args))
    print_message(f"prompt: {tokenizer.chat_template or elyza_template()}")
    interactive = sys.stdin.isatty()
    if interactive:
        with suppress(ImportError):  # Windows has no readline
            import readline  # noqa: F401 (importing it gives input() a history and line editing)

        print_message("type a message; /help shows the commands")
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print_message("\n/exit leaves the chat")
            continue
        if line.split(" ")[0] == "/exit":
            return 0
        elif line.startswith("/"):
            run_chat_command(line, conversation)
        elif line:
            try:
                conversation.answer(line, generation_options(args, model))
            except ValueError as error:  # such as a message that exceeds the context; the conversation continues
                print_message(f"{error}; /reset clears the conversation")


def run_chat_command(line: str, conversation: Conversation) -> None:
    """Run a line that begins with a slash. /exit is not among them: it ends the loop of `run`."""
    command, _, rest = line.partition(" ")
    if command == "/help":
        print_message(COMMANDS)
    elif command == "/reset":
        conversation.reset()
        print_message("the conversation is cleared")
    elif command == "/system" and not rest:
        default = "the system prompt is the template's own"
        print_message(default if conversation.system is None else conversation.system or "there is no system prompt")
    elif command == "/system":
        conversation.reset(system=rest.strip())
        print_message("the system prompt is set, and the conversation is cleared")
    else:
        print_message(f"there is no command {command}; /help shows the commands")


def print_message(text: str) -> None:
    """Print to standard error, since standard output has only the answers."""
    print(text, file=sys.stderr)


class Conversation:
    """The turns so far, and a KV cache of their tokens, so that a turn prefills only its new tokens."""

    def __init__(self, model: Llama, tokenizer: Tokenizer, system: str | None, assistant_model: Llama | None = None):
        self.model = model
        self.tokenizer = tokenizer
        self.system = system  # None: the template's own
        self.assistant_model = assistant_model
        self.history: list[tuple[str, str]] = []  # (user, assistant)
        self.cache: Cache = model.new_cache(1, context_length(model.config))
        self.cached: list[int] = []  # the ids of the tokens in the cache

    def reset(self, system: str | None = None) -> None:
        """Clear the turns, and replace the system prompt if one is given."""
        self.history = []
        if system is not None:
            self.system = system

    def messages(self, message: str) -> list[dict[str, str]]:
        """The conversation with a new message, in the form of `Tokenizer.chat`."""
        texts = [] if self.system is None else [("system", self.system)]
        for user, assistant in self.history:
            texts += [("user", user), ("assistant", assistant)]
        return [{"role": role, "content": text} for role, text in [*texts, ("user", message)]]

    def answer(self, message: str, options: Mapping[str, Any]) -> None:
        """Stream the answer to standard output and add the turn. An interrupted answer stays, as far as it came."""
        ids = self.tokenizer.chat(self.messages(message))
        cached = common_prefix_length(self.cached, ids)
        self.cache.crop(cached)
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
            tokens = ids + stream.generation.ids
            # After a shift, the cache has lost tokens in the middle, so it is not a prefix of the next prompt.
            shifted = options.get("past_context") == "shift" and self.cache.length < len(tokens) - 1
            self.cached = [] if shifted else tokens[: self.cache.length]
        print(flush=True)
        self.history.append((message, text))
        print_message(speed_report(stream, len(ids), options, cached=cached, interrupted=interrupted))
