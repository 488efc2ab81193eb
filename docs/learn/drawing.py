"""Pictures as SVG: a title, axes, and marks in a few colours, light or dark as the system is.

    picture = Picture("Norm of the residual stream", 720, 320)
    x, y = picture.x_axis([0, 10, 20], "position"), picture.y_axis([1, 10, 100], "norm", log=True)
    picture.line([(x(i), y(norm)) for i, norm in enumerate(norms)], "a")
    svg = str(picture)

Colours have names: a, b, c are data, ink is text, faint is text of little weight, soft is a grid line, and paper is the
ground, for text on a strong colour. `name-fill` fills an area or text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

LIGHT = {"paper": "#fdfdfc", "ink": "#1f2328", "faint": "#5f6670", "soft": "#e1e3e6"}
LIGHT |= {"a": "#1f6fb4", "b": "#c9480c", "c": "#1f8552"}
DARK = {"paper": "#1b1d22", "ink": "#e8eaed", "faint": "#a3a9b3", "soft": "#3a3e46"}
DARK |= {"a": "#74b6f2", "b": "#ff9563", "c": "#67cf98"}
FONT = "'Hiragino Sans','Noto Sans JP','Noto Sans CJK JP','Yu Gothic',Meiryo,sans-serif"
Scale = Callable[[float], float]
Point = tuple[float, float]


def style() -> str:
    def variables(colours: dict[str, str]) -> str:
        return "svg{" + "".join(f"--{name}:{colour};" for name, colour in colours.items()) + "}"

    rules = [variables(LIGHT), f"@media (prefers-color-scheme:dark){{{variables(DARK)}}}"]
    rules += [f"text{{font:13px {FONT};fill:var(--ink)}}", ".paper{fill:var(--paper)}", ".title{font-size:15px}"]
    rules += [".small{font-size:11px}", "text.faint{fill:var(--faint)}", "path,line{fill:none;stroke:var(--ink)}"]
    for name in ("ink", "faint", "soft", "paper", "a", "b", "c"):
        rules.append(f"path.{name},line.{name}{{stroke:var(--{name})}}.{name}-fill{{fill:var(--{name})}}")
    return "".join(rules)


class Picture:
    """A drawing with a title above a plot area, which `left`, `right`, `top` and `bottom` (pixels) bound."""

    def __init__(
        self, title: str, width: int = 720, height: int = 340, *, left: int = 64, right: int = 24, below: int = 52
    ):
        self.title, self.width, self.height = title, width, height
        self.left, self.right, self.top, self.bottom = left, width - right, 44, height - below
        self.marks: list[str] = []
        self.text(16, 26, title, "title", anchor="start")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "middle", turn: float = 0) -> None:
        place = f'x="{x:.1f}" y="{y:.1f}"' + (f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else "")
        self.marks.append(f'<text {place} text-anchor="{anchor}"{of_class(kind)}>{escape(text)}</text>')

    def line(self, points: Sequence[Point], kind: str = "", width: float = 1.5, dashed: bool = False) -> None:
        path = "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self.marks.append(f'<path d="{path}" stroke-width="{width:g}"{dashes}{of_class(kind)}/>')

    def arrow(self, start: Point, end: Point, kind: str = "", width: float = 1.5) -> None:
        """A line with a head at its end."""
        angle = math.atan2(end[1] - start[1], end[0] - start[0])
        head = [(end[0] - 7 * math.cos(angle + a), end[1] - 7 * math.sin(angle + a)) for a in (0.45, -0.45)]
        self.line([start, end], kind, width)
        self.line([head[0], end, head[1]], kind, width)

    def dot(self, x: float, y: float, kind: str = "a", radius: float = 3, hover: str = "", opacity: float = 1) -> None:
        self.shape(f'circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"', kind, hover, opacity)

    def box(
        self, x: float, y: float, width: float, height: float, kind: str = "a", hover: str = "", opacity: float = 1
    ) -> None:
        self.shape(f'rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"', kind, hover, opacity)

    def shape(self, tag: str, kind: str, hover: str, opacity: float) -> None:
        faded = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        title = f"><title>{escape(hover)}</title></{tag.split()[0]}>" if hover else "/>"
        self.marks.append(f"<{tag}{of_class(f'{kind}-fill')}{faded}{title}")

    def x_axis(self, ticks: Sequence[float], label: str = "", *, log: bool = False, room: float = 0) -> Scale:
        """Draw an axis from the first tick to the last; returns the place of a number. `room` widens both ends."""
        scale = make_scale(ticks, self.left, self.right, log, room)
        for tick in ticks:
            self.line([(scale(tick), self.bottom), (scale(tick), self.bottom + 4)], "faint", 1)
            self.text(scale(tick), self.bottom + 19, tick_text(tick), "faint small")
        self.line([(self.left, self.bottom), (self.right, self.bottom)], "faint", 1)
        self.text((self.left + self.right) / 2, self.bottom + 40, label, "faint")
        return scale

    def y_axis(self, ticks: Sequence[float], label: str = "", *, log: bool = False, room: float = 0) -> Scale:
        """The same upwards, with a grid line at each tick."""
        scale = make_scale(ticks, self.bottom, self.top, log, room)
        for tick in ticks:
            self.line([(self.left, scale(tick)), (self.right, scale(tick))], "soft", 1)
            self.text(self.left - 8, scale(tick) + 4, tick_text(tick), "faint small", anchor="end")
        self.text(18, (self.top + self.bottom) / 2, label, "faint", turn=-90)
        return scale

    def __str__(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" xml:lang="ja">\n<title>{escape(self.title)}</title>\n'
            f'<style>{style()}</style>\n<rect class="paper" width="100%" height="100%" rx="6"/>\n'
        )
        return head + "\n".join(self.marks) + "\n</svg>\n"


def of_class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def make_scale(ticks: Sequence[float], start: float, end: float, log: bool, room: float) -> Scale:
    place = math.log if log else float
    low, high = place(ticks[0]), place(ticks[-1])
    low, high = low - room * (high - low), high + room * (high - low)
    return lambda value: start + (place(value) - low) / (high - low) * (end - start)


def tick_text(value: float) -> str:
    return f"{value:,g}".replace("-", "−") if abs(value) < 1e6 else f"{value:g}"
