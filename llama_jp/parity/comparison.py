"""The outcome of a comparison: verdict, differences of the logits, findings, tolerance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..numerics import Difference, json_values
from .judge.findings import Finding
from .judge.rows import Prediction, Row
from .run.models import ModelDescription


@dataclass
class Tolerance:
    """The differences of the logits that still pass: ULPs, and KL divergence in nats. None: no tolerance."""

    max_ulp: int | None = None
    max_kl: float | None = None

    def allows(self, logits: Difference | None, prediction: Prediction | None) -> bool:
        if logits is None or prediction is None or (self.max_ulp is None and self.max_kl is None):
            return False
        within_ulp = self.max_ulp is None or logits.max_ulp <= self.max_ulp
        return within_ulp and (self.max_kl is None or prediction.kl <= self.max_kl)


@dataclass
class Comparison:
    """The outcome of one mode.

    The verdict is one of these:

    equal                   bit-identical
    rounding                different, and every operation is right
    expected                an operation named in `expect` differs, and every other operation is right
    documented difference   two tokenizers have different known segmentations of special tokens, and no other difference
    bug                     an operation is wrong
    non-finite              an operation or the embedding has NaN or infinite numbers, in one model or in both
    unknown                 different, without the means to judge it
    """

    mode: str
    verdict: str
    models: tuple[ModelDescription, ModelDescription]
    logits: Difference | None = None  # None: they have different shapes, or the mode compares no logits
    prediction: Prediction | None = None
    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    tolerance: Tolerance = field(default_factory=Tolerance)
    unmet: list[str] = field(default_factory=list)  # patterns of `expect` whose operations do not differ
    notes: list[str] = field(default_factory=list)
    sha256: list[str] | None = None  # of the results of both models
    details: dict[str, Any] = field(default_factory=dict)  # results of one mode only, for JSON

    @property
    def passed(self) -> bool:
        """Whether the models are equal, or differ as expected, as documented, or within the tolerance."""
        if self.unmet or self.verdict in ("bug", "non-finite"):
            return False
        if self.verdict in ("equal", "documented difference"):
            return True
        without_tolerance = self.tolerance == Tolerance()
        return (self.verdict == "expected" and without_tolerance) or self.tolerance.allows(self.logits, self.prediction)

    @property
    def divergence(self) -> Finding | None:
        """The first operation whose result differs."""
        return next((each for each in self.findings if each.verdict != "non-finite"), None)

    @property
    def bug(self) -> Finding | None:
        """The first operation with a bug."""
        return next((each for each in self.findings if each.verdict == "bug"), None)

    @property
    def non_finite(self) -> Finding | None:
        """The first operation with NaN or infinite numbers, or the embedding."""
        return next((each for each in self.findings if each.verdict == "non-finite"), None)

    def as_dict(self) -> dict[str, Any]:
        """The outcome as values for JSON."""
        bug, divergence, non_finite = self.bug, self.divergence, self.non_finite
        values = {
            "mode": self.mode,
            "verdict": self.verdict,
            "passed": self.passed,
            "first": self.models[0].as_dict(),
            "second": self.models[1].as_dict(),
            "logits": None if self.logits is None else self.logits.as_dict(),
            "next_token": None if self.prediction is None else asdict(self.prediction),
            "first_divergence": None if divergence is None else divergence.as_dict(),
            "bug": None if bug is None else bug.as_dict(),
            "other_bugs": [each.operation for each in self.findings if each.verdict == "bug" and each is not bug],
            "non_finite": None if non_finite is None else non_finite.as_dict(),
            "expected": list(dict.fromkeys(each.operation for each in self.findings if each.verdict == "expected")),
            "unmet_expectations": self.unmet,
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
        }
        if self.sha256 is not None:
            values["sha256"] = self.sha256
        return cast("dict[str, Any]", json_values(values | self.details))


def sha256_of(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the bytes of tensors, as hexadecimal digits."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
