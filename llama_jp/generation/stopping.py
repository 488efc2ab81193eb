"""When an answer ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .stop_strings import StopStringBuffer

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

    def __call__(
        self, ids: Tensor, scores: Tensor, begin: int, texts: Sequence[StopStringBuffer] = ()
    ) -> list[str | None]:
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
