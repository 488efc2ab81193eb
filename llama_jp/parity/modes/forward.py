"""One comparison, from two subjects to a verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from ...model import LlamaConfig
from ...numerics import Difference, cosine, difference
from ..judge.findings import Finding, Pair, explain
from ..judge.float64_reference import distance, exact_model, exceeds_peer, exceeds_rounding
from ..judge.rows import Prediction, Row, compare_calls, predictions
from ..operations import operations
from ..run.models import Subject, as_subject
from ..run.recording import Call, plan, record


@dataclass
class Tolerance:
    """How different logits may be and still pass. None: not at all."""

    max_ulp: int | None = None
    max_kl: float | None = None

    def allows(self, logits: Difference | None, prediction: Prediction | None) -> bool:
        if logits is None or prediction is None or (self.max_ulp is None and self.max_kl is None):
            return False
        within_ulp = self.max_ulp is None or logits.max_ulp <= self.max_ulp
        return within_ulp and (self.max_kl is None or prediction.kl <= self.max_kl)


@dataclass
class Comparison:
    """The outcome of one mode. `verdict`: equal, rounding, bug, or unknown (different, and nothing to judge by)."""

    mode: str
    verdict: str
    sides: tuple[dict, dict]
    logits: Difference | None = None  # None: not of the same shape
    prediction: Prediction | None = None
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tolerance: Tolerance = field(default_factory=Tolerance)
    notes: list[str] = field(default_factory=list)
    details: dict = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Equal, or different within the tolerance that was asked for."""
        return self.verdict == "equal" or (
            self.verdict != "bug" and self.tolerance.allows(self.logits, self.prediction)
        )

    @property
    def divergence(self) -> Finding | None:
        """The first operation whose result differs."""
        return self.findings[0] if self.findings else None

    @property
    def bug(self) -> Finding | None:
        """The first operation that is wrong."""
        return next((each for each in self.findings if each.verdict == "bug"), None)

    def as_dict(self) -> dict:
        bug, divergence = self.bug, self.divergence
        return {
            "mode": self.mode,
            "verdict": self.verdict,
            "passed": self.passed,
            "first": self.sides[0],
            "second": self.sides[1],
            "logits": None if self.logits is None else self.logits.as_dict(),
            "next_token": None if self.prediction is None else asdict(self.prediction),
            "first_divergence": None if divergence is None else divergence.as_dict(),
            "bug": None if bug is None else bug.as_dict(),
            "other_bugs": [each.operation for each in self.findings if each.verdict == "bug" and each is not bug],
            "tolerance": asdict(self.tolerance),
            "points": [
                {
                    "call": row.call,
                    "operation": row.operation.name,
                    "max_ulp": None if row.difference is None else row.difference.max_ulp,
                    "differing": None if row.difference is None else row.difference.differing,
                }
                for row in self.rows
            ],
            "notes": self.notes,
            **self.details,
        }


def compare(
    first: object,
    second: object,
    ids: Tensor,
    mode: str = "whole",
    *,
    config: LlamaConfig | None = None,
    tolerance: Tolerance | None = None,
    seed: int = 0,
) -> Comparison:
    """Run two models on the same ids (B, T) and say where and why they differ. `second` is the reference.

    A side is a model, a callable, or a `Subject` with settings of its own. `config` is what both should follow; without
    it, the reference's. `mode` and `seed` say how the text is cut into calls: see `record.plan`.
    """
    first, second = name_apart(as_subject(first), as_subject(second))
    config = config or second.config or first.config
    steps = plan(mode, ids, seed)
    wanted = operations(config) if config is not None else []
    calls = record(first, steps, wanted), record(second, steps, wanted)
    same_dtype = all(a.logits.dtype == b.logits.dtype for a, b in zip(*calls, strict=True))

    rows = compare_calls(*calls, wanted)
    findings: list[Finding] = []
    if wanted:
        pair = Pair((first.name, second.name), calls, (first.parameters(), second.parameters()), config, same_dtype)
        findings = explain(pair, rows, wanted)
    fits = all(a.logits.shape == b.logits.shape for a, b in zip(*calls, strict=True))
    logits = difference_of_logits(*calls) if fits else None
    hidden = any(call.points.keys() == {"logits"} for side in calls for call in side)
    if fits and not logits.equal and hidden and config is not None:
        findings = judge_logits(first, second, calls, config)
    elif fits and not logits.equal and not any(each.verdict == "bug" for each in findings):
        findings += unseen_bug(first, second, calls, config) if wanted else []
    return Comparison(
        mode,
        verdict_of(logits, findings, same_dtype),
        (first.describe(), second.describe()),
        logits,
        predictions(*calls) if fits else None,
        rows,
        findings,
        tolerance or Tolerance(),
        details={"sha256": [digest([call.logits for call in side]) for side in calls]},
    )


def unseen_bug(
    first: Subject, second: Subject, calls: tuple[list[Call], list[Call]], config: LlamaConfig
) -> list[Finding]:
    """What was seen is clean; where a side does not show all of its attention, its logits must be right as well."""
    names = {op.name for op in operations(config) if op.kind in ("attention", "residual", "norm")}
    if all(names <= call.points.keys() for side in calls for call in side):
        return []
    return [each for each in judge_logits(first, second, calls, config) if each.verdict == "bug"]


def judge_logits(
    first: Subject, second: Subject, calls: tuple[list[Call], list[Call]], config: LlamaConfig
) -> list[Finding]:
    """A side that shows nothing but logits is held against the other side's weights in float64, end to end."""
    needed = {f"{op.weight}.weight" for op in operations(config) if op.weight}
    weights = next((known for side in (first, second) if needed <= (known := side.parameters()).keys()), None)
    if weights is None:
        return []
    ids, tokens = (torch.cat([getattr(call, what) for call in calls[0]], 1) for what in ("ids", "tokens"))
    with torch.no_grad():
        exact = exact_model(config, weights)(ids, mask=calls[0][-1].mask)
    logits = [torch.cat([call.logits for call in side], 1)[tokens] for side in calls]
    alike = logits[0].dtype == logits[1].dtype
    sides = list(zip((first.name, second.name), logits, strict=True))
    far = [distance(logits, exact[tokens]) for _, logits in sides]
    finding = Finding(
        "logits", "same", None, 0, "rounding", distance=dict(zip([n for n, _ in sides], far, strict=True))
    )
    for (name, logits), mine, other in zip(sides, far, far[::-1], strict=True):
        if (exceeds_peer if alike else exceeds_rounding)(mine, other, logits.dtype):
            finding.verdict, finding.model = "bug", name
    return [finding]


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def name_apart(first: Subject, second: Subject) -> tuple[Subject, Subject]:
    """Two sides of one name become that name's first and second."""
    if first.name == second.name:
        first.name, second.name = f"{first.name} (first)", f"{second.name} (second)"
    return first, second


def verdict_of(logits: Difference | None, findings: list[Finding], same_dtype: bool) -> str:
    verdicts = {each.verdict for each in findings}
    if "bug" in verdicts:
        return "bug"
    if logits is not None and logits.equal and same_dtype and not verdicts:
        return "equal"
    if logits is None:
        return "unknown"
    return (
        "rounding" if "rounding" in verdicts and "unknown" not in verdicts else "equal" if not verdicts else "unknown"
    )


def difference_of_logits(first: list, second: list) -> Difference:
    """All calls together, padding left out."""
    a, b = ([call.logits[call.tokens] for call in side] for side in (first, second))
    a, b = (side[0][None] if len(side) == 1 else torch.cat(side)[None] for side in (a, b))
    found = difference(a, b)
    found.cosine = 1.0 if found.equal else cosine(a, b)
    return found
