"""When an answer ends: EOS, a stop string, the length, the time, a repetition loop, or the caller's own criterion."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .tokenizer import Tokenizer

Criterion = Callable[[Tensor, Tensor], "Tensor | bool"]
"""The caller's own, as transformers' stopping criteria: ids (B, N), scores (B, V) -> bool, or one for each row (B,)."""


class Stopping:
    """Names the reason why a row has ended, or None while it goes on.

    Where several are true at once the first in this order is named: "eos", "stop", "loop", "criterion", "time",
    "length". The clock starts when this is made.
    """

    def __init__(
        self,
        *,
        eos: Sequence[int],
        max_time: float | None,
        criteria: Sequence[Criterion] | Criterion | None,
        loop: LoopDetector | None,
        last: int,
        pad_id: int = 0,
    ):
        if max_time is not None and not max_time >= 0:
            raise ValueError(f"max_time is a number of seconds, not {max_time!r}")
        self.eos = set(eos)
        self.criteria = [criteria] if callable(criteria) else list(criteria or ())
        self.loop = loop
        self.last = last  # the number of tokens, prompt and padding included, with which every row ends
        self.pad_id = pad_id  # what criteria see in padded places, as in the reference
        self.until = None if max_time is None else time.monotonic() + max_time

    def __call__(self, ids: Tensor, scores: Tensor, begin: int, texts: Sequence[AnswerText] = ()) -> list[str | None]:
        """A reason or None for every row, after its newest token: ids (B, N), of which the answer begins at `begin`.

        `texts` have been given the newest token already.
        """
        late = self.until is not None and time.monotonic() >= self.until
        own = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for criterion in self.criteria:
            own = own | torch.as_tensor(criterion(ids.where(ids >= 0, self.pad_id), scores), device=ids.device)
        reasons: list[str | None] = []
        for row, answer in enumerate(ids[:, begin:].tolist()):
            if answer[-1] in self.eos:
                reasons.append("eos")
            elif texts and texts[row].stopped:
                reasons.append("stop")
            elif self.loop is not None and self.loop(answer):
                reasons.append("loop")
            elif own[row]:
                reasons.append("criterion")
            else:
                reasons.append("time" if late else "length" if ids.shape[1] >= self.last else None)
        return reasons


class LoopDetector:
    """Sees that an answer goes round in circles: it ends in the same tokens, `times` times in a row.

    A unit may have up to `longest` tokens. Japanese text repeats short units on purpose (ははははは, ……, 時々刻々), so
    the repetitions have to cover at least `least` tokens as well.
    """

    def __init__(self, times: int = 4, longest: int = 64, least: int = 24):
        if min(times - 1, longest, least) < 1:
            raise ValueError(f"a loop is at least 2 times the same, not {times}, of at least one token")
        self.times, self.longest, self.least = times, longest, least

    def __call__(self, answer: Sequence[int]) -> bool:
        for unit in range(1, min(self.longest, len(answer) // self.times) + 1):
            span = max(unit * self.times, -(-self.least // unit) * unit)  # whole units, enough of both
            tail = answer[-span:]
            if len(tail) == span and tail[unit:] == tail[:-unit]:
                return True
        return False


class AnswerText:
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
