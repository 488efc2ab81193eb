"""The streams and the signals of the command line's process. This module does not import torch, which takes seconds."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import Any

from ..text_files import decode_text
from .language import translate

CLEANUP_SECONDS = 5.0
OTHER_ENCODING = ", or set PYTHONIOENCODING to its encoding"
ESCAPE = "llama_jp_escape"  # the name of `escape` among the error handlers of Python's encodings


def escape(error: UnicodeError) -> tuple[str, int]:
    r"""Write a character that the output's encoding does not have as \uXXXX, one for each UTF-16 unit.

    These are JSON's escapes, so the output of --json stays valid JSON in every encoding.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4)), error.end


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Inside, no character is an error on standard output and standard error, and a closed stream discards its text."""
    codecs.register_error(ESCAPE, escape)
    with ExitStack() as stack:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # closed by the shell (>&-)
                setattr(sys, name, stack.enter_context(open(os.devnull, "w", encoding="utf-8")))  # noqa: PTH123
                stack.callback(setattr, sys, name, None)
            elif isinstance(stream, io.TextIOWrapper):
                stack.callback(restore_errors, stream, stream.errors)
                stream.reconfigure(errors=ESCAPE)
        yield


def restore_errors(stream: io.TextIOWrapper, errors: str | None) -> None:
    with suppress(ValueError, OSError):  # the stream is closed, or nothing can be written to it
        stream.reconfigure(errors=errors)


def discard_output() -> None:
    """Send the rest of the output nowhere: Python flushes at exit, which would print another error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)


def say(line: str) -> None:
    """Print a line to standard error, if that is still possible."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def note(sentence: str) -> None:
    """Print a sentence to standard error, in the language of the block."""
    print(translate(sentence), file=sys.stderr)


class Signals:
    """SIGTERM and SIGHUP raise SystemExit inside `with Signals()`, so temporary files are removed; SIGINT as always.

    Ignored signals stay ignored. Under torchrun nothing changes: a rank may wait for another one outside of Python,
    where no exception can reach it.
    """

    def __init__(self) -> None:
        self.status: int | None = None  # of the process, after a signal
        self.arrived = float("-inf")
        self.replaced: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread() and "TORCHELASTIC_RUN_ID" not in os.environ:
            for name in ("SIGTERM", "SIGHUP", "SIGINT"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self.replaced[number] = signal.signal(number, self.leave)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.replaced.items():
            signal.signal(number, handler)

    def leave(self, number: int, frame: FrameType | None) -> None:
        """End the process with the shell's status for a signal: 128 and its number.

        Code in C may replace the exception by its own, so the status is kept as well. A signal that follows at once
        does not interrupt the cleanup.
        """
        self.status = 128 + number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if time.monotonic() - self.arrived > CLEANUP_SECONDS:
            self.arrived = time.monotonic()
            raise SystemExit(self.status)


def read_standard_input() -> str:
    """The text on standard input, with \\n line ends and without a byte order mark. Errors: see `read_exactly`."""
    return read_exactly().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def read_exactly() -> str:
    """The text on standard input, with its own line ends.

    Raises ValueError for bytes that are no text in the encoding of standard input, which is UTF-8 on most systems, and
    for a process without standard input.
    """
    if sys.stdin is None:
        raise ValueError("standard input is closed; give the text as an argument, or in a file")
    buffer = getattr(sys.stdin, "buffer", None)
    if buffer is None:  # a stream of characters, which replaces standard input
        text: str = sys.stdin.read()
        return text
    return decode_input(buffer.read(), sys.stdin.encoding)


def decode_input(data: bytes, encoding: str) -> str:
    """Decode the bytes of standard input. Raises ValueError with the position of the first wrong byte."""
    return decode_text(data, "standard input", encoding, OTHER_ENCODING)


def check_decoded(text: str, name: str) -> str:
    """A text of the command line or of a line of input. Raises ValueError if its bytes were not UTF-8.

    For bytes that are no text in the locale's encoding, Python has half surrogate pairs. In the locale C without UTF-8
    mode, these are all bytes of a Japanese text.
    """
    if not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    try:
        data = text.encode("ascii", "surrogateescape")
    except UnicodeEncodeError:  # some characters are text already
        data = text.encode("utf-8", "surrogateescape")
    return decode_text(data, name, way_out=OTHER_ENCODING)


@contextmanager
def delayed_signals() -> Iterator[None]:
    """Hold Ctrl-C, SIGTERM and SIGHUP back inside the block: an exception while torch starts aborts the process."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
