"""llama-jp chat: a conversation. Each answer streams; Ctrl-C ends the answer and keeps the conversation."""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import NoReturn

from ..checkpoint.chat_template import elyza_template
from ..generation.filter_chain import make_filters
from ..generation.options import Options
from ..model import Llama
from ..text.template import BASE_MODEL_WARNING, DEFAULT_SYSTEM_PROMPT
from ..text_files import wrong_byte
from .arguments import add_positional_source_arguments
from .console import OTHER_ENCODING, check_decoded
from .conversation import Conversation, print_message
from .failures import describe
from .generation_arguments import add_generation_arguments, generation_options
from .language import translate
from .message_input import open_message_input
from .models import (
    add_compile_argument,
    add_computation_arguments,
    compile_as_asked,
    load_model_of,
    open_assistant,
    optimize_as_asked,
)
from .output import count
from .parser import did_you_mean

EXAMPLE = "llama-jp chat demo"
HELP = """\
/retry          answer the last message again
/reset          clear the conversation (also /clear, /new)
/system TEXT    set the system prompt and clear the conversation
/system         show the system prompt
/set NAME VALUE set an option of generation, such as /set temperature 0.7; VALUE default: as without it
/set            show the options
/save FILE      write the conversation as JSON
/load FILE      go on with a saved conversation
/exit           leave the chat (also /quit, /bye, /q), as Ctrl-D does; Ctrl-C ends an answer
/help           show these commands (also /?)
//…             a message that begins with one slash
A pasted text is one message. Lines between two \"\"\" are one message, and \\ at the end of a line continues it."""
NAMES = {"/clear": "/reset", "/new": "/reset", "/?": "/help", "/quit": "/exit", "/bye": "/exit", "/q": "/exit"}
COMMANDS = ("/retry", "/reset", "/system", "/set", "/save", "/load", "/exit", "/help", *NAMES)
EXITS = ("exit", "quit")  # on a terminal, people leave other programs with them


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_positional_source_arguments(parser)
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help=f"system prompt (default: the template's own; ELYZA's is {DEFAULT_SYSTEM_PROMPT})",
    )
    parser.add_argument("--no-history", action="store_true", help="do not keep the messages for the next session")
    add_generation_arguments(parser, several_answers=False)
    add_computation_arguments(parser, optimize="auto")
    add_compile_argument(parser)


def run(args: argparse.Namespace) -> int:
    if args.system is not None:
        check_decoded(args.system, "the system prompt")
    model, tokenizer = load_model_of(args)
    assistant = open_assistant(args, tokenizer, model)  # a self-draft is made of weights that are not packed
    optimize_as_asked(args, model, tokenizer)
    model = compile_as_asked(args, model)
    if tokenizer.chat_template is None:
        print_message(f"warning: {BASE_MODEL_WARNING}")
    check_options(args, model)  # refuses wrong values before the first turn
    conversation = Conversation(model, tokenizer, args.system, assistant)
    print_message(f"prompt: {tokenizer.chat_template or elyza_template()}")
    interactive = sys.stdin.isatty()
    next_message = open_message_input(COMMANDS, history=not args.no_history)
    if interactive:
        print_message("type a message; /help shows the commands")
    while True:
        try:
            message = next_message()
        except EOFError:
            return 0
        except KeyboardInterrupt:
            print_message("\n/exit leaves the chat")
            continue
        except UnicodeDecodeError as error:
            wrong = wrong_byte("standard input", error.encoding, error.start, error.object[error.start])
            raise ValueError(wrong + OTHER_ENCODING) from error
        command, _, rest = message.partition(" ")
        command = NAMES.get(command, command)
        if command == "/exit" or (interactive and message in EXITS):
            return 0
        try:
            if message.startswith("/") and not message.startswith("//"):
                run_chat_command(command, rest.strip(), conversation, args)
            elif message:
                message = message.removeprefix("/") if message.startswith("//") else message
                conversation.answer(message, generation_options(args, model))
        except BrokenPipeError:
            raise
        except Exception as error:  # such as a message that exceeds the context; the conversation continues
            sentence = describe(error)
            if sentence is None:
                raise
            parts = [sentence] if command in COMMANDS else [sentence, "; /reset clears the conversation"]
            if "the context holds" in sentence:
                parts.append(", and --past-context shift lets a text exceed the context")
            print_message("".join(map(translate, parts)))


def run_chat_command(command: str, rest: str, conversation: Conversation, args: argparse.Namespace) -> None:
    """Run a line that begins with a slash. /exit is not among them: it ends the loop of `run`."""
    if command == "/help":
        print_message(HELP)
    elif command == "/reset":
        conversation.reset()
        print_message("the conversation is cleared")
    elif command == "/system" and not rest:
        default = "the system prompt is the template's own"
        print_message(default if conversation.system is None else conversation.system or "there is no system prompt")
    elif command == "/system":
        conversation.reset(system=rest)
        print_message("the system prompt is set, and the conversation is cleared")
    elif command == "/retry":
        retry(conversation, args)
    elif command == "/set":
        set_option(rest, conversation.model, args)
    elif command in ("/save", "/load") and not rest:
        print_message(f"{command} needs the name of a file")
    elif command == "/save":
        conversation.save(Path(rest).expanduser())
        print_message(f"{rest}: {count(len(conversation.history), 'turn')} saved")
    elif command == "/load":
        conversation.load(Path(rest).expanduser())
        print_message(f"{rest}: the conversation goes on after {count(len(conversation.history), 'turn')}")
    else:
        hint = did_you_mean(command, COMMANDS)
        print_message(f"there is no command {command}{hint}; /help shows the commands, and / is sent as //")


def retry(conversation: Conversation, args: argparse.Namespace) -> None:
    """Answer the last message again. The earlier answer stays if the new one fails."""
    if not conversation.history:
        print_message("there is no message to answer again")
        return
    options = generation_options(args, conversation.model)
    if "seed" not in options or args.seed is not None:
        way_out = "/set seed default" if args.seed is not None else "/set temperature 0.7 samples"
        print_message(f"the answer will be the same, because nothing is random: {way_out}")
    turns = conversation.history, conversation.forgotten
    last = len(conversation.history) - 1
    conversation.history, conversation.forgotten = conversation.history[:-1], min(conversation.forgotten, last)
    try:
        conversation.answer(turns[0][-1][0], options)
    except BaseException:
        conversation.history, conversation.forgotten = turns
        raise


def set_option(text: str, model: Llama, args: argparse.Namespace) -> None:
    """Set an option as its flag does: `/set temperature 0.7`. Without a value, show the options that are set.

    Raises ValueError for an unknown name and a wrong value; the options are then as before.
    """
    name, _, value = text.partition(" ")
    name, value = name.removeprefix("--").replace("-", "_"), value.strip()
    if not name or not value:
        shown = Options.resolve(model, None, generation_options(args, model))
        names = [name] if name in args.option_names or name == "do_sample" else ["do_sample", *args.option_names]
        set_now = [f"{each} {getattr(shown, each)}" for each in names if getattr(shown, each) is not None or name]
        print_message("\n".join(set_now))
        return
    changed = copy.copy(args)
    parser = SettingsParser(add_help=False, allow_abbrev=False)
    add_generation_arguments(parser, several_answers=False)
    flags = {flag.dest: flag for flag in parser._actions if flag.dest in args.option_names}
    if name == "do_sample" and value in ("true", "false", "default"):
        changed.sample, changed.greedy = value == "true", value == "false"
    elif name not in flags:
        hint = did_you_mean(name, [*flags, "do_sample"]) or "; llama-jp chat --help lists the options of generation"
        raise ValueError(f"there is no option {name} to set in a chat{hint}")
    elif value == "default":
        setattr(changed, name, None)
    elif flags[name].nargs == 0:  # a switch
        if value not in ("true", "false"):
            raise ValueError(f"{name} is true, false or default, not {value}")
        switched = flags[name].const
        setattr(changed, name, switched if value == str(switched).lower() else None)
    else:
        setattr(changed, name, None)
        parser.parse_args([f"{flags[name].option_strings[0]}={value}"], changed)
    sampling = [option for option in args.sampling_option_names if getattr(changed, option) is not None]
    if changed.greedy and sampling:
        raise ValueError(
            f"do_sample false chooses no token at random, so it cannot be combined with {', '.join(sampling)}; "
            "/set one of them to default first"
        )
    sampled, samples = (bool(check_options(each, model).do_sample) for each in (args, changed))
    vars(args).update(vars(changed))
    change = f"; {'sampling' if samples else 'greedy'} from now on" if samples != sampled else ""
    print_message(f"{name}: {value}{change}")


class SettingsParser(argparse.ArgumentParser):
    """A parser of one flag, whose errors are exceptions."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def check_options(args: argparse.Namespace, model: Llama) -> Options:
    """The options of the next answer. Raises ValueError for options with which no message can be answered."""
    options = Options.resolve(model, None, generation_options(args, model))
    make_filters(options)
    context = model.config.context_length
    if options.past_context != "shift" and (options.max_new_tokens or 0) >= context:
        raise ValueError(
            f"max_new_tokens is {options.max_new_tokens}, but the context holds {context}, and the message needs "
            "space as well; make it smaller, or add --past-context shift"
        )
    return options
