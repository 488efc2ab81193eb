"""A comparison as lines for people."""

from __future__ import annotations

from ..judge.findings import Finding
from ..modes.forward import Comparison
from ..operations import DESCRIPTIONS

HEAD = ("mode", "verdict", "logits that differ", "max ULP", "max value", "cosine", "same top-1", "max KL")


def text_report(comparisons: list[Comparison]) -> str:
    lines = [sides_line(comparisons[0]), ""]
    lines += table([HEAD, *map(cells, comparisons)])
    for comparison in comparisons:
        told = [*story(comparison), *comparison.notes]
        if told:
            lines += ["", f"{comparison.mode}:", *(f"  {line}" for line in told)]
    return "\n".join(lines)


def sides_line(comparison: Comparison) -> str:
    return " against ".join(map(side_text, comparison.sides))


def side_text(side: dict) -> str:
    known = [side.get("computes_in"), side.get("attention")] if "computes_in" in side else [side.get("reading")]
    known += [f"{side[key]} {key}" for key in ("threads", "rows") if side.get(key)]
    return f"{side['name']} ({', '.join(str(each) for each in known if each)})"


def cells(comparison: Comparison) -> tuple[str, ...]:
    logits, prediction = comparison.logits, comparison.prediction
    verdict = comparison.verdict + (" (passes)" if comparison.passed and comparison.verdict != "equal" else "")
    if logits is None:
        return (comparison.mode, verdict, *["-"] * 6)
    parts = (f"{logits.differing:,} of {logits.elements:,}", f"{logits.max_ulp:,}", f"{logits.max_value:.3g}")
    parts += (f"{logits.cosine:.9f}",)
    parts += (f"{prediction.top1:.1%}", f"{prediction.kl:.3g}") if prediction else ("-", "-")
    return (comparison.mode, verdict, *parts)


def story(comparison: Comparison) -> list[str]:
    """Where it begins, what it is, and why."""
    lines = []
    if comparison.divergence is not None:
        lines.append(f"first divergence: {place(comparison.divergence)}: {comparison.divergence.verdict}")
        lines += measured(comparison.divergence)
    if comparison.bug is not None and comparison.bug is not comparison.divergence:
        lines.append(f"first bug: {place(comparison.bug)}")
        lines += measured(comparison.bug)
    if comparison.bug is not None:
        on = f" on the side of {comparison.bug.model}" if comparison.bug.model else ""
        lines.append(f"likely cause{on}: {comparison.bug.cause or 'none of the known mistakes'}")
    return lines


def place(finding: Finding) -> str:
    parts = [] if finding.token is None else [f"row {finding.token[0]}", f"token {finding.token[1]}"]
    parts += [] if finding.layer is None else [f"layer {finding.layer}"]
    parts.append(f"{finding.operation} ({DESCRIPTIONS[finding.kind]})")
    if finding.call:
        parts.insert(0, f"call {finding.call}")
    return ", ".join(parts)


def measured(finding: Finding) -> list[str]:
    lines = []
    if finding.distance:
        each = ", ".join(f"{side} {value:.2e}" for side, value in finding.distance.items())
        nearer = f"; {finding.nearer} is nearer" if finding.nearer else ""
        lines.append(f"  mean distance from float64: {each}{nearer}")
    if finding.excess:
        each = ", ".join(f"{side} {value:.3g}" for side, value in finding.excess.items())
        lines.append(f"  largest distance, where rounding explains up to 1: {each}")
    return lines


def table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
