"""A comparison as one HTML page that needs nothing but itself, for a light and a dark screen."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

from ...environment import describe_environment
from ...numerics import Difference
from ..modes.forward import Comparison
from ..requests import Request
from .text import HEAD, cells, measured, place, side_text

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

# Colours for 1 ULP up to 2^16 and more, read off in order; the same on both grounds.
RAMP = ("#9cc9c0", "#7fb6c6", "#6d9bc9", "#7a7fc4", "#9a66b5", "#b94f93", "#cf4468", "#d6453d")
COLUMNS = (
    "input_layernorm",
    *(f"self_attn.{point}" for point in ("q_proj", "k_proj", "v_proj", "q_rot", "k_rot", "keys", "values")),
    *(f"self_attn.{point}" for point in ("scores", "probabilities", "attn_output", "o_proj")),
    "after_attention",
    "post_attention_layernorm",
    *(f"mlp.{point}" for point in ("gate_proj", "up_proj", "mlp_act", "down_proj")),
    "",
)
CELL, GAP, LEFT, TOP = 38, 3, 92, 118


def write_page(file: Path, request: Request, comparisons: list[Comparison]) -> None:
    file.write_text(page(request, comparisons), encoding="utf-8")


def page(request: Request, comparisons: list[Comparison]) -> str:
    sides = " against ".join(escape(side["name"]) for side in comparisons[0].sides)
    about = " · ".join(escape(side_text(side)) for side in comparisons[0].sides)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Parity: {sides}</title><style>{STYLE}</style></head><body><main>
<h1>{sides}</h1><div class="soft">{about}</div>
<div class="card">{summary(comparisons)}</div>
{"".join(map(section, comparisons))}
<h2>Made with</h2><div class="card">{facts(describe_environment() | settings(request))}</div>
</main></body></html>
"""


def settings(request: Request) -> dict:
    kept = {key: value for key, value in request.as_dict().items() if value is not None}
    return {key: ", ".join(f"{k} {v}" for k, v in value.items() if v is not None) if isinstance(value, dict) else value
            for key, value in kept.items()}  # fmt: skip


def facts(values: dict) -> str:
    def shown(value: object) -> str:
        return escape(", ".join(map(str, value)) if isinstance(value, list) else str(value))

    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{shown(v)}</dd>" for k, v in values.items()) + "</dl>"


def summary(comparisons: list[Comparison]) -> str:
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    rows = ""
    for comparison in comparisons:
        mode, verdict, *rest = cells(comparison)
        rows += f'<tr><td>{mode}</td><td class="verdict {comparison.verdict}">{verdict}</td>'
        rows += "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
    return f"<table><tr>{head}</tr>{rows}</table>"


def section(comparison: Comparison) -> str:
    parts = [f"<h2>{comparison.mode}</h2>"]
    if told := told_about(comparison):
        parts.append(f'<div class="card">{told}</div>')
    if comparison.rows:
        what = (
            "Each operation by its usual distance in ULP, of the call where that is largest; point at one for numbers."
        )
        parts.append(f'<div class="card"><div class="soft">{what}</div>{picture(comparison)}</div>')
    return "".join(parts)


def told_about(comparison: Comparison) -> str:
    parts = []
    for title, finding in (("First divergence", comparison.divergence), ("First bug", comparison.bug)):
        if finding is None or (title == "First bug" and finding is comparison.divergence):
            continue
        lines = "<br>".join(escape(line.strip()) for line in measured(finding))
        parts.append(
            f'<div><b>{title}:</b> {escape(place(finding))}: <span class="verdict {finding.verdict}">'
            f'{finding.verdict}</span></div><div class="soft">{lines}</div>'
        )
    if comparison.bug is not None:
        cause = escape(comparison.bug.cause or "none of the known mistakes")
        parts.append(f'<div class="cause">Likely cause: <b>{cause}</b></div>')
    parts += [f"<div>{escape(note)}</div>" for note in comparison.notes]
    return "".join(parts)


def picture(comparison: Comparison) -> str:
    """Layers downwards, operations to the right; the colour is the usual ULP distance, of the worst call."""
    apart: dict[str, Difference | None] = {}
    for row in comparison.rows:
        name, here = row.operation.name, row.difference
        before = apart.setdefault(name, here)
        if here is None or (before is not None and here.median_ulp > before.median_ulp):
            apart[name] = here
    marked = {each.operation for each in (comparison.divergence, comparison.bug) if each is not None}
    layers = 1 + max((row.operation.layer for row in comparison.rows if row.operation.layer is not None), default=-1)
    shown = marked | apart.keys()
    columns = [each for each in COLUMNS if any(point(layer, each) in shown for layer in range(layers))]
    height = CELL if layers <= 16 else 20

    drawn = [
        f'<text transform="translate({LEFT + i * (CELL + GAP) + 22},{TOP - 8}) rotate(-48)">{title(each)}</text>'
        for i, each in enumerate(columns)
    ]
    lines = [("before", ("embed_tokens", "rope.cos", "rope.sin"))]
    lines += [(f"layer {n}", tuple(point(n, column) for column in columns)) for n in range(layers)]
    lines += [("after", ("norm", "lm_head", "logits"))]
    y = TOP
    for heading, names in lines:
        inside = heading.startswith("layer")
        drawn.append(f'<text x="0" y="{y + height / 2 + 4}">{heading}</text>')
        for i, name in enumerate(names):
            x = LEFT + i * (CELL + GAP if inside else 3.5 * CELL)
            drawn.append(cell(name, apart, x, y, height, name in marked))
            if not inside:
                drawn.append(f'<text x="{x + CELL + 6}" y="{y + height / 2 + 4}">{name}</text>')
        y += height + GAP
    width = LEFT + max(len(columns) * (CELL + GAP), 880)
    return (
        f'<svg viewBox="0 0 {width} {y + 44}" width="{width}" role="img" aria-label="ULP distance of every operation">'
        f"{''.join(drawn)}{legend(y + 14)}</svg>"
    )


def point(layer: int, column: str) -> str:
    return f"layers.{layer}.{column}" if column else f"layers.{layer}"


def title(column: str) -> str:
    return column.rpartition(".")[2] or "output"


def cell(name: str, apart: dict[str, Difference | None], x: float, y: float, height: float, marked: bool) -> str:
    box = f'x="{x}" y="{y}" width="{CELL}" height="{height}" rx="4"'
    mark = f'<rect x="{x - 1}" y="{y - 1}" width="{CELL + 2}" height="{height + 2}" rx="5" class="mark"/>'
    if name not in apart:
        drawn = f'<rect {box} class="none"><title>{name}: not seen on both sides</title></rect>'
    elif (found := apart[name]) is None:
        drawn = f'<rect {box} class="shape"><title>{name}: another shape</title></rect>'
    elif found.equal:
        drawn = f'<rect {box} class="same"><title>{name}: equal</title></rect>'
    else:
        said = f"{found.differing:,} of {found.elements:,} differ, {found.median_ulp:,} ULP usually, "
        said += f"{found.max_ulp:,} at most, {found.max_value:.3g} in value"
        drawn = f'<rect {box} fill="{colour(found.median_ulp)}"><title>{name}: {said}</title></rect>'
    return drawn + (mark if marked else "")


def colour(ulp: int) -> str:
    return RAMP[min(len(RAMP) - 1, int(math.log2(max(ulp, 1)) / 2))]


def legend(y: float) -> str:
    """What the colours and the frame mean, in one line."""
    parts = [("same", "", "equal", 70)]
    parts += [("", fill, f"{4**i:,}", 62 + 6 * (i > 4)) for i, fill in enumerate(RAMP[:-1])]
    parts += [("", RAMP[-1], f"{4 ** (len(RAMP) - 1):,}+ ULP", 118), ("mark", "", "first divergence, first bug", 0)]
    drawn, x = [], LEFT
    for kind, fill, text, advance in parts:
        paint = f'class="{kind}"' if kind else f'fill="{fill}"'
        drawn.append(f'<rect x="{x}" y="{y}" width="24" height="14" rx="3" {paint}/>')
        drawn.append(f'<text x="{x + 29}" y="{y + 11}">{text}</text>')
        x += advance
    return "".join(drawn)
