"""The modes `whole`, `steps`, `chunks` and `ragged`: compare the logits and every operation before them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...model import LlamaConfig
from ...numerics import Difference, cosine, difference
from ..comparison import Comparison, Tolerance, sha256_of
from ..judge.findings import Finding, Pair, explain
from ..judge.float64_reference import distance, exact_model, exceeds_peer, exceeds_rounding
from ..judge.rows import compare_calls, predictions
from ..operations import operations
from ..run.models import ComparedModel, as_compared_model, with_distinct_names
from ..run.recording import Call, plan_calls, record

Models = tuple[ComparedModel, ComparedModel]
Calls = tuple[list[Call], list[Call]]  # of both models


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
    """Run two models on the same ids, and find where and why their results differ. The second is the reference.

    Shapes: ids (B, T) int64.

    first, second  a model of this project or of transformers, a callable ids -> logits, or a `ComparedModel`
    mode, seed     the division of the ids into calls: see `plan_calls`
    config         the configuration that both should follow; default: the reference's
    tolerance      the difference that still passes; default: none

    Raises ValueError for an unknown mode, and for an object that cannot be called.
    """
    models = with_distinct_names(as_compared_model(first), as_compared_model(second))
    config = config or models[1].config or models[0].config
    plan = plan_calls(mode, ids, seed)
    wanted = operations(config) if config is not None else []
    calls = record(models[0], plan, wanted), record(models[1], plan, wanted)
    same_dtype = all(a.logits.dtype == b.logits.dtype for a, b in zip(*calls, strict=True))
    same_shape = all(a.logits.shape == b.logits.shape for a, b in zip(*calls, strict=True))

    rows = compare_calls(*calls, wanted)
    logits = difference_of_logits(*calls) if same_shape else None
    findings: list[Finding] = []
    if config is not None:
        names, weights = (models[0].name, models[1].name), (models[0].parameters(), models[1].parameters())
        findings = explain(Pair(names, calls, weights, config, same_dtype), rows, wanted)
        if logits is not None and not logits.equal:
            findings = with_findings_of_logits(findings, models, calls, config)
    return Comparison(
        mode,
        verdict_of(logits, findings, same_dtype),
        (models[0].describe(), models[1].describe()),
        logits,
        predictions(*calls) if same_shape else None,
        rows,
        findings,
        tolerance or Tolerance(),
        sha256=[sha256_of(call.logits for call in recorded) for recorded in calls],
    )


def with_findings_of_logits(
    findings: list[Finding], models: Models, calls: Calls, config: LlamaConfig
) -> list[Finding]:
    """Add a judgement of the logits where the recorded operations cannot explain all of their difference."""
    recorded = [call.points.keys() for each in calls for call in each]
    if any(names == {"logits"} for names in recorded):
        return judge_logits(models, calls, config)
    needed = {op.name for op in operations(config) if op.kind in ("attention", "residual", "norm")}
    if any(finding.verdict == "bug" for finding in findings) or all(needed <= names for names in recorded):
        return findings
    return findings + [finding for finding in judge_logits(models, calls, config) if finding.verdict == "bug"]


def judge_logits(models: Models, calls: Calls, config: LlamaConfig) -> list[Finding]:
    """Judge the logits alone, against a float64 model with the weights of one of the two models.

    There is no finding when neither model shows all of its weights.
    """
    weights = complete_weights(models, config)
    if weights is None:
        return []
    ids = torch.cat([call.ids for call in calls[0]], 1)  # (B, S)
    tokens = torch.cat([call.tokens for call in calls[0]], 1)  # (B, S)
    with torch.no_grad():
        exact = exact_model(config, weights)(ids, mask=calls[0][-1].mask)[tokens]  # (N, V)
    logits = [torch.cat([call.logits for call in recorded], 1)[tokens] for recorded in calls]
    distances = [distance(each, exact) for each in logits]
    exceeds = exceeds_peer if logits[0].dtype == logits[1].dtype else exceeds_rounding
    finding = Finding("logits", "same", None, 0, "rounding")
    finding.distance = {model.name: value for model, value in zip(models, distances, strict=True)}
    for this, other in ((0, 1), (1, 0)):
        if exceeds(distances[this], distances[other], logits[this].dtype):
            finding.verdict, finding.model = "bug", models[this].name
    return [finding]


def complete_weights(models: Models, config: LlamaConfig) -> dict[str, Tensor] | None:
    """The parameters of the first model that shows all weights of the configuration, or None."""
    needed = {f"{op.weight}.weight" for op in operations(config) if op.weight}
    for model in models:
        parameters = model.parameters()
        if needed <= parameters.keys():
            return parameters
    return None


def verdict_of(logits: Difference | None, findings: list[Finding], same_dtype: bool) -> str:
    """The verdict of a comparison, from the difference of the logits and the findings."""
    verdicts = {each.verdict for each in findings}
    if "bug" in verdicts:
        return "bug"
    if logits is None:
        return "unknown"
    if verdicts:
        return "unknown" if "unknown" in verdicts else "rounding"
    if not logits.equal:
        return "unknown"
    return "equal" if same_dtype else "rounding"  # they are equal after rounding to the coarser dtype


def difference_of_logits(first: list[Call], second: list[Call]) -> Difference:
    """The difference of the logits of all calls, without padding."""
    a, b = token_logits(first)[None], token_logits(second)[None]  # (1, N, V)
    found = difference(a, b)
    found.cosine = 1.0 if found.equal else cosine(a, b)
    return found


def token_logits(calls: list[Call]) -> Tensor:
    """The logits of all tokens of all calls, (N, V)."""
    logits = [call.logits[call.tokens] for call in calls]
    return logits[0] if len(logits) == 1 else torch.cat(logits)
