"""Messages from a terminal, with line editing and a history between sessions, or from a pipe, one per line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .console import check_decoded

ReadLine = Callable[[str], str]  # shows a prompt; raises EOFError at the end and KeyboardInterrupt for Ctrl-C

PROMPT, MORE = "> ", "… "
QUOTES = '"""'  # around a message of several lines, as in ollama
LINES_KEPT = 1000  # in the history file
PASTE_SECONDS = 0.05  # within which a terminal delivers the next line of a pasted text


def open_message_input(commands: Sequence[str], history: bool) -> Callable[[], str]:
    """A function that returns the next message, without white space at its ends.

    commands  for completion with the Tab key
    history   False: messages are not kept between sessions
    """
    read_line = open_line_input(commands, history)
    return lambda: read_message(read_line)


def read_message(read_line: ReadLine) -> str:
    """One message: a line, the lines between two triple quotes, or lines that end with a backslash and the next one."""
    text = check_decoded(read_line(PROMPT), "the message").strip()
    if text.startswith(QUOTES):
        text = text.removeprefix(QUOTES)
        while not text.rstrip().endswith(QUOTES):
            text += "\n" + check_decoded(read_line(MORE), "the message")
        return text.rstrip().removesuffix(QUOTES).strip()
    while text.endswith("\\") and not text.endswith("\\\\"):
        text = text.removesuffix("\\") + "\n" + check_decoded(read_line(MORE), "the message").strip()
    return text


def open_line_input(commands: Sequence[str], history: bool) -> ReadLine:
    """Lines from a pipe; on a terminal with prompt-toolkit if it is installed, else with Python's own line editing."""
    if not sys.stdin.isatty():
        return lambda prompt: input()
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            return open_prompt_toolkit(commands, history)
    return open_plain_terminal(commands, history)


def open_prompt_toolkit(commands: Sequence[str], history: bool) -> ReadLine:
    """Lines with prompt-toolkit: a pasted text is one message; Alt-Enter starts a new line."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    file = history_file("chat_history.prompt-toolkit") if history else None
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(file)) if file else InMemoryHistory(),
        completer=WordCompleter(list(commands), sentence=True),
        complete_while_typing=False,
        multiline=True,  # Enter sends all the same
        key_bindings=keys,
        prompt_continuation=MORE,
    )
    return session.prompt


def open_plain_terminal(commands: Sequence[str], history: bool) -> ReadLine:
    """Lines with Python's readline where there is one. The lines of a pasted text arrive as one message."""
    with contextlib.suppress(ImportError):  # Windows has no readline
        import atexit
        import readline

        file = history_file("chat_history") if history else None
        words = list(commands)

        def complete(text: str, state: int) -> str | None:
            return [*(word for word in words if word.startswith(text)), None][state] if text else None

        readline.set_completer(complete)
        readline.set_completer_delims("\n")
        readline.parse_and_bind("tab: complete")
        readline.set_history_length(LINES_KEPT)
        if file is not None:
            with contextlib.suppress(OSError):  # the first session has no file
                readline.read_history_file(file)
            atexit.register(write_history, file)

    def read_line(prompt: str) -> str:
        lines = [input(prompt)]
        with contextlib.suppress(EOFError):  # the next message meets it again
            while more_is_waiting():
                lines.append(input())
        return "\n".join(lines)

    return read_line


def more_is_waiting() -> bool:
    """Whether the terminal has more input already, as it has after the first line of a pasted text."""
    try:
        import select

        return bool(select.select([sys.stdin], [], [], PASTE_SECONDS)[0])
    except (ImportError, OSError, ValueError):  # Windows selects sockets only
        return False


def write_history(file: Path) -> None:
    import readline

    with contextlib.suppress(OSError):
        readline.write_history_file(file)


def history_file(name: str) -> Path | None:
    """A file for the messages of earlier sessions, which only its owner can read; None if it cannot be written."""
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        file = Path(state).expanduser() / "llama-jp" / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except (OSError, RuntimeError):  # a home that is read-only, or none
        return None
    return file
