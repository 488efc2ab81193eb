"""The losses of a run as a picture: an SVG file, which browsers and notebooks show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 360, 60, 20, 40, 40
TRAINING, HELD_OUT = "#999999", "#c2410c"
MOST_POINTS = 400  # of the training line; each is a mean


def draw_curve(log: Sequence[dict[str, Any]], title: str) -> str:
    """The SVG of a log: training loss as a line, held-out loss as points on a line."""
    training = [(entry["step"], entry["loss"]) for entry in log if "loss" in entry]
    group = max(1, math.ceil(len(training) / MOST_POINTS))
    parts = [training[i : i + group] for i in range(0, len(training), group)]
    means = [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]
    held_out = [(entry["step"], entry["held_out"]) for entry in log if "held_out" in entry]
    steps, losses = zip(*(means + held_out), strict=True)
    ticks = nice_ticks(min(losses), max(losses))
    last = max(steps)

    def place(point: tuple[float, float]) -> str:
        x = LEFT + (WIDTH - LEFT - RIGHT) * point[0] / max(1, last)
        y = TOP + (HEIGHT - TOP - BOTTOM) * (ticks[-1] - point[1]) / (ticks[-1] - ticks[0])
        return f"{x:.1f},{y:.1f}"

    def line(points: Sequence[tuple[float, float]], colour: str) -> str:
        path = " ".join(map(place, points))
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'

    shapes = []
    for tick in ticks:
        y = place((0, tick)).split(",")[1]
        shapes.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#dddddd"/>')
        shapes.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{tick:g}</text>')
    for step in sorted({0, last // 2, last}):
        x = place((step, ticks[0])).split(",")[0]
        shapes.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step}</text>')
    shapes += [line(means, TRAINING), line(held_out, HELD_OUT)]
    for point in held_out:
        x, y = place(point).split(",")
        shapes.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{HELD_OUT}"/>')
    shapes.append(f'<text x="{LEFT}" y="20" font-weight="bold">{escape(title)}</text>')
    legend = f'<tspan fill="{TRAINING}">training</tspan>'
    legend += f' <tspan fill="{HELD_OUT}">held-out</tspan>' if held_out else ""
    shapes.append(f'<text x="{WIDTH - RIGHT}" y="20" text-anchor="end">{legend} (nats per token)</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(shapes)}</svg>\n'
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers around a range: steps of 1, 2 or 5 times a power of ten, four to ten of them."""
    span = max(high - low, 1e-6)
    unit = 10 ** math.floor(math.log10(span / 4))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
