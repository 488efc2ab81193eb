"""The modes `whole`, `steps`, `chunks` and `ragged`: compare the logits and every operation before them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...model import LlamaConfig
from ...numerics import Difference, all_finite, cosine, difference
from ...tracing import matching_points
from ..comparison import Comparison, Tolerance, sha256_of
from ..judge.findings import Finding, Pair, Recorded, explain
from ..judge.float64_reference import distance, exact_model, exceeds_peer, exceeds_rounding
from ..judge.non_finite import non_finite_finding
from ..judge.rows import compare_calls, largest_relative_difference, predictions
from ..llamacpp.check import FileCheck, check_file, weights_of_file
from ..operations import Operation, operations_of
from ..run.models import ComparedModel, as_compared_model, common_config, with_distinct_names
from ..run.recording import Call, PlannedCall, plan_calls, record

Models = tuple[ComparedModel, ComparedModel]
Calls = tuple[list[Call], list[Call]]  # of both models
Weights = tuple[dict[str, Tensor], dict[str, Tensor]]


def compare(
    first: object,
    second: object,
    ids: Tensor,
    mode: str = "whole",
    *,
    config: LlamaConfig | None = None,
    tolerance: Tolerance | None = None,
    seed: int = 0,
    expect: Sequence[str] = (),
) -> Comparison:
    """Run two models on the same ids, and find where and why their results differ. The second is the reference.

    Shapes: ids (B, T) int64.

    first, second  a model of this project or of transformers, a callable ids -> logits, or a `ComparedModel`, such as
                   `open_model("llama.cpp:FILE.gguf")`
    mode, seed     the division of the ids into calls: see `plan_calls`
    config         the configuration that both should follow; default: the reference's
    tolerance      the difference that still passes; default: none
    expect         operations that may be wrong, as names or patterns of `trace`: a change that was made on purpose

    Raises ValueError for an unknown mode, for an object that cannot be called, for logits of a wrong shape, and for a
    pattern in `expect` that matches no operation.

    The metadata and the weights of a GGUF file in llama.cpp are compared with the other model first. That model then
    runs with the weights of the file, so that its operations differ by arithmetic alone.
    """
    models = with_distinct_names(as_compared_model(first), as_compared_model(second))
    config = config or common_config(models)
    plan = plan_calls(mode, ids, seed)
    wanted = operations_of(config) if config is not None else []
    expected = match_expectations(expect, wanted)
    file = check_file(models)
    if not file.same_sizes:
        return incomparable(mode, models, file)
    own_logits = logits_with_own_weights(models, plan) if file.has_own_error else None
    with weights_of_file(models):
        calls = record(models[0], plan, wanted), record(models[1], plan, wanted)
        weights = models[0].parameters(), models[1].parameters()
    same_dtype = all(a.logits.dtype == b.logits.dtype for a, b in zip(*calls, strict=True))
    same_shape = all(a.logits.shape == b.logits.shape for a, b in zip(*calls, strict=True))

    rows = compare_calls(*calls, wanted)
    logits = difference_of_logits(*calls) if same_shape else None
    findings: list[Finding] = []
    names = models[0].name, models[1].name
    recorded = Recorded(names, calls, weights)
    if config is not None:
        findings = explain(Pair(names, calls, weights, config, same_dtype), rows, wanted)
        if logits is not None and not logits.equal:
            findings = with_findings_of_logits(findings, models, calls, weights, config)
    if (non_finite := non_finite_finding(recorded, wanted)) is not None:
        findings = [*findings, non_finite]
    findings = file.findings + findings
    found = Comparison(
        mode,
        verdict_of(logits, findings, same_dtype),
        (models[0].describe(), models[1].describe()),
        logits,
        predictions(*calls) if same_shape else None,
        rows,
        findings,
        tolerance or Tolerance(),
        notes=file.notes,
        sha256=[sha256_of(call.logits for call in model_calls) for model_calls in calls],
    )
    if any(model.file is not None for model in models):
        add_differences(found, calls, own_logits, models)
    return apply_expectations(found, expected, recorded, same_dtype) if expect else found


def incomparable(mode: str, models: Models, file: FileCheck) -> Comparison:
    """The outcome for a GGUF file with other sizes than the other model: nothing runs."""
    described = models[0].describe(), models[1].describe()
    notes = ["the sizes differ, so the models have no common operations and did not run"]
    return Comparison(mode, "bug", described, findings=file.findings, notes=notes)


def logits_with_own_weights(models: Models, plan: list[PlannedCall]) -> list[Call]:
    """The recorded logits of the model that is not llama.cpp, before it takes the weights of the GGUF file."""
    return record(next(model for model in models if model.file is None), plan, [])


def add_differences(found: Comparison, calls: Calls, own_logits: list[Call] | None, models: Models) -> None:
    """Add the differences from llama.cpp: relative to each point, and apart from those of the file's weights.

    Two implementations differ in every number near zero, so ULPs mean little here.
    """
    relative = largest_relative_difference(*calls)
    found.details["relative_differences"] = relative
    if relative and found.prediction is not None:
        worst = max(relative, key=relative.__getitem__)
        found.notes.append(
            f"largest difference, relative to the largest number: logits {relative.get('logits', 0.0):.2g}, all points "
            f"{relative[worst]:.2g} ({worst}); KL divergence {found.prediction.kl:.2g}"
        )
    if own_logits is not None:
        number = 0 if models[0].file is None else 1
        kl = predictions(own_logits, calls[number]).kl
        largest = difference_of_logits(own_logits, calls[number]).max_value
        found.details["weights"] = {"kl": kl, "max_value": largest}
        found.notes.append(
            f"the weights' own error, in {models[number].name} with the weights of the file and of the checkpoint: "
            f"KL divergence {kl:.2g}, largest difference of the logits {largest:.2g}"
        )


def match_expectations(patterns: Sequence[str], wanted: list[Operation]) -> dict[str, list[str]]:
    """The operations that each pattern matches. Raises ValueError for a pattern that matches none."""
    names = [op.name for op in wanted]
    matches = {pattern: matching_points(pattern, names) for pattern in patterns}
    for pattern, matched in matches.items():
        if not matched:
            known = f"there are {', '.join(names[:24])}, …" if names else "neither model has a configuration"
            raise ValueError(f"no operation matches {pattern!r}, which is expected to differ; {known}")
    return matches


def apply_expectations(
    found: Comparison, expected: dict[str, list[str]], recorded: Recorded, same_dtype: bool
) -> Comparison:
    """Turn the bugs of expected operations into expected differences, and name the expectations that are not met."""
    met, differing = set(), set()
    for pattern, names in expected.items():
        for finding in found.findings:
            wrong = finding.verdict in ("bug", "expected")  # another pattern may match it as well
            if finding.operation not in names and not (wrong and shows_one_of(finding, names, recorded)):
                continue
            if wrong or finding is found.divergence:  # a later rounding may follow from another input
                met.add(pattern)
                differing.add(finding.operation)
                finding.verdict = "expected" if wrong else finding.verdict
    found.unmet = [pattern for pattern in expected if pattern not in met]
    found.verdict = verdict_of(found.logits, found.findings, same_dtype)
    if found.verdict == "rounding" and not found.unmet:
        found.verdict = "expected"
    if found.verdict == "expected":
        others = {row.operation.name for row in found.rows} - differing
        where = f"{len(differing)} operation{'s' * (len(differing) > 1)} of {', '.join(sorted(met))}"
        found.notes.append(f"differs where expected, in {where}; the other {len(others)} operations are right")
    for pattern in found.unmet:
        recorded_by_both = {row.operation.name for row in found.rows} & set(expected[pattern])
        missing = "there is none" if recorded_by_both else "a model does not show it"
        found.notes.append(f"a difference in {pattern} is expected, and {missing}")
    return found


def shows_one_of(finding: Finding, names: list[str], recorded: Recorded) -> bool:
    """Whether the finding is of fused attention, which has no scores, and one of the names is its scores."""
    layer, _, point = finding.operation.rpartition(".")
    if point != "attn_output":
        return False
    hidden = {f"{layer}.scores", f"{layer}.probabilities"} & set(names)
    models = [recorded.names.index(finding.model)] if finding.model in recorded.names else [0, 1]
    return any(name not in recorded.calls[model][finding.call].points for name in hidden for model in models)


def with_findings_of_logits(
    findings: list[Finding], models: Models, calls: Calls, weights: Weights, config: LlamaConfig
) -> list[Finding]:
    """Add a judgement of the logits where the recorded operations cannot explain all of their difference."""
    recorded = [call.points.keys() for each in calls for call in each]
    if any(names == {"logits"} for names in recorded):
        return judge_logits(models, calls, weights, config)
    needed = {op.name for op in operations_of(config) if op.kind in ("attention", "residual", "norm")}
    if any(finding.verdict == "bug" for finding in findings) or all(needed <= names for names in recorded):
        return findings
    judged = judge_logits(models, calls, weights, config)
    return findings + [finding for finding in judged if finding.verdict == "bug"]


def judge_logits(models: Models, calls: Calls, weights: Weights, config: LlamaConfig) -> list[Finding]:
    """Judge the logits alone, against a float64 model with the weights of one of the two models.

    There is no finding when neither model shows all of its weights, and when one of them rounds the inputs of its
    products: that moves the logits farther than float32 does.
    """
    known = complete_weights(weights, config)
    if known is None or any(call.input_rounding for recorded in calls for call in recorded):
        return []
    ids = torch.cat([call.ids for call in calls[0]], 1)  # (B, S)
    tokens = torch.cat([call.tokens for call in calls[0]], 1)  # (B, S)
    with torch.no_grad():
        exact = exact_model(config, known)(ids, mask=calls[0][-1].mask)[tokens]  # (N, V)
    logits = [torch.cat([call.logits for call in recorded], 1)[tokens] for recorded in calls]
    distances = [distance(each, exact) for each in logits]
    exceeds = exceeds_peer if logits[0].dtype == logits[1].dtype else exceeds_rounding
    finding = Finding("logits", "same", None, 0, "rounding")
    finding.distance = {model.name: value for model, value in zip(models, distances, strict=True)}
    for this, other in ((0, 1), (1, 0)):
        if exceeds(distances[this], distances[other], logits[this].dtype):
            finding.verdict, finding.model = "bug", models[this].name
    return [finding]


def complete_weights(weights: Weights, config: LlamaConfig) -> dict[str, Tensor] | None:
    """The parameters of the first model that shows all weights of the configuration, or None."""
    needed = {f"{op.weight}.weight" for op in operations_of(config) if op.weight}
    for parameters in weights:
        if needed <= parameters.keys():
            return parameters
    return None


def verdict_of(logits: Difference | None, findings: list[Finding], same_dtype: bool) -> str:
    """The verdict of a comparison, from the difference of the logits and the findings."""
    verdicts = {each.verdict for each in findings}
    for verdict in ("bug", "non-finite"):
        if verdict in verdicts:
            return verdict
    if logits is None:
        return "unknown"
    if verdicts:
        return next((verdict for verdict in ("unknown", "expected") if verdict in verdicts), "rounding")
    if not logits.equal:
        return "unknown"
    return "equal" if same_dtype else "rounding"  # they are equal after rounding to the coarser dtype


def difference_of_logits(first: list[Call], second: list[Call]) -> Difference:
    """The difference of the logits of all calls, without padding."""
    a, b = token_logits(first)[None], token_logits(second)[None]  # (1, N, V)
    found = difference(a, b)
    found.cosine = 1.0 if found.equal and all_finite(a) else cosine(a, b)
    return found


def token_logits(calls: list[Call]) -> Tensor:
    """The logits of all tokens of all calls, (N, V)."""
    logits = [call.logits[call.tokens] for call in calls]
    return logits[0] if len(logits) == 1 else torch.cat(logits)
