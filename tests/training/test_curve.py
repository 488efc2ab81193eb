"""The picture of a run."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from llama_jp.training.curve import MOST_POINTS, draw_curve, nice_ticks


@pytest.mark.parametrize("steps", [1, 2, 7, 3000])
@pytest.mark.parametrize("held_out", [False, True])
def test_the_picture_is_valid_and_inside_its_frame(steps, held_out):
    log = [
        {"step": step, "loss": 5 / step} | ({"held_out": 6 / step} if held_out else {}) for step in range(1, steps + 1)
    ]
    root = ElementTree.fromstring(draw_curve(log, "クマ & <ネコ>"))
    lines = [line.get("points").split() for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(lines) == 2 and 1 <= len(lines[0]) <= MOST_POINTS and len(lines[1]) == steps * held_out
    for point in lines[0] + lines[1]:
        x, y = map(float, point.split(","))
        assert 60 <= x <= 700 and 40 <= y <= 320
    assert any("クマ & <ネコ>" in (text.text or "") for text in root.iter("{http://www.w3.org/2000/svg}text"))


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.31), (1.0, 1.0), (0.0, 12.3), (1e-5, 2e-5), (7.98, 8.01)])
def test_ticks_are_few_and_around_the_range(low, high):
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-9 and ticks[-1] >= high - 1e-9 and 2 <= len(ticks) <= 8
