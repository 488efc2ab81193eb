"""An answer's text as it grows, without its stop string."""

from __future__ import annotations

from collections.abc import Sequence

from ..text.tokenizer import Tokenizer


class StopStringBuffer:
    """One answer's text as it grows, without the stop string that ends it; what might begin one is held back.

    A stop string may begin in the prompt, as in the reference: it is looked for in the bytes of the pieces, specials
    by their names, where it ends in the newest token. Of such a string the answer's part is not shown either. Without
    a tokenizer there is no text, only ids. Reference: `StopStringCriteria`.
    """

    def __init__(
        self, tokenizer: Tokenizer | None, stop_strings: str | Sequence[str] | None, prompt: Sequence[int] = ()
    ):
        self.strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings or ())
        if "" in self.strings:
            raise ValueError("a stop string is empty")
        if self.strings and tokenizer is None:
            raise ValueError("stop_strings are matched on text, so they need the tokenizer: pass tokenizer=…")
        self.tokenizer = tokenizer
        self.stream = tokenizer.stream() if tokenizer is not None else None
        self.ready = ""  # may be shown
        self.held = ""  # may turn out to be the beginning of a stop string
        self.stopped = False
        self.size = 0  # of the answer, in bytes
        self.longest = max((len(string.encode()) for string in self.strings), default=0)
        self.tail = b""  # the last bytes of prompt and answer, enough for a stop string to begin in
        for token in prompt[-self.longest :] if self.longest else ():
            self._follow(token)

    def push(self, token: int) -> bool:
        """Take one more id; True when a stop string is complete."""
        if self.stream is None or self.stopped:
            return self.stopped
        if token < self.tokenizer.vocab_size:  # a model may have more rows than that, without text
            self.held += self.stream.push(token)
        if not self.strings:
            self.ready, self.held = self.ready + self.held, ""
            return False

        new = self._follow(token)
        self.size += new
        ends = [self._end_of(string.encode(), new) for string in self.strings]
        self.stopped = any(ends)
        begun = max(ends) if self.stopped else max(overlap(self.tail, string.encode()) for string in self.strings)
        shown = len(self.held) - max(overlap(self.held, string) for string in self.strings)
        if self.stopped:
            shown = min((place for place in map(self.held.find, self.strings) if place >= 0), default=shown)
        if begun >= self.size:  # with the answer, or before it
            shown = 0
        self.ready += self.held[:shown]
        self.held = "" if self.stopped else self.held[shown:]
        return self.stopped

    def take(self) -> str:
        """The text that has become certain since the last call."""
        text, self.ready = self.ready, ""
        return text

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self.stream is not None and not self.stopped:
            self.held += self.stream.finish()
        self.ready, self.held = self.ready + self.held, ""
        return self.take()

    def _follow(self, token: int) -> int:
        """Put a token's bytes behind the tail; returns how many they are. What has no text separates."""
        words = self.tokenizer.vocabulary
        if token >= self.tokenizer.vocab_size:
            self.tail = b""
            return 0
        byte = words.byte_values.get(token)
        new = words.spell(words.piece(token)).encode() if byte is None else bytes([byte])
        self.tail = self.tail[max(0, len(self.tail) - self.longest) :] + new
        return len(new)

    def _end_of(self, string: bytes, new: int) -> int:
        """How many bytes from the end a stop string begins that ends in the `new` last ones; 0 where there is none."""
        place = self.tail.find(string, max(0, len(self.tail) - new - len(string) + 1))
        return 0 if place < 0 else len(self.tail) - place


def overlap(text: str | bytes, string: str | bytes) -> int:
    """How many characters at the end of `text` could be the beginning of `string`."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
