"""When an answer ends: EOS, a stop string, the length, the time, a repetition loop, or the caller's criterion."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .stop_strings import StopStringBuffer

Criterion = Callable[[Tensor, Tensor], "Tensor | bool"]
"""A stopping criterion, as in transformers: ids (B, N), scores (B, V) -> one bool, or one for each row (B,)."""


class Stopping:
    """Whether each row ends after its newest token, and why.

    When several reasons apply, the first in this order counts: "eos", "stop", "loop", "criterion", "time", "length".
    The time runs from the creation of this object.
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
    ) -> None:
        if max_time is not None and not max_time >= 0:
            raise ValueError(f"max_time is a number of seconds, not {max_time!r}")
        self.eos = set(eos)
        self.criteria = [criteria] if callable(criteria) else list(criteria or ())
        self.loop = loop
        self.last = last  # tokens of prompt, padding and answer at which every row ends
        self.pad_id = pad_id  # at padding positions of the ids for criteria, as in the reference
        self.until = None if max_time is None else time.monotonic() + max_time

    def __call__(
        self, ids: Tensor, scores: Tensor, begin: int, texts: Sequence[StopStringBuffer] = ()
    ) -> list[str | None]:
        """The reason for the end of each row after its newest token, or None: ids (B, N); the answer starts at `begin`.

        `texts` already contain the newest token.
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
    """Detects a repetition loop: the answer ends in the same unit of tokens, `times` times in a row.

    A unit has at most `longest` tokens. Japanese text repeats short units on purpose (ははははは, ……, 時々刻々), so the
    repetitions must also cover at least `least` tokens.
    """

    def __init__(self, times: int = 4, longest: int = 64, least: int = 24) -> None:
        if min(times - 1, longest, least) < 1:
            raise ValueError(f"a loop is at least 2 repetitions, not {times}, of at least one token")
        self.times, self.longest, self.least = times, longest, least

    def __call__(self, answer: Sequence[int]) -> bool:
        """Whether the answer ends in a loop."""
        for unit in range(1, min(self.longest, len(answer) // self.times) + 1):
            span = max(unit * self.times, -(-self.least // unit) * unit)  # whole units, enough of both
            tail = answer[-span:]
            if len(tail) == span and tail[unit:] == tail[:-unit]:
                return True
        return False
