"""Why two runs differ: where it begins, and whether it is a mistake or the last digit.

Every operation whose result differs is judged on both sides, each from its own inputs: how far is it from float64, and
is that more than rounding explains? An operation is a *bug* when it is, when the sides' weights are not the same
numbers, or when a known mistake gives the side's result to the bit and the right formula does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import LlamaConfig
from ..operations import DESCRIPTIONS, Operation
from ..run.recording import CACHE_POINTS, Call
from .formulas import Both, Judged, Site, flat, heads_of, judge, norm, turn, where_to_look
from .mistakes import mistakes, right
from .rows import Row, by_token
from .weights import differing_parameters, weight_cause

T = TypeVar("T")

JUDGED_WHOLE = ("embedding", "rope", "cache")  # the other operations on a sample of their tokens
REPLAYED_WHOLE = 1 << 18  # larger results are replayed on a sample, too
BITWISE = ("embedding", "rope", "norm", "rotate", "softmax", "mlp_act", "residual", "attention")
TOGETHER = ("norm", "linear", "rotate", "residual", "mlp_act", "same")  # their formulas take both sides as one batch
CAUSES_FOR = 3  # bugs whose cause is looked for; the rest usually follow from the same mistake


@dataclass
class Finding:
    """What was found out about one operation in one call."""

    operation: str
    kind: str
    layer: int | None
    call: int
    verdict: str  # "bug" | "rounding" | "unknown"
    side: str | None = None  # which side a bug is on
    cause: str | None = None
    excess: dict[str, float] | None = None  # distance from float64 in units of what rounding explains, per side
    distance: dict[str, float] | None = None  # mean relative distance from float64, per side: of the first, and of bugs
    token: tuple[int, int] | None = None  # the first that differs: row, index in the call

    @property
    def nearer(self) -> str | None:
        """The side that is nearer to float64."""
        if not self.distance or len(set(self.distance.values())) < 2:
            return None
        return min(self.distance, key=self.distance.get)

    def as_dict(self) -> dict:
        return asdict(self) | {"description": DESCRIPTIONS[self.kind], "nearer": self.nearer}


@dataclass
class Pair:
    """Both sides' calls, weights and names, as the arbiter needs them."""

    names: tuple[str, str]
    calls: tuple[list[Call], list[Call]]
    weights: tuple[dict[str, Tensor], dict[str, Tensor]]
    config: LlamaConfig
    same_dtype: bool

    def weights_of(self, op: Operation, side: int) -> dict[str, Tensor]:
        """A side's weights; those of the other where this one has something without weights in a module's place."""
        return self.weights[side if f"{op.weight}.weight" in self.weights[side] else 1 - side]


def explain(pair: Pair, rows: list[Row], operations: list[Operation]) -> list[Finding]:
    """One finding for every operation that differs, in the order of computation."""
    order = {op.name: i for i, op in enumerate(operations)}
    for side in (0, 1):
        past: dict[str, Tensor] = {}
        for call in pair.calls[side]:
            call.past = past | call.past
            make_missing(pair, side, call, operations)
            past = {name: x for name, x in call.reconstructed.items() if name.endswith(CACHE_POINTS)}
    rows = [row for row in with_lonely(pair, rows, operations) if differs(pair, row)]
    chosen = worth_judging(rows)
    known: dict[str, str | None] = {}  # weights that have been compared
    findings: list[Finding] = []

    def judge_rows(some: list[Row]) -> None:
        for row in some:
            bugs = sum(each.verdict == "bug" for each in findings)
            if (finding := judge_row(pair, row, known, not findings, bugs < CAUSES_FOR)) is not None:
                findings.append(finding)

    judge_rows(chosen)
    wrong = {each.operation for each in findings if each.verdict == "bug"}
    skipped = [row for row in rows if row.operation.name in wrong and row not in chosen]
    judge_rows(skipped)  # where did it begin?
    findings += layers_run_otherwise(pair, operations)
    return sorted(findings, key=lambda each: (each.call, order[each.operation]))


def differs(pair: Pair, row: Row) -> bool:
    return row.difference is None or not row.difference.equal or not pair.same_dtype or two_dtypes(pair, row)


def two_dtypes(pair: Pair, row: Row) -> bool:
    """Do sides that otherwise compute in one dtype have two at this point?"""
    name = row.operation.name
    dtypes = {calls[row.call].points[name].dtype for calls in pair.calls if name in calls[row.call].points}
    return pair.same_dtype and len(dtypes) > 1


def worth_judging(rows: list[Row]) -> list[Row]:
    """Of each operation's calls: the first two, the last, and those where the sides are farthest apart."""
    calls: dict[str, list[Row]] = {}
    for row in rows:
        calls.setdefault(row.operation.name, []).append(row)
    chosen = set()
    for each in calls.values():
        worst = sorted(each, key=lambda row: math.inf if row.apart is None else -float(row.apart.max()))[:3]
        chosen |= {id(row) for row in (*each[:2], *worst, each[-1])}
    return [row for row in rows if id(row) in chosen]


def make_missing(pair: Pair, side: int, call: Call, operations: list[Operation]) -> None:
    """Compute what a side did not show (or did not run) from what it did, so that what follows can be judged."""
    if not call.points.keys() - {"logits"}:
        return
    for op in operations:
        if op.name in call.points or op.kind not in MADE:
            continue
        if all(name in call.points or name in call.reconstructed for name in op.inputs):
            site = Site(op, call, pair.config, pair.weights_of(op, side))
            if op.weight is None or site.parameter() is not None:
                call.reconstructed[op.name] = MADE[op.kind](site)


def remembered(site: Site) -> Tensor:
    new = site.inputs[0]
    new = new if new.dim() == 4 else heads_of(new, site.config.head_dim)
    return new if site.past is None else torch.cat((site.past, new), 2)


MADE = {
    "norm": lambda site: norm(site.inputs[0], site.parameter(), site.config.rms_norm_eps),
    "linear": lambda site: F.linear(flat(site.inputs[0]), site.parameter(), site.parameter("bias")),
    "residual": lambda site: site.inputs[0] + site.inputs[1],
    "mlp_act": lambda site: F.silu(site.inputs[0]) * site.inputs[1],
    "rotate": lambda site: turn(heads_of(site.inputs[0], site.config.head_dim), *site.rotation),
    "cache": remembered,
}


def with_lonely(pair: Pair, rows: list[Row], operations: list[Operation]) -> list[Row]:
    """The rows, and those of scores and probabilities that only one side has written down."""
    order = {op.name: i for i, op in enumerate(operations)}
    there = {(row.call, row.operation.name): row for row in rows}
    lonely = []
    for number, calls in enumerate(zip(*pair.calls, strict=True)):
        for op in operations:
            written = op.kind in ("scores", "softmax") and any(op.name in call.points for call in calls)
            if written and (number, op.name) not in there:
                mixed = there.get((number, f"{op.name.rpartition('.')[0]}.attn_output"))
                if mixed is None or mixed.difference is None or not mixed.difference.equal:
                    lonely.append(Row(number, op, None, None if mixed is None else mixed.apart))
    return sorted(rows + lonely, key=lambda row: (row.call, order[row.operation.name])) if lonely else rows


def judge_row(pair: Pair, row: Row, known: dict[str, str | None], first: bool, look_for_cause: bool) -> Finding | None:
    op = row.operation
    token = row.difference.token if row.difference is not None else None
    finding = Finding(op.name, op.kind, op.layer, row.call, "unknown", token=token)

    if op.weight is not None and (name := differing_weight(pair, row, known)) is not None:
        finding.verdict, finding.side = "bug", pair.names[0]
        finding.cause = weight_cause(name, *pair.weights)
        return finding
    if row.difference is None and op.kind not in ("scores", "softmax"):
        finding.verdict, finding.side = "bug", pair.names[0]
        finding.cause = shape_cause(pair, row)
        return finding
    sample = None if op.kind in JUDGED_WHOLE else where_to_look(row.apart, pair.calls[0][row.call])
    sites = [site for side in (0, 1) if (site := site_of(pair, row, side, sample)) is not None]
    if not sites:
        return finding if row.difference is not None and not row.difference.equal else None

    if not first and both_right(sites):
        finding.verdict = "rounding"
        return finding
    judged = {side: attempt(partial(judge, site)) for side, site in sites}
    if None in judged.values():
        finding.verdict, finding.side = "bug", next(pair.names[side] for side, each in judged.items() if each is None)
        finding.cause = shape_cause(pair, row)
        return finding
    finding.excess = {pair.names[side]: each.excess for side, each in judged.items()}
    finding.verdict = "rounding"
    # The worse side first; of two equally bad ones, the first is held against the reference.
    for side, site in sorted(sites, key=lambda pair: -judged[pair[0]].excess):
        beyond = judged[side].excess > 1
        exactly = None if beyond else bitwise_cause(site)
        if beyond or exactly:
            finding.verdict, finding.side = "bug", pair.names[side]
            finding.cause = exactly or (likely_cause(site, judged[side]) if look_for_cause else None)
            blame_what_was_not_run(finding, site)
            break
    if finding.verdict == "rounding" and two_dtypes(pair, row):
        dtypes = [str(calls[row.call].points[op.name].dtype).removeprefix("torch.") for calls in pair.calls]
        finding.verdict, finding.side = "bug", pair.names[0]
        finding.cause = f"kept in {dtypes[0]}, not in {dtypes[1]}"
    if first or finding.verdict == "bug":
        finding.distance = {pair.names[side]: each.distance for side, each in judged.items()}
    only_one_wrote_it = row.difference is None
    return None if only_one_wrote_it and finding.verdict == "rounding" else finding


def both_right(sites: list[tuple[int, Site]]) -> bool:
    """Is there nothing wrong on either side, as one look at both together finds?

    What the right formula gives to the bit needs no arbiter.
    """
    if len(sites) < 2 or sites[0][1].op.kind not in TOGETHER:
        return False
    a, b = (site for _, site in sites)
    made = any(name in site.call.reconstructed for site in (a, b) for name in a.op.inputs)
    shapes = {(site.out.shape, site.out.dtype, *(x.shape for x in site.inputs)) for site in (a, b)}
    if made or len(shapes) > 1 or (a.op.weight and a.parameter().dtype != b.parameter().dtype):
        return False
    both = Both(a.op, a.call, a.config, a.weights, a.beside, a.sample, (a, b))
    if a.op.kind in BITWISE:
        return any(bits_equal(both, should, both.out) for should in right(both))
    judged = attempt(partial(judge, both))
    return judged is not None and max(judged.excesses(2)) <= 1


def blame_what_was_not_run(finding: Finding, site: Site) -> None:
    """Where a side left an operation out and goes on without it, the mistake is there, not where it shows."""
    for name in site.op.inputs:
        if name in site.call.reconstructed and name in site.call.skipped and f"{name}.weight" in site.weights:
            why = f": {finding.cause}" if finding.cause else ""
            finding.cause = f"not run; {finding.operation} goes on without it{why}"
            finding.operation, finding.kind = name, "norm" if name.endswith("norm") else "linear"
            return


def differing_weight(pair: Pair, row: Row, known: dict[str, str | None]) -> str | None:
    op = row.operation
    if op.kind == "embedding":  # only the rows that were looked up
        return differing_parameters(op.weight, *pair.weights, pair.calls[0][row.call].ids.unique())
    if op.weight not in known:
        known[op.weight] = differing_parameters(op.weight, *pair.weights)
    return known[op.weight]


def site_of(pair: Pair, row: Row, side: int, sample: tuple[Tensor, Tensor] | None) -> tuple[int, Site] | None:
    """One side's operation, ready for the arbiter; None where its inputs or weights were not seen."""
    op, (call, beside) = row.operation, (pair.calls[at][row.call] for at in (side, 1 - side))
    weights = pair.weights_of(op, side)
    if op.name not in call.points or any(
        name not in call.points and name not in call.reconstructed for name in op.inputs
    ):
        return None
    if op.weight is not None and f"{op.weight}.weight" not in weights:
        return None
    return side, Site(op, call, pair.config, weights, beside, sample)


def bitwise_cause(site: Site) -> str | None:
    """The known mistake that gives this side's result to the bit, where the right formula does not."""
    if site.op.kind not in BITWISE:
        return None
    for part in (site, replayed(site)):  # most often some tokens are enough to say that it is right
        if any(bits_equal(part, should, part.out) for should in right(part)):
            return None
    site = part
    for text, wrong in mistakes(site):
        made = attempt(wrong)
        if made is not None and bits_equal(site, made, site.out):
            return text
    return None


def replayed(site: Site) -> Site:
    """The site as mistakes are replayed on it: whole, as sums of fewer rows may round otherwise, unless it is large and
    no mistake mixes up its tokens."""
    large = site.call.points[site.op.name].numel() > REPLAYED_WHOLE
    return site if large and site.op.kind in ("norm", "linear", "residual", "mlp_act", "attention") else site.whole()


def bits_equal(site: Site, x: Tensor, y: Tensor) -> bool:
    if x.shape[1:] != y.shape[1:] or x.dtype != y.dtype:
        return False
    x, y = torch.broadcast_tensors(by_token(x), by_token(y))
    keep = site.tokens
    return torch.equal(x, y) if keep.all() or len(x) != len(keep) else torch.equal(x[keep], y[keep])


def likely_cause(site: Site, judged: Judged) -> str | None:
    """The known mistake that comes nearest to this side's result: to the bit, or far nearer than the right formula."""
    site = replayed(site)
    judged = judge(site)
    far = apart(site, site.out, None, judged)
    best, found = far / 16, None
    for text, wrong in mistakes(site):
        made = attempt(wrong)
        if made is None or made.shape[1:] != site.out.shape[1:]:
            continue
        if bits_equal(site, made.to(site.out.dtype), site.out):
            return text
        near = apart(site, site.out, made, judged)
        if near < best:
            best, found = near, text
    return found or multiple(judged)


def multiple(judged: Judged) -> str | None:
    """Is a side's result the right one times some number?"""
    x, y = judged.out.double(), judged.exact
    known = x.isfinite() & y.isfinite() & (x.abs() < 1e4)  # scores have very low numbers where they are masked
    x, y = x[known], y[known]
    factor = float(x @ y) / (float(y @ y) or 1.0)
    if factor and float((x - factor * y).abs().mean()) < float((x - y).abs().mean()) / 16:
        return f"{factor:.4g} times what it should be"
    return None


def apart(site: Site, out: Tensor, made: Tensor | None, judged: Judged) -> float:
    """Mean distance of a side's result from a mistake's, or from the float64 one."""
    if made is None:
        x, y = judged.out.double(), judged.exact
    else:
        keep = site.tokens
        x, y = torch.broadcast_tensors(by_token(out).double(), by_token(made).double())
        if not keep.all() and len(x) == len(keep):
            x, y = x[keep], y[keep]
    shown = (x.isfinite() & y.isfinite()) & (x.abs() < 1e4) & (y.abs() < 1e4) if site.op.kind == "scores" else None
    distance = (x - y).abs() if shown is None else torch.where(shown, (x - y).abs(), ((x < -1e4) != (y < -1e4)) * 1e4)
    return float(torch.nan_to_num(distance, nan=1e9, posinf=1e9).mean())


def attempt(compute: Callable[[], T]) -> T | None:
    """A mistake's result, or a judgement; None where its shapes do not fit this model."""
    try:
        return compute()
    except (RuntimeError, ValueError, ZeroDivisionError, IndexError):
        return None


def shape_cause(pair: Pair, row: Row) -> str:
    points = [x for calls in pair.calls if (x := calls[row.call].points.get(row.operation.name)) is not None]
    shapes = [tuple(x.shape) for x in points]
    if len(shapes) == 1 or shapes[0] == shapes[1]:
        return f"its shape, {shapes[0]}, does not fit what it reads"
    if (
        row.operation.kind == "embedding"
        and shapes[0][1] == shapes[1][1] + 1
        and torch.equal(points[0][:, 1:], points[1])
    ):
        return "double BOS: the ids begin with one BOS more"
    return f"its shape is {shapes[0]}, not {shapes[1]}"


def layers_run_otherwise(pair: Pair, operations: list[Operation]) -> list[Finding]:
    """Layers that one side, which shows its layers, has not run, or more often than the other."""
    findings = []
    layers = [op for op in operations if op.layer is not None and op.name == f"layers.{op.layer}"]
    for side in (0, 1):
        here, there = pair.calls[side][0], pair.calls[1 - side][0]
        if not any(op.name in here.passes for op in layers):
            continue
        for op in layers:
            times, usual = here.passes.get(op.name, 0), there.passes.get(op.name, 0)
            if times > max(usual, 1) or (not times and usual):
                cause = f"layer {op.layer} was " + (f"run {times} times" if times else "not run")
                findings.append(Finding(op.name, op.kind, op.layer, 0, "bug", side=pair.names[side], cause=cause))
    return findings
