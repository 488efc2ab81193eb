"""Run one model and record its activations: planned calls in, one `Call` for each out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...model import positions_and_mask
from ...tracing import Activations, point_names, trace
from ..llamacpp.model import LlamaCppSession
from ..llamacpp.rounding import InputRounding
from ..operations import Operation
from .models import ComparedModel, check_logits

FORWARD_MODES = ("whole", "steps", "chunks", "ragged")
CACHE_POINTS = (".keys", ".values")  # the points that hold all visible tokens


class PlannedCall(NamedTuple):
    """The arguments of one call, the same for both models. The mask covers all ids so far; None: no padding."""

    ids: Tensor  # (B, T)
    mask: Tensor | None = None  # (B, S)


@dataclass
class Call:
    """The record of one call of one model."""

    ids: Tensor  # (B, T)
    mask: Tensor | None  # (B, S)
    length: int  # S, the tokens of this call included
    logits: Tensor  # (B, T, V)
    points: dict[str, Tensor] = field(default_factory=dict)  # the first activation of each point
    past: dict[str, Tensor] = field(default_factory=dict)  # keys and values before this call
    skipped: set[str] = field(default_factory=set)  # points that the model has and did not compute in this call
    passes: dict[str, int] = field(default_factory=dict)  # how often each point was computed
    reconstructed: dict[str, Tensor] = field(default_factory=dict)  # unrecorded points, computed from recorded ones
    input_rounding: dict[str, InputRounding] = field(default_factory=dict)  # of operations that round their inputs

    @property
    def positions(self) -> Tensor:
        """Position ids, (B or 1, T)."""
        return positions_and_mask(self.mask, self.ids.shape[1], self.length, self.ids.device)[0]

    @property
    def visible(self) -> Tensor:
        """The attention mask, True where a query sees a key, (B or 1, 1, T, S)."""
        T, S = self.ids.shape[1], self.length
        visible = positions_and_mask(self.mask, T, S, self.ids.device)[1]
        return torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None] if visible is None else visible

    @property
    def tokens(self) -> Tensor:
        """True for tokens, False for padding, (B, T)."""
        T = self.ids.shape[1]
        return torch.ones_like(self.ids, dtype=torch.bool) if self.mask is None else self.mask[:, -T:].bool()


def plan_calls(mode: str, ids: Tensor, seed: int = 0) -> list[PlannedCall]:
    """Divide ids (B, T) into calls.

    whole     one call
    steps     prefill of the first half, then one token at a time
    chunks    chunks of random lengths
    ragged    rows of different lengths with left padding: prefill, then two decoding steps

    Raises ValueError for another mode.
    """
    T = ids.shape[1]
    generator = random.Random(seed)
    mask = None
    if mode == "whole":
        borders = [0, T]
    elif mode == "steps":
        borders = [0, max(1, T // 2), *range(max(1, T // 2) + 1, T + 1)]
    elif mode == "chunks":
        borders = sorted({0, T, *(generator.randrange(1, T) for _ in range(3) if T > 1)})
    elif mode == "ragged":
        mask = torch.ones_like(ids)
        for row in range(1, len(ids)):
            mask[row, : generator.randrange(1, max(2, T // 2))] = 0
        borders = [0, *range(max(1, T - 2), T + 1)]
    else:
        raise ValueError(f"mode is one of {', '.join(FORWARD_MODES)}, not {mode!r}")
    return [PlannedCall(ids[:, start:end], None if mask is None else mask[:, :end]) for start, end in pairwise(borders)]


@torch.no_grad()
def record(model: ComparedModel, plan: list[PlannedCall], wanted: list[Operation]) -> list[Call]:
    """Run the planned calls and record the points of the wanted operations, in groups of `settings.rows` rows."""
    rows = len(plan[0].ids)
    group = model.settings.rows or rows
    with torch_threads(model.settings.threads):
        parts = [
            record_rows(model, [select_rows(call, slice(start, start + group)) for call in plan], wanted)
            for start in range(0, rows, group)
        ]
    if len(parts) == 1:
        return parts[0]
    return [join_rows([part[number] for part in parts]) for number in range(len(plan))]


def record_rows(model: ComparedModel, plan: list[PlannedCall], wanted: list[Operation]) -> list[Call]:
    """`record` for rows that run together."""
    rows, length = len(plan[0].ids), sum(call.ids.shape[1] for call in plan)
    one_call = len(plan) == 1
    run = model.run_whole if one_call and model.file is None else model.start_session(rows, length)
    names: list[str] = []
    # without a KV cache each call runs the whole text, and its points belong to other tokens than the new ones
    if model.module is not None and not model.is_compiled and (one_call or model.has_cache):
        names = traceable_names(model.module, wanted)
    calls: list[Call] = []
    past: dict[str, Tensor] = {}
    length = 0
    for ids, mask in plan:
        length += ids.shape[1]
        with trace_points(model.module, names) as activations:
            logits = run(ids.clone(), mask)  # a model that works in place must not change the other model's ids
        check_logits(logits, ids, model.name)
        points = {name: activations.calls(name)[0] for name in activations} | {"logits": logits}
        passes = {name: len(activations.calls(name)) for name in activations}
        call = Call(ids, mask, length, logits, points, past, set(names) - points.keys(), passes)
        if isinstance(run, LlamaCppSession):
            call.points, call.input_rounding = run.points | points, run.model.input_rounding
            call.passes = dict.fromkeys(run.points, 1)
        calls.append(call)
        past = {name: x for name, x in call.points.items() if name.endswith(CACHE_POINTS)}
    return calls


def trace_points(module: nn.Module | None, names: list[str]) -> AbstractContextManager[Activations]:
    """A trace of the points that the model computes itself: of fused attention no scores and no probabilities."""
    return trace(module, names, compute_scores=False) if module is not None and names else nullcontext(Activations())


def traceable_names(module: nn.Module, wanted: list[Operation]) -> list[str]:
    """The names of the wanted operations that are points of a module."""
    known = set(point_names(module))
    return [op.name for op in wanted if op.name in known]


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Use this number of CPU threads inside the `with` block. None: no change."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def select_rows(call: PlannedCall, rows: slice) -> PlannedCall:
    return PlannedCall(call.ids[rows], None if call.mask is None else call.mask[rows])


def join_rows(parts: Sequence[Call]) -> Call:
    """The calls of several groups of rows as one call of all rows."""
    first = parts[0]
    masks = [part.mask for part in parts if part.mask is not None]

    def join(tensors: Sequence[Tensor]) -> Tensor:
        grown = []
        for x, part in zip(tensors, parts, strict=True):
            grown.append(x.expand(len(part.ids), *x.shape[1:]) if len(x) == 1 else x)  # the rotation has one row
        return torch.cat(grown)

    return Call(
        torch.cat([part.ids for part in parts]),
        torch.cat(masks) if masks else None,
        first.length,
        join([part.logits for part in parts]),
        {name: join([part.points[name] for part in parts]) for name in first.points},
        {name: join([part.past[name] for part in parts]) for name in first.past},
        first.skipped,
        first.passes,
        input_rounding=first.input_rounding,
    )
