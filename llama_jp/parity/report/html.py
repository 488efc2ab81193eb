"""A comparison as one self-contained HTML page, for wide and narrow windows, light and dark screens, and paper."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from ...environment import describe_environment
from ...numerics import Difference
from ...text_files import write_whole
from ..comparison import Comparison
from ..requests import Request
from .text import HEAD, cells, compared_models, describe_model, distance_lines, place

# The colours of 1, 4, 16, … ULP. The larger the distance, the farther a colour is from the page's background.
LIGHT = ("#d9efe7", "#c3e3ea", "#bcd6f2", "#c9c9f5", "#dcb9ee", "#eeb0d6", "#f6a9ae", "#f08a7c")
DARK = ("#1f4038", "#1d4653", "#25486f", "#3b4285", "#593a86", "#7a3573", "#98394f", "#b8463c")

STYLE = """
:root { color-scheme: light dark; --page: #fbfaf7; --card: #fff; --ink: #23262b; --soft: #5d636b; --line: #e0ddd4;
  --same: #f0f2ee; --good: #1f7a4d; --warn: #85590a; --bad: #b3261e; LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #16181c; --card: #1e2127; --ink: #e4e6ea; --soft: #a0a7b1;
  --line: #363b44; --same: #262a31; --good: #6fcf97; --warn: #e5b454; --bad: #ff8a80; DARK } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 56px }
h1 { font-size: 23px; margin: 0 0 4px; line-height: 1.3 } h2 { font-size: 18px; margin: 30px 0 8px }
h1, dd, td, .card { overflow-wrap: anywhere }
.soft, caption { color: var(--soft); text-align: left } .sentence { font-size: 16px; margin: 0 0 10px }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px }
.card { margin: 12px 0 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px }
th, td { padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 }
.verdict { font-weight: 650 } .equal, .expected, .documented { color: var(--good) }
.rounding, .unknown { color: var(--warn) } .bug, .non-finite { color: var(--bad) }
.cause { font-size: 16px; margin: 8px 0 0 }
.layer { display: grid; grid-template-columns: repeat(auto-fill, minmax(56px, 1fr)); gap: 3px; margin: 0 0 10px }
.layer b { grid-column: 1 / -1; font-weight: 500; color: var(--soft); font-size: 13px }
.op { border-radius: 4px; padding: 2px 4px 3px; font: 13px/1.25 system-ui, sans-serif; background: var(--same);
  font-variant-numeric: tabular-nums; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.op i { display: block; font-style: normal; font-size: 11px; opacity: .8; overflow: hidden; text-overflow: ellipsis }
.wrong { background: var(--u7) } .mark { outline: 2.5px solid var(--bad); outline-offset: 0 }
UNITS
.legend { display: flex; flex-wrap: wrap; gap: 4px; margin: 10px 0 } summary { cursor: pointer }
dl { display: grid; grid-template-columns: minmax(90px, max-content) minmax(0, 1fr); gap: 2px 18px; margin: 0 }
dt { color: var(--soft) } dd { margin: 0 }
@media (max-width: 760px) {
  .stack tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--line) }
  .stack tr:first-child { display: none }
  .stack td { display: flex; justify-content: space-between; gap: 16px; border: 0; padding: 1px 0; text-align: right }
  .stack td::before { content: attr(data-head); color: var(--soft); white-space: nowrap }
  dl { grid-template-columns: minmax(0, 1fr) } dd { margin: 0 0 6px }
}
@media print { details > * { display: block } .card { break-inside: avoid } }
"""

SENTENCES = {
    "equal": "The two models are bit-identical.",
    "rounding": "The models differ by rounding only. Every operation that was judged is right.",
    "expected": "The models differ where a difference is expected. Every other operation that was judged is right.",
    "documented difference": "The tokenizers differ as documented, and in nothing else.",
    "bug": "An operation is wrong.",
    "non-finite": "The results have NaN or infinite numbers, so nothing can be concluded from their equality.",
    "unknown": "The results differ, and there is nothing to judge them by.",
}
GLOSSARY = {
    "same top-1": "the share of positions where both models have the same most probable next token",
    "max KL": "the largest Kullback-Leibler divergence of two next-token distributions, in nats",
    "ULP": "unit in the last place: the step from one floating-point number to the next, smaller near zero",
    "median ULP": "the median distance of the numbers that differ: the usual size of a difference",
    "max ULP": "the largest distance. It is large where a number is near zero, also if the difference itself is tiny",
    "rounding bound": "the largest distance from float64 that rounding explains. A distance of up to 1 bound is right",
}

# The points of a layer in order of computation, and their labels in the map. The last is the layer's output.
COLUMNS = {
    "input_layernorm": "norm",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.q_rot": "q rot",
    "self_attn.k_rot": "k rot",
    "self_attn.keys": "keys",
    "self_attn.values": "values",
    "self_attn.scores": "scores",
    "self_attn.probabilities": "softmax",
    "self_attn.attn_output": "attn",
    "self_attn.o_proj": "o",
    "after_attention": "+ attn",
    "post_attention_layernorm": "norm",
    "mlp.gate_proj": "gate",
    "mlp.up_proj": "up",
    "mlp.mlp_act": "act",
    "mlp.down_proj": "down",
    "": "+ mlp",
}
BEFORE = {"embed_tokens": "embed", "rope.cos": "cos", "rope.sin": "sin"}
AFTER = {"norm": "norm", "lm_head": "head", "logits": "logits"}

Differences = dict[str, "Difference | None"]


def style() -> str:
    """The style sheet with the colours of both themes."""
    light, dark = (" ".join(f"--u{i}: {colour};" for i, colour in enumerate(each)) for each in (LIGHT, DARK))
    units = "\n".join(f".u{i} {{ background: var(--u{i}) }}" for i in range(len(LIGHT)))
    return STYLE.replace("LIGHT", light).replace("DARK", dark).replace("UNITS", units)


def write_html_report(file: Path, request: Request, comparisons: list[Comparison]) -> None:
    write_whole(file, html_report(request, comparisons))


def html_report(request: Request, comparisons: list[Comparison]) -> str:
    """The page: a table of all modes, the findings and the map of operations of each mode, the settings."""
    models = compared_models(comparisons)
    names = " against ".join(escape(model.name) for model in models)
    descriptions = " · ".join(escape(describe_model(model)) for model in models)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parity: {names}</title><style>{style()}</style></head><body><main>
<h1>{names}</h1><div class="soft">{descriptions}</div>
<div class="card">{summary(comparisons)}</div>
{"".join(map(section, comparisons))}
<h2>The numbers</h2><div class="card">{definition_list(GLOSSARY)}</div>
<h2>Environment and settings</h2><div class="card">{definition_list(describe_environment() | settings(request))}</div>
</main></body></html>
"""


def settings(request: Request) -> dict[str, Any]:
    """The fields of a request that have a value. The settings of a model become one line."""
    lines: dict[str, Any] = {}
    for key, value in request.as_dict().items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {setting}" for name, setting in value.items() if setting is not None)
        if value is not None and value != []:
            lines[key] = value
    return lines


def definition_list(values: dict[str, Any]) -> str:
    items = []
    for key, value in values.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        items.append(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def summary(comparisons: list[Comparison]) -> str:
    """The table with one row for each mode. In a narrow window each row becomes a list."""
    rows = []
    for comparison in comparisons:
        mode, verdict, *rest = cells(comparison)
        marked = f'<span class="verdict {css_class(comparison.verdict)}">{verdict}</span>'
        rows.append([mode, marked, *rest])
    return table(HEAD, rows)


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    """A table of HTML cells."""
    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in head) + "</tr>"]
    for row in rows:
        cells = "".join(f'<td data-head="{name}">{cell}</td>' for name, cell in zip(head, row, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    return f'<table class="stack">{"".join(lines)}</table>'


def css_class(verdict: str) -> str:
    return verdict.partition(" ")[0]


def section(comparison: Comparison) -> str:
    """One mode: its findings, its map of operations, and the numbers of every operation that differs."""
    sentence = SENTENCES[comparison.verdict]
    parts = [f"<h2>{comparison.mode}</h2>"]
    parts.append(f'<div class="card"><div class="sentence">{sentence}</div>{findings(comparison)}</div>')
    if comparison.rows:
        caption = (
            "Every operation, with the median distance in ULP of the numbers that differ and, after ≤, the largest, in "
            "the call where the median is largest. = is bit-identical, – is not recorded in both models."
        )
        parts.append(f'<div class="card"><div class="soft">{caption}</div>{operation_map(comparison)}</div>')
    return "".join(parts)


def findings(comparison: Comparison) -> str:
    parts = []
    named = (
        ("First divergence", comparison.divergence),
        ("NaN or infinite numbers", comparison.non_finite),
        ("First bug", comparison.bug),
    )
    for title, finding in named:
        if finding is None or (title == "First bug" and finding is comparison.divergence):
            continue
        lines = distance_lines(finding) if finding.verdict != "non-finite" else [finding.cause or ""]
        parts.append(
            f'<div><b>{title}:</b> {escape(place(finding))}: <span class="verdict {css_class(finding.verdict)}">'
            f'{finding.verdict}</span></div><div class="soft">{"<br>".join(map(escape, lines))}</div>'
        )
    if comparison.bug is not None:
        model = f" in {escape(comparison.bug.model)}" if comparison.bug.model else ""
        cause = escape(comparison.bug.cause or "none of the known mistakes")
        parts.append(f'<div class="cause">Likely cause{model}: <b>{cause}</b></div>')
    parts += [f"<div>{escape(note)}</div>" for note in comparison.notes]
    return "".join(parts)


def largest_differences(comparison: Comparison) -> Differences:
    """The difference of each operation in the call with the largest median. None: the shapes differ."""
    largest: Differences = {}
    for row in comparison.rows:
        name, here = row.operation.name, row.difference
        before = largest.setdefault(name, here)
        if here is None or (before is not None and here.median_ulp > before.median_ulp):
            largest[name] = here
    return largest


def operation_map(comparison: Comparison) -> str:
    """A box for each operation, layer by layer. The boxes wrap in a narrow window."""
    differences = largest_differences(comparison)
    marked = {each.operation for each in (comparison.divergence, comparison.non_finite, comparison.bug) if each}
    layers = 1 + max((row.operation.layer for row in comparison.rows if row.operation.layer is not None), default=-1)
    known = marked | differences.keys()
    columns = [column for column in COLUMNS if any(point(layer, column) in known for layer in range(layers))]
    groups = [("before the layers", BEFORE)]
    for layer in range(layers):
        groups.append((f"layer {layer}", {point(layer, column): COLUMNS[column] for column in columns}))
    groups.append(("after the layers", AFTER))
    rows = []
    for heading, names in groups:
        boxes = "".join(box(name, label, differences, name in marked) for name, label in names.items())
        rows.append(f'<div class="layer"><b>{heading}</b>{boxes}</div>')
    return legend() + "".join(rows) + all_numbers(differences)


def point(layer: int, column: str) -> str:
    return f"layers.{layer}.{column}" if column else f"layers.{layer}"


def box(name: str, label: str, differences: Differences, marked: bool) -> str:
    """One operation: its label, the median distance and the largest."""
    found = differences.get(name)
    if name not in differences:
        kind, text, full = "", "–", "not recorded in both models"
    elif found is None:
        kind, text, full = "wrong", "shape", "the shapes differ"
    elif found.equal:
        kind, text, full = "", "=", "bit-identical"
    else:
        kind, text = f"u{shade(found.median_ulp)}", f"{short(found.median_ulp)}<i>≤ {short(found.max_ulp)}</i>"
        full = f"{found.differing:,} of {found.elements:,} differ, by up to {found.max_value:.3g}"
    frame = " mark" * marked
    return f'<div class="op {kind}{frame}" title="{name}: {full}"><i>{label}</i>{text}</div>'


def shade(ulp: int) -> int:
    """The number of the colour of a distance: 0 for 1 ULP, 1 for 4 ULP, 2 for 16 ULP, …"""
    return min(len(LIGHT) - 1, int(math.log2(max(ulp, 1)) / 2))


def short(number: float) -> str:
    """A whole number in at most four characters: 950, 3.1k, 31k, 2.1M."""
    for unit in ("", "k", "M"):
        if number < 1000:
            return f"{number:.2g}{unit}" if number < 10 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.0f}G"


def legend() -> str:
    """The meaning of the colours and of the frame."""
    shades = [f'<div class="op u{i}">{4**i:,}{"+ ULP" * (i == len(LIGHT) - 1)}</div>' for i in range(len(LIGHT))]
    frame = '<div class="op mark">the findings above</div>'
    return f'<div class="legend"><div class="op">=</div>{"".join(shades)}{frame}</div>'


def all_numbers(differences: Differences) -> str:
    """A table of every operation that differs."""
    rows = [
        [name, f"{d.differing:,} of {d.elements:,}", f"{d.median_ulp:,}", f"{d.max_ulp:,}", f"{d.max_value:.3g}"]
        for name, d in differences.items()
        if d is not None and not d.equal
    ]
    if not rows:
        return ""
    head = ("operation", "differing", "median ULP", "max ULP", "max difference")
    return f"<details><summary>All numbers: {len(rows)} operations differ</summary>{table(head, rows)}</details>"
