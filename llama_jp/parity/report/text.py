"""A comparison as lines of text."""

from __future__ import annotations

from ..comparison import Comparison
from ..judge.findings import Finding
from ..operations import DESCRIPTIONS
from ..run.models import ModelDescription

# the effect on the prediction comes first: one large ULP distance near zero has none
HEAD = ("mode", "verdict", "same top-1", "max KL", "median ULP", "differing logits", "max ULP", "max diff", "cosine")
NEAR_ZERO = 100  # a largest distance of so many medians comes from a number near zero


def text_report(comparisons: list[Comparison]) -> str:
    """The two models, a table with one line for each mode, and the findings of each mode."""
    lines = [" against ".join(map(describe_model, compared_models(comparisons))), ""]
    head: tuple[str, ...] = HEAD
    shown = list(map(cells, comparisons))
    relative = [each.details.get("relative_differences") for each in comparisons]
    if any(relative):  # across implementations nearly every number near zero differs by many ULPs
        kept = [column for column in range(len(HEAD)) if "ULP" not in HEAD[column]]
        head = (*(HEAD[column] for column in kept), "relative diff")
        largest = [f"{each['logits']:.3g}" if each and "logits" in each else "-" for each in relative]
        shown = [(*(row[column] for column in kept), last) for row, last in zip(shown, largest, strict=True)]
    lines += table([head, *shown])
    right = [each.logits for each in comparisons if each.verdict == "rounding" and each.logits is not None]
    right = [] if any(relative) else right
    if any(logits.max_ulp > NEAR_ZERO * logits.median_ulp for logits in right):
        lines.append("max ULP is far above the median where a logit is near zero, because the steps are smallest there")
    for comparison in comparisons:
        findings = [*finding_lines(comparison), *comparison.notes]
        if findings:
            lines += ["", f"{comparison.mode}:", *(f"  {line}" for line in findings)]
    return "\n".join(lines)


def compared_models(comparisons: list[Comparison]) -> tuple[ModelDescription, ModelDescription]:
    """The two models, with their settings unless only tokenizers were compared."""
    return next((each.models for each in comparisons if each.models[0].settings), comparisons[0].models)


def describe_model(model: ModelDescription) -> str:
    """A model's name with its settings, or a tokenizer's name with its segmentation."""
    properties = [model.segmentation]
    if (settings := model.settings) is not None:
        properties = [model.computes_in, settings.attention]
        properties += [f"{settings.threads} threads"] if settings.threads else []
        properties += [f"{settings.rows} row{'s' * (settings.rows > 1)} at a time"] if settings.rows else []
    return f"{model.name} ({', '.join(each for each in properties if each)})"


def cells(comparison: Comparison) -> tuple[str, ...]:
    """The line of a mode, in the columns of HEAD."""
    logits, prediction = comparison.logits, comparison.prediction
    verdict = comparison.verdict
    if comparison.unmet:
        verdict += " (not as expected)"
    elif comparison.passed and verdict in ("rounding", "unknown"):
        verdict += " (passes)"
    if logits is None:
        return (comparison.mode, verdict, *["-"] * (len(HEAD) - 2))
    return (
        comparison.mode,
        verdict,
        "-" if prediction is None else f"{prediction.top1:.1%}",
        "-" if prediction is None else f"{prediction.kl:.3g}",
        f"{logits.median_ulp:,}",
        f"{logits.differing:,} of {logits.elements:,}",
        f"{logits.max_ulp:,}",
        f"{logits.max_value:.3g}",
        f"{logits.cosine:.9f}",
    )


def finding_lines(comparison: Comparison) -> list[str]:
    """The first divergence and the first bug, each with its place and distances, and the likely cause."""
    lines = []
    divergence, bug = comparison.divergence, comparison.bug
    if divergence is not None:
        lines.append(f"first divergence: {place(divergence)}: {divergence.verdict}")
        lines += [f"  {line}" for line in distance_lines(divergence)]
    if bug is not None and bug is not divergence:
        lines.append(f"first bug: {place(bug)}")
        lines += [f"  {line}" for line in distance_lines(bug)]
    if (non_finite := comparison.non_finite) is not None:
        lines.append(f"NaN or infinite numbers: {place(non_finite)}")
        lines.append(f"  {non_finite.cause}")
    if bug is not None:
        model = f" in {bug.model}" if bug.model else ""
        lines.append(f"likely cause{model}: {bug.cause or 'none of the known mistakes'}")
    return lines


def place(finding: Finding) -> str:
    """The call, row, token, layer and operation of a finding."""
    parts = [f"call {finding.call}"] if finding.call else []
    parts += [] if finding.token is None else [f"row {finding.token[0]}", f"token {finding.token[1]}"]
    parts += [] if finding.layer is None else [f"layer {finding.layer}"]
    return ", ".join([*parts, f"{finding.operation} ({DESCRIPTIONS[finding.kind]})"])


def distance_lines(finding: Finding) -> list[str]:
    """The distances of both models from float64."""
    lines = []
    if finding.distance:
        values = ", ".join(f"{model} {value:.2e}" for model, value in finding.distance.items())
        nearer = f"; {finding.nearer} is nearer" if finding.nearer else ""
        lines.append(f"mean distance from float64: {values}{nearer}")
    if finding.excess:
        values = ", ".join(f"{model} {value:.3g}" for model, value in finding.excess.items())
        lines.append(f"largest distance from float64, in units of the rounding bound: {values}")
    return lines


def table(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
