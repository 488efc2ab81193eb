"""Where two runs begin to differ, and whether the difference is a mistake or rounding.

Every operation whose result differs is judged for both models, each from its own inputs. Its distance from float64 is
compared with the largest distance that rounding explains. An operation is a *bug* in one of these cases:

- The distance is larger.
- The weights of the models are different numbers.
- A known mistake gives the result to the bit, and the right formula does not.
- All elements share a bias.
- The result is kept in a wrong dtype.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.config import dtype_name
from ...model import LlamaConfig
from ..operations import DESCRIPTIONS, Operation
from ..run.recording import CACHE_POINTS, Call
from .bias import bias_cause, has_bias
from .bounds import Judged
from .causes import attempt, bits_equal, bitwise_cause, has_right_bits, likely_cause
from .context import BothContexts, OperationContext, sample_of_call
from .registry import KINDS
from .rows import Row
from .weights import differing_parameters, weight_cause

CAUSES_FOR = 3  # bugs whose cause is searched for; most others follow from the same mistake


@dataclass
class Finding:
    """The judgement of one operation in one call."""

    operation: str
    kind: str
    layer: int | None
    call: int
    verdict: str  # "bug" | "rounding" | "expected" | "non-finite" | "unknown", as of a `Comparison`
    model: str | None = None  # the name of the model that has the bug
    cause: str | None = None
    excess: dict[str, float] | None = None  # per model: distance from float64 in units of its bound
    distance: dict[str, float] | None = None  # per model, of the first finding and of bugs: mean relative distance
    token: tuple[int, int] | None = None  # the first that differs: row, index in the call

    @property
    def nearer(self) -> str | None:
        """The name of the model that is nearer to float64."""
        if not self.distance or len(set(self.distance.values())) < 2:
            return None
        return min(self.distance, key=self.distance.__getitem__)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"description": DESCRIPTIONS[self.kind], "nearer": self.nearer}


@dataclass
class Recorded:
    """The names, recorded calls and weights of two models. The index of the first is 0, that of the second 1."""

    names: tuple[str, str]
    calls: tuple[list[Call], list[Call]]
    weights: tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass
class Pair(Recorded):
    """Two models that should follow one configuration."""

    config: LlamaConfig
    same_dtype: bool

    def weights_for(self, op: Operation, model: int) -> dict[str, Tensor]:
        """The weights of a model. Where it has no weight for the operation, those of the other."""
        return self.weights[model if f"{op.weight}.weight" in self.weights[model] else 1 - model]

    def recorded(self, row: Row) -> list[Tensor]:
        """The results of the models that recorded this operation."""
        name = row.operation.name
        return [calls[row.call].points[name] for calls in self.calls if name in calls[row.call].points]


def explain(pair: Pair, rows: list[Row], operations: list[Operation]) -> list[Finding]:
    """One finding for every operation that differs, in the order of computation."""
    order = {op.name: i for i, op in enumerate(operations)}
    reconstruct_missing(pair, operations)
    rows = [row for row in with_optional_rows(pair, rows, operations) if differs(pair, row)]
    chosen = rows_to_judge(rows)
    judge = Judge(pair)
    judge.judge_rows(chosen)
    wrong = {finding.operation for finding in judge.findings if finding.verdict == "bug"}
    # a wrong operation is judged in all calls, to find the one where the mistake begins
    judge.judge_rows([row for row in rows if row.operation.name in wrong and row not in chosen])
    findings = judge.findings + layers_run_differently(pair, operations)
    return sorted(findings, key=lambda finding: (finding.call, order[finding.operation]))


# What a model does not show


def reconstruct_missing(pair: Pair, operations: list[Operation]) -> None:
    """Compute the results that a model does not show (or skips), so that later operations can be judged."""
    for model in (0, 1):
        past: dict[str, Tensor] = {}
        for call in pair.calls[model]:
            call.past = past | call.past
            if call.points.keys() - {"logits"}:
                reconstruct_call(pair, model, call, operations)
            past = {name: x for name, x in call.reconstructed.items() if name.endswith(CACHE_POINTS)}


def reconstruct_call(pair: Pair, model: int, call: Call, operations: list[Operation]) -> None:
    for op in operations:
        kind = KINDS[op.kind]
        if op.name in call.points or not kind.reconstructed:
            continue
        if all(name in call.points or name in call.reconstructed for name in op.inputs):
            context = OperationContext(op, call, pair.config, pair.weights_for(op, model))
            if op.weight is None or context.has_weight:
                call.reconstructed[op.name] = next(kind.right_results(context))


def with_optional_rows(pair: Pair, rows: list[Row], operations: list[Operation]) -> list[Row]:
    """The rows, plus those of scores and probabilities that only one model computes."""
    order = {op.name: i for i, op in enumerate(operations)}
    compared = {(row.call, row.operation.name): row for row in rows}
    more = []
    for number, calls in enumerate(zip(*pair.calls, strict=True)):
        for op in operations:
            recorded = KINDS[op.kind].optional and any(op.name in call.points for call in calls)
            if recorded and (number, op.name) not in compared:
                attention = compared.get((number, f"{op.name.rpartition('.')[0]}.attn_output"))
                if attention is None:
                    more.append(Row(number, op, None))
                elif attention.difference is None or not attention.difference.equal:
                    more.append(Row(number, op, None, attention.distance))
    return sorted(rows + more, key=lambda row: (row.call, order[row.operation.name])) if more else rows


def layers_run_differently(pair: Pair, operations: list[Operation]) -> list[Finding]:
    """Layers that one model skips, or runs more often than the other. Its layers have to be recorded."""
    findings = []
    layers = [op for op in operations if op.layer is not None and op.name == f"layers.{op.layer}"]
    for model in (0, 1):
        call, other_call = pair.calls[model][0], pair.calls[1 - model][0]
        if not any(op.name in call.passes for op in layers):
            continue
        for op in layers:
            times, expected = call.passes.get(op.name, 0), other_call.passes.get(op.name, 0)
            if times > max(expected, 1) or (not times and expected):
                cause = f"layer {op.layer} was " + (f"run {times} times" if times else "not run")
                findings.append(Finding(op.name, op.kind, op.layer, 0, "bug", model=pair.names[model], cause=cause))
    return findings


# Which rows are judged


def differs(pair: Pair, row: Row) -> bool:
    return row.difference is None or not row.difference.equal or not pair.same_dtype or has_two_dtypes(pair, row)


def has_two_dtypes(pair: Pair, row: Row) -> bool:
    """Whether models with one dtype have two dtypes at this point."""
    return pair.same_dtype and len({x.dtype for x in pair.recorded(row)}) > 1


def model_with_wrong_dtype(pair: Pair, row: Row) -> int | None:
    """The model whose result is kept in a wrong dtype. A right result that was only cast to a wider one is not."""
    if not has_two_dtypes(pair, row):
        return None
    results = pair.recorded(row)
    narrow, wide = sorted((0, 1), key=lambda model: results[model].dtype.itemsize)
    if (narrowest := KINDS[row.operation.kind].narrowest_dtype) is not None:
        return narrow if results[narrow].dtype.itemsize < narrowest.itemsize else None
    rounded = results[wide].to(results[narrow].dtype).to(results[wide].dtype)
    return None if torch.equal(results[wide].nan_to_num(), rounded.nan_to_num()) else 0


def rows_to_judge(rows: list[Row]) -> list[Row]:
    """Of each operation's calls: the first two, the last, and the three where the models differ most."""
    calls: dict[str, list[Row]] = {}
    for row in rows:
        calls.setdefault(row.operation.name, []).append(row)
    chosen = set()
    for of_operation in calls.values():
        worst = sorted(of_operation, key=lambda row: math.inf if row.distance is None else -float(row.distance.max()))
        chosen |= {id(row) for row in (*of_operation[:2], *worst[:3], of_operation[-1])}
    return [row for row in rows if id(row) in chosen]


# The judgement of a row


class Judge:
    """Judges the rows of a pair, one after the other. The first finding and the first bugs get more details."""

    def __init__(self, pair: Pair):
        self.pair = pair
        self.findings: list[Finding] = []
        self.differing: dict[str, str | None] = {}  # module -> its first parameter that differs

    def judge_rows(self, rows: list[Row]) -> None:
        for row in rows:
            if (finding := self.judge_row(row)) is not None:
                self.findings.append(finding)

    def judge_row(self, row: Row) -> Finding | None:
        """The finding for one row, or None where there is nothing to report."""
        if (name := self.differing_parameter(row)) is not None:
            return self.bug_of_first(row, weight_cause(name, *self.pair.weights))
        if row.difference is None and not KINDS[row.operation.kind].optional:
            return self.bug_of_first(row, shape_cause(self.pair, row))
        contexts = contexts_of(self.pair, row)
        if not contexts:  # nothing to judge by
            unequal = row.difference is not None and not row.difference.equal
            return new_finding(row, "unknown") if unequal else None
        if self.findings and both_right(contexts):
            return new_finding(row, "rounding")
        return self.judge_contexts(row, contexts)

    def judge_contexts(self, row: Row, contexts: dict[int, OperationContext]) -> Finding | None:
        """Compare the results of the models with float64 and with the known mistakes."""
        names, kind = self.pair.names, KINDS[row.operation.kind]
        finding = new_finding(row, "rounding")
        judged: dict[int, Judged] = {}
        for model, context in contexts.items():
            result = attempt(partial(kind.judge, context))
            if result is None:
                finding.verdict, finding.model, finding.cause = "bug", names[model], shape_cause(self.pair, row)
                return finding
            judged[model] = result
        finding.excess = {names[model]: result.excess for model, result in judged.items()}
        # the worse model first; of two equally bad ones the first, since the second is the reference
        for model in sorted(judged, key=lambda model: -judged[model].excess):
            if self.find_bug(finding, contexts[model], judged[model]):
                finding.model = names[model]
                break
        if finding.verdict == "rounding" and (wrong := model_with_wrong_dtype(self.pair, row)) is not None:
            here, other = (dtype_name(self.pair.recorded(row)[model].dtype) for model in (wrong, 1 - wrong))
            finding.verdict, finding.model, finding.cause = "bug", names[wrong], f"kept in {here}, not in {other}"
        if not self.findings or finding.verdict == "bug":
            finding.distance = {names[model]: result.distance for model, result in judged.items()}
        only_in_one = row.difference is None
        return None if only_in_one and finding.verdict == "rounding" else finding

    def find_bug(self, finding: Finding, context: OperationContext, judged: Judged) -> bool:
        """Whether the result of one model is wrong. The finding then has the verdict and the cause."""
        if judged.excess > 1:
            bugs = sum(each.verdict == "bug" for each in self.findings)
            cause = likely_cause(context) or bias_cause(context, judged) if bugs < CAUSES_FOR else None
        elif has_right_bits(context) or (cause := bitwise_cause(context) or bias_cause(context, judged)) is None:
            return False
        finding.verdict, finding.cause = "bug", cause
        blame_skipped_input(finding, context)
        return True

    def bug_of_first(self, row: Row, cause: str) -> Finding:
        """A bug that only the comparison shows. The second model is the reference, so the first has the bug."""
        finding = new_finding(row, "bug")
        finding.model, finding.cause = self.pair.names[0], cause
        return finding

    def differing_parameter(self, row: Row) -> str | None:
        """The first parameter of the operation's module with different numbers in the models."""
        module = row.operation.weight
        if module is None:
            return None
        if row.operation.kind == "embedding":  # compare only the rows for the ids of this call
            return differing_parameters(module, *self.pair.weights, self.pair.calls[0][row.call].ids.unique())
        if module not in self.differing:
            self.differing[module] = differing_parameters(module, *self.pair.weights)
        return self.differing[module]


def new_finding(row: Row, verdict: str) -> Finding:
    op, token = row.operation, None if row.difference is None else row.difference.token
    return Finding(op.name, op.kind, op.layer, row.call, verdict, token=token)


def contexts_of(pair: Pair, row: Row) -> dict[int, OperationContext]:
    """The contexts of the models that can be judged."""
    sample = None
    if KINDS[row.operation.kind].sampled:
        sample = sample_of_call(row.distance, pair.calls[0][row.call])
    contexts = {model: operation_context(pair, row, model, sample) for model in (0, 1)}
    return {model: context for model, context in contexts.items() if context is not None}


def operation_context(
    pair: Pair, row: Row, model: int, sample: tuple[Tensor, Tensor] | None
) -> OperationContext | None:
    """The context of one model, or None where its result, an input or a weight is missing."""
    op, call, other_call = row.operation, pair.calls[model][row.call], pair.calls[1 - model][row.call]
    if op.name not in call.points or any(
        name not in call.points and name not in call.reconstructed for name in op.inputs
    ):
        return None
    context = OperationContext(op, call, pair.config, pair.weights_for(op, model), other_call, sample)
    return context if op.weight is None or context.has_weight else None


def both_right(contexts: dict[int, OperationContext]) -> bool:
    """Whether both results are right, judged as one batch. A result with the bits of the formula needs no float64."""
    if len(contexts) < 2:
        return False
    first, second = contexts.values()
    kind = KINDS[first.operation.kind]
    if not kind.in_one_batch or first.has_reconstructed_input or second.has_reconstructed_input:
        return False
    if first.input_rounding != second.input_rounding:  # two formulas
        return False
    shapes = {(each.out.shape, each.out.dtype, *(x.shape for x in each.inputs)) for each in (first, second)}
    if len(shapes) > 1 or (first.has_weight and first.weight.dtype != second.weight.dtype):
        return False
    both = BothContexts.join(first, second)
    if kind.bitwise:
        return any(bits_equal(both, result, both.out) for result in kind.right_results(both))
    judged = attempt(partial(kind.judge, both))
    if judged is None or max(judged.excesses(2)) > 1:
        return False
    return not any(map(has_bias, judged.out.chunk(2), judged.exact.chunk(2)))


def blame_skipped_input(finding: Finding, context: OperationContext) -> None:
    """Move a finding to an operation that the model skips. The mistake is there, not where the result differs."""
    for name in context.operation.inputs:
        if name in context.call.reconstructed and name in context.call.skipped and f"{name}.weight" in context.weights:
            why = f": {finding.cause}" if finding.cause else ""
            finding.cause = f"not run; {finding.operation} continues without it{why}"
            finding.operation, finding.kind = name, "norm" if name.endswith("norm") else "linear"
            return


def shape_cause(pair: Pair, row: Row) -> str:
    """The cause of a result with a wrong shape, in words."""
    results = pair.recorded(row)
    shapes = [tuple(x.shape) for x in results]
    if len(shapes) == 1 or shapes[0] == shapes[1]:
        return f"its shape, {shapes[0]}, does not fit its inputs"
    one_token_more = shapes[0][1] == shapes[1][1] + 1
    if row.operation.kind == "embedding" and one_token_more and torch.equal(results[0][:, 1:], results[1]):
        return "double BOS: the ids begin with one BOS more"
    return f"its shape is {shapes[0]}, not {shapes[1]}"
