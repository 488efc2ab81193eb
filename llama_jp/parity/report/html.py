"""A comparison as one self-contained HTML page, with colours for light and dark screens."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from ...environment import describe_environment
from ...numerics import Difference
from ..comparison import Comparison
from ..requests import Request
from .text import HEAD, cells, compared_models, describe_model, distance_lines, place

STYLE = """
:root { color-scheme: light dark;
  --page: light-dark(#fbfaf7, #16181c); --card: light-dark(#ffffff, #1e2127); --ink: light-dark(#23262b, #e4e6ea);
  --soft: light-dark(#6a7078, #989fa9); --line: light-dark(#e3e0d8, #333841); --same: light-dark(#e6efe8, #26332c);
  --none: light-dark(#f3f1eb, #1a1d22); --good: light-dark(#1f7a4d, #6fcf97); --warn: light-dark(#96660b, #e5b454);
  --bad: light-dark(#b3261e, #ff8a80); --mark: light-dark(#b3261e, #ff8a80); }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 24px; margin: 0 0 4px; line-height: 1.3 } h2 { font-size: 18px; margin: 32px 0 8px }
.soft { color: var(--soft) } .card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 16px 18px; margin: 14px 0; overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: 13px }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); white-space: nowrap }
tr:last-child td { border-bottom: 0 }
.verdict { font-weight: 650 } .equal { color: var(--good) } .rounding, .unknown { color: var(--warn) }
.bug { color: var(--bad) } .cause { font-size: 16px; margin: 8px 0 0 }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif } svg .mark { fill: none; stroke: var(--mark);
  stroke-width: 2.5 } svg .same { fill: var(--same) } svg .none { fill: var(--none) } svg .shape { fill: var(--bad) }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 0 } dt { color: var(--soft) }
dd { margin: 0; overflow-wrap: anywhere } code { font: 13px ui-monospace, monospace }
"""

# The colours of 1, 4, 16, … ULP, in order of lightness and hue. They have enough contrast on both backgrounds.
RAMP = ("#9cc9c0", "#7fb6c6", "#6d9bc9", "#7a7fc4", "#9a66b5", "#b94f93", "#cf4468", "#d6453d")
COLUMNS = (  # the points of a layer in order of computation; the last is the layer's output
    "input_layernorm",
    *(f"self_attn.{point}" for point in ("q_proj", "k_proj", "v_proj", "q_rot", "k_rot", "keys", "values")),
    *(f"self_attn.{point}" for point in ("scores", "probabilities", "attn_output", "o_proj")),
    "after_attention",
    "post_attention_layernorm",
    *(f"mlp.{point}" for point in ("gate_proj", "up_proj", "mlp_act", "down_proj")),
    "",
)
CELL, GAP, LEFT, TOP = 38, 3, 92, 118  # pixels


def write_html_report(file: Path, request: Request, comparisons: list[Comparison]) -> None:
    file.write_text(html_report(request, comparisons), encoding="utf-8")


def html_report(request: Request, comparisons: list[Comparison]) -> str:
    """The page: a table of all modes, the findings and the map of operations of each mode, the settings."""
    models = compared_models(comparisons)
    names = " against ".join(escape(model.name) for model in models)
    descriptions = " · ".join(escape(describe_model(model)) for model in models)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parity: {names}</title><style>{STYLE}</style></head><body><main>
<h1>{names}</h1><div class="soft">{descriptions}</div>
<div class="card">{summary(comparisons)}</div>
{"".join(map(section, comparisons))}
<h2>Environment and settings</h2><div class="card">{definition_list(describe_environment() | settings(request))}</div>
</main></body></html>
"""


def settings(request: Request) -> dict[str, Any]:
    """The fields of a request that have a value. The settings of a model become one line."""
    lines: dict[str, Any] = {}
    for key, value in request.as_dict().items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {setting}" for name, setting in value.items() if setting is not None)
        if value is not None:
            lines[key] = value
    return lines


def definition_list(values: dict[str, Any]) -> str:
    items = []
    for key, value in values.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        items.append(f"<dt>{escape(key)}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def summary(comparisons: list[Comparison]) -> str:
    """The table with one row for each mode."""
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    rows = ""
    for comparison in comparisons:
        mode, verdict, *rest = cells(comparison)
        rows += f'<tr><td>{mode}</td><td class="verdict {comparison.verdict}">{verdict}</td>'
        rows += "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
    return f"<table><tr>{head}</tr>{rows}</table>"


def section(comparison: Comparison) -> str:
    """One mode: its findings and its map of operations."""
    parts = [f"<h2>{comparison.mode}</h2>"]
    if text := findings(comparison):
        parts.append(f'<div class="card">{text}</div>')
    if comparison.rows:
        caption = (
            "The colour of an operation is its median distance in ULP, in the call where that is largest. "
            "Point at an operation for the numbers."
        )
        parts.append(f'<div class="card"><div class="soft">{caption}</div>{operation_map(comparison)}</div>')
    return "".join(parts)


def findings(comparison: Comparison) -> str:
    parts = []
    for title, finding in (("First divergence", comparison.divergence), ("First bug", comparison.bug)):
        if finding is None or (title == "First bug" and finding is comparison.divergence):
            continue
        lines = "<br>".join(escape(line) for line in distance_lines(finding))
        parts.append(
            f'<div><b>{title}:</b> {escape(place(finding))}: <span class="verdict {finding.verdict}">'
            f'{finding.verdict}</span></div><div class="soft">{lines}</div>'
        )
    if comparison.bug is not None:
        cause = escape(comparison.bug.cause or "none of the known mistakes")
        parts.append(f'<div class="cause">Likely cause: <b>{cause}</b></div>')
    parts += [f"<div>{escape(note)}</div>" for note in comparison.notes]
    return "".join(parts)


def largest_differences(comparison: Comparison) -> dict[str, Difference | None]:
    """The difference of each operation in the call with the largest median. None: the shapes differ."""
    largest: dict[str, Difference | None] = {}
    for row in comparison.rows:
        name, here = row.operation.name, row.difference
        before = largest.setdefault(name, here)
        if here is None or (before is not None and here.median_ulp > before.median_ulp):
            largest[name] = here
    return largest


def operation_map(comparison: Comparison) -> str:
    """An SVG with one row for each layer and one column for each operation. The colour is the median ULP distance."""
    differences = largest_differences(comparison)
    marked = {each.operation for each in (comparison.divergence, comparison.bug) if each is not None}
    layers = 1 + max((row.operation.layer for row in comparison.rows if row.operation.layer is not None), default=-1)
    known = marked | differences.keys()
    columns = [column for column in COLUMNS if any(point(layer, column) in known for layer in range(layers))]
    height = CELL if layers <= 16 else 20

    shapes = [
        f'<text transform="translate({LEFT + i * (CELL + GAP) + 22},{TOP - 8}) rotate(-48)">{title(column)}</text>'
        for i, column in enumerate(columns)
    ]
    y = TOP
    shapes += single_operations("before", ("embed_tokens", "rope.cos", "rope.sin"), differences, y, height, marked)
    y += height + GAP
    for layer in range(layers):
        shapes.append(row_title(f"layer {layer}", y, height))
        for i, column in enumerate(columns):
            name = point(layer, column)
            shapes.append(cell(name, differences, LEFT + i * (CELL + GAP), y, height, name in marked))
        y += height + GAP
    shapes += single_operations("after", ("norm", "lm_head", "logits"), differences, y, height, marked)
    y += height + GAP
    width = LEFT + max(len(columns) * (CELL + GAP), 880)
    return (
        f'<svg viewBox="0 0 {width} {y + 44}" width="{width}" role="img" aria-label="ULP distance of every operation">'
        f"{''.join(shapes)}{legend(y + 14)}</svg>"
    )


def single_operations(
    heading: str,
    names: tuple[str, ...],
    differences: dict[str, Difference | None],
    y: float,
    height: float,
    marked: set[str],
) -> list[str]:
    """A row for operations outside the layers, each with its name."""
    shapes = [row_title(heading, y, height)]
    for i, name in enumerate(names):
        x = LEFT + i * 3.5 * CELL
        shapes.append(cell(name, differences, x, y, height, name in marked))
        shapes.append(f'<text x="{x + CELL + 6}" y="{y + height / 2 + 4}">{name}</text>')
    return shapes


def row_title(text: str, y: float, height: float) -> str:
    return f'<text x="0" y="{y + height / 2 + 4}">{text}</text>'


def point(layer: int, column: str) -> str:
    return f"layers.{layer}.{column}" if column else f"layers.{layer}"


def title(column: str) -> str:
    return column.rpartition(".")[2] or "output"


def cell(name: str, differences: dict[str, Difference | None], x: float, y: float, height: float, marked: bool) -> str:
    """One operation: a coloured rectangle with its numbers in a tooltip, and a frame for the findings."""
    box = f'x="{x}" y="{y}" width="{CELL}" height="{height}" rx="4"'
    if name not in differences:
        shape = f'<rect {box} class="none"><title>{name}: not recorded in both models</title></rect>'
    elif (found := differences[name]) is None:
        shape = f'<rect {box} class="shape"><title>{name}: different shapes</title></rect>'
    elif found.equal:
        shape = f'<rect {box} class="same"><title>{name}: equal</title></rect>'
    else:
        text = f"{found.differing:,} of {found.elements:,} differ, by {found.median_ulp:,} ULP (median) "
        text += f"and up to {found.max_ulp:,} ULP, {found.max_value:.3g} in value"
        shape = f'<rect {box} fill="{colour(found.median_ulp)}"><title>{name}: {text}</title></rect>'
    frame = f'<rect x="{x - 1}" y="{y - 1}" width="{CELL + 2}" height="{height + 2}" rx="5" class="mark"/>'
    return shape + (frame if marked else "")


def colour(ulp: int) -> str:
    return RAMP[min(len(RAMP) - 1, int(math.log2(max(ulp, 1)) / 2))]


def legend(y: float) -> str:
    """The meaning of the colours and of the frame, in one line."""
    entries = [('class="same"', "equal", 70)]
    entries += [(f'fill="{fill}"', f"{4**i:,}", 62 + 6 * (i > 4)) for i, fill in enumerate(RAMP[:-1])]
    entries += [(f'fill="{RAMP[-1]}"', f"{4 ** (len(RAMP) - 1):,}+ ULP", 118)]
    entries += [('class="mark"', "first divergence, first bug", 0)]
    shapes, x = [], LEFT
    for paint, text, advance in entries:
        shapes.append(f'<rect x="{x}" y="{y}" width="24" height="14" rx="3" {paint}/>')
        shapes.append(f'<text x="{x + 29}" y="{y + 11}">{text}</text>')
        x += advance
    return "".join(shapes)
