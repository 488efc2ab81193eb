"""What generation returns."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple


@dataclass
class Generation:
    """One answer: its new ids (an EOS at the end included), why it ended, and how likely each id was."""

    ids: list[int] = dataclasses.field(default_factory=list)
    finish_reason: str = "length"  # "eos" | "stop" | "loop" | "criterion" | "time" | "length"
    logprobs: list[float] = dataclasses.field(default_factory=list)  # natural; the model's own distribution, unfiltered
    scores: list[float] = dataclasses.field(default_factory=list)  # what the filters made of each chosen id's logit
    top_logprobs: list[list[tuple[int, float]]] = dataclasses.field(default_factory=list)  # as logprobs, the best first
    sequence_score: float | None = None  # beam search: the sum of scores over length ** length_penalty
    drafted: int = 0  # speculation: tokens proposed,
    accepted: int = 0  # how many of them the model took,
    passes: int = 0  # and in how many calls of the model; without speculation, a call makes a token

    def add(self, choice: GeneratedToken) -> None:
        self.ids.append(choice.id)
        self.logprobs.append(choice.logprob)
        self.scores.append(choice.score)
        if choice.top:
            self.top_logprobs.append(choice.top)
        self.finish_reason = choice.finish_reason or self.finish_reason


class GeneratedToken(NamedTuple):
    """One row's next token. `finish_reason` is None while the row goes on."""

    id: int
    logprob: float
    finish_reason: str | None
    score: float = 0.0
    top: list[tuple[int, float]] = []
