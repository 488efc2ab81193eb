"""Run one side and write down what passes every point: a plan of calls in, one `Call` each out."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...model import positions_and_mask
from ...tracing import Activations, point_names, trace
from ..operations import Operation
from .models import Subject


class Step(NamedTuple):
    """One call that both sides are asked for: new ids, and a mask over all ids so far where rows are ragged."""

    ids: Tensor  # (B, T)
    mask: Tensor | None = None  # (B, S)


@dataclass
class Call:
    """What one side did in one call."""

    ids: Tensor  # (B, T)
    mask: Tensor | None  # (B, S)
    length: int  # S: tokens seen, this call's included
    logits: Tensor  # (B, T, V)
    points: dict[str, Tensor] = field(default_factory=dict)
    past: dict[str, Tensor] = field(default_factory=dict)  # keys and values that the side had before this call
    skipped: set[str] = field(default_factory=set)  # points that the side has, but did not pass in this call
    passes: dict[str, int] = field(default_factory=dict)  # how often each point was passed; `points` has the first time
    made: dict[str, Tensor] = field(default_factory=dict)  # what was not seen, computed from what was

    @property
    def positions(self) -> Tensor:
        return positions_and_mask(self.mask, self.ids.shape[1], self.length, self.ids.device)[0]

    @property
    def visible(self) -> Tensor:
        """Which keys each query should see, (B or 1, 1, T, S)."""
        T, S = self.ids.shape[1], self.length
        visible = positions_and_mask(self.mask, T, S, self.ids.device)[1]
        return torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None] if visible is None else visible

    @property
    def tokens(self) -> Tensor:
        """Which positions hold tokens, not padding, (B, T)."""
        T = self.ids.shape[1]
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask[:, -T:].bool()


MODES = ("whole", "steps", "chunks", "ragged")


def plan(mode: str, ids: Tensor, seed: int = 0) -> list[Step]:
    """How a mode cuts ids (B, T) into calls.

    whole     one call
    steps     half the text, then one token at a time
    chunks    pieces of random lengths
    ragged    rows of different lengths, padded on the left, in one call and two single steps
    """
    T = ids.shape[1]
    if mode == "whole":
        return [Step(ids)]
    draw = random.Random(seed)
    if mode == "steps":
        borders = [0, max(1, T // 2), *range(max(1, T // 2) + 1, T + 1)]
    elif mode == "chunks":
        borders = sorted({0, T, *(draw.randrange(1, T) for _ in range(3) if T > 1)})
    elif mode == "ragged":
        mask = torch.ones_like(ids)
        for row in range(1, len(ids)):
            mask[row, : draw.randrange(1, max(2, T // 2))] = 0
        borders = [0, *range(max(1, T - 2), T + 1)]
        return [Step(ids[:, a:b], mask[:, :b]) for a, b in pairwise(borders)]
    else:
        raise ValueError(f"mode is one of {', '.join(MODES)}, not {mode!r}")
    return [Step(ids[:, a:b]) for a, b in pairwise(borders)]


@torch.no_grad()
def record(subject: Subject, steps: list[Step], wanted: list[Operation]) -> list[Call]:
    """Run the plan on one side, rows together or in groups as its settings ask, and record the wanted points."""
    rows = len(steps[0].ids)
    group = subject.settings.rows or rows
    with threads(subject.settings.threads):
        parts = [
            record_rows(subject, [cut(step, slice(at, at + group)) for step in steps], wanted)
            for at in range(0, rows, group)
        ]
    return parts[0] if len(parts) == 1 else [join(calls) for calls in zip(*parts, strict=True)]


def record_rows(subject: Subject, steps: list[Step], wanted: list[Operation]) -> list[Call]:
    rows, length = len(steps[0].ids), sum(step.ids.shape[1] for step in steps)
    one_call = len(steps) == 1
    run = subject.whole if one_call else subject.begin(rows, length)
    # without a cache each call runs the whole text, whose points are not those of the new tokens
    hidden = subject.compiled or not (one_call or subject.has_cache)
    asked = [] if hidden else names_in(subject.model, wanted)
    calls: list[Call] = []
    seen = 0
    for step in steps:
        seen += step.ids.shape[1]
        # scores that attention does not write down are left out
        with trace(subject.model, asked, compute_scores=False) if asked else nullcontext(Activations()) as found:
            logits = run(step.ids, step.mask)
        points = {name: found.calls(name)[0] for name in found} | {"logits": logits}
        passes = {name: len(found.calls(name)) for name in found}
        past = {name: x for name, x in calls[-1].points.items() if name.endswith(KEPT)} if calls else {}
        calls.append(Call(step.ids, step.mask, seen, logits, points, past, set(asked) - points.keys(), passes))
    return calls


def names_in(model: nn.Module | None, wanted: list[Operation]) -> list[str]:
    """Which of the wanted points a model has."""
    known = set() if model is None else set(point_names(model))
    return [op.name for op in wanted if op.name in known]


KEPT = (".keys", ".values")


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cut(step: Step, rows: slice) -> Step:
    return Step(step.ids[rows], None if step.mask is None else step.mask[rows])


def join(parts: tuple[Call, ...]) -> Call:
    """Calls of groups of rows as one call of them all."""
    first = parts[0]
    rows = [len(part.ids) for part in parts]

    def together(tensors: list[Tensor]) -> Tensor:
        grown = [x.expand(n, *x.shape[1:]) if len(x) == 1 else x for x, n in zip(tensors, rows, strict=True)]
        return torch.cat(grown)

    def all_points(which: str) -> dict[str, Tensor]:
        return {name: together([getattr(part, which)[name] for part in parts]) for name in getattr(first, which)}

    return Call(
        torch.cat([part.ids for part in parts]),
        None if first.mask is None else torch.cat([part.mask for part in parts]),
        first.length,
        together([part.logits for part in parts]),
        all_points("points"),
        all_points("past"),
        first.skipped,
        first.passes,
    )
