"""The results of generation: one token, one answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class GeneratedToken(NamedTuple):
    """The next token of one row. `finish_reason` is None unless this token ends the answer."""

    id: int
    logprob: float
    finish_reason: str | None
    score: float = 0.0
    top: list[tuple[int, float]] = []


@dataclass
class Generation:
    """One answer: its new ids (with an EOS at the end), the reason for its end, and the probability of each id."""

    ids: list[int] = field(default_factory=list)
    finish_reason: str = "length"  # "eos", "stop", "loop", "criterion", "time" or "length"
    logprobs: list[float] = field(default_factory=list)  # in nats, from the model's logits before any filter
    scores: list[float] = field(default_factory=list)  # the logit of each chosen id after all filters
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)  # (id, logprob), most probable first
    sequence_score: float | None = None  # beam search: the sum of scores over length ** length_penalty
    drafted: int = 0  # speculation: draft tokens proposed
    accepted: int = 0  # speculation: draft tokens accepted
    passes: int = 0  # speculation: calls of the model; without speculation, one call makes one token

    def add(self, token: GeneratedToken) -> None:
        """Append one token."""
        self.ids.append(token.id)
        self.logprobs.append(token.logprob)
        self.scores.append(token.score)
        if token.top:
            self.top_logprobs.append(token.top)
        self.finish_reason = token.finish_reason or self.finish_reason
