"""The text of an answer as it grows, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import AnyStr

from ..text.tokenizer import Tokenizer


class StopStringBuffer:
    """Releases the text of one answer up to a stop string. Text that may be the start of one is held back.

    As in the reference, a stop string may begin in the prompt and must end in the newest token. It is matched on the
    bytes of the pieces, with special tokens by name. The part of a stop string in the answer is never released.
    Without a tokenizer there is no text, only ids. Reference: `StopStringCriteria`.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, stop_strings: str | Sequence[str] | None, prompt: Sequence[int] = ()
    ) -> None:
        self.strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
        if "" in self.strings:
            raise ValueError("a stop string is empty")
        if self.strings and tokenizer is None:
            raise ValueError("stop_strings are matched on text and need the tokenizer: pass tokenizer=…")
        self.tokenizer = tokenizer
        self.stream = tokenizer.stream() if tokenizer is not None else None
        self.ready = ""  # released, not yet taken
        self.held = ""  # may be the start of a stop string
        self.stopped = False
        self.size = 0  # of the answer, in bytes
        self.longest = max((len(string.encode()) for string in self.strings), default=0)
        self.tail = b""  # the last bytes of prompt and answer, as many as the longest stop string has
        for token in prompt[-self.longest :] if self.longest else ():
            self._append_to_tail(token)

    def push(self, token: int) -> bool:
        """Append one id. Returns True when a stop string is complete."""
        if self.tokenizer is None or self.stream is None or self.stopped:
            return self.stopped
        if token < self.tokenizer.vocab_size:  # padded embeddings have ids without text
            self.held += self.stream.push(token)
        if not self.strings:
            self.ready, self.held = self.ready + self.held, ""
            return False

        new = self._append_to_tail(token)
        self.size += new
        ends = [self._bytes_from_end(string.encode(), new) for string in self.strings]
        self.stopped = any(ends)
        start = max(ends) if self.stopped else max(overlap(self.tail, string.encode()) for string in self.strings)
        released = len(self.held) - max(overlap(self.held, string) for string in self.strings)
        if self.stopped:
            released = min((place for place in map(self.held.find, self.strings) if place >= 0), default=released)
        if start >= self.size:  # with the first token of the answer, or in the prompt
            released = 0
        self.ready += self.held[:released]
        self.held = "" if self.stopped else self.held[released:]
        return self.stopped

    def take(self) -> str:
        """The text released since the last call."""
        text, self.ready = self.ready, ""
        return text

    def finish(self) -> str:
        """The remaining text, after the last token."""
        if self.stream is not None and not self.stopped:
            self.held += self.stream.finish()
        self.ready, self.held = self.ready + self.held, ""
        return self.take()

    def _append_to_tail(self, token: int) -> int:
        """Append the bytes of a token to the tail; returns their number. An id without text clears the tail."""
        assert self.tokenizer is not None  # stop strings need one
        words = self.tokenizer.vocabulary
        if token >= self.tokenizer.vocab_size:
            self.tail = b""
            return 0
        new = words.token_bytes(token)
        self.tail = self.tail[max(0, len(self.tail) - self.longest) :] + new
        return len(new)

    def _bytes_from_end(self, string: bytes, new: int) -> int:
        """Bytes from the end at which a stop string begins that ends in the last `new` bytes; 0: there is none."""
        place = self.tail.find(string, max(0, len(self.tail) - new - len(string) + 1))
        return 0 if place < 0 else len(self.tail) - place


def overlap(text: AnyStr, string: AnyStr) -> int:
    """The number of characters at the end of `text` that may be the start of `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
