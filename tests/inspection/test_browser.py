"""The page in a browser, without a window."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from inspection.conftest import content_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed, which draws the page"),
]


def drawn(path, tmp_path) -> str:
    """The document after its scripts have run."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run([*command, "--dump-dom", f"file://{path}#en"], capture_output=True, text=True, timeout=120)
    return done.stdout


def test_the_page_draws_all_it_has(made, tmp_path):
    """Against: an exception in the script, which leaves the rest of the page empty."""
    text, content = drawn(made[0], tmp_path), content_of(made[0])
    assert 'data-check="good"' in text
    assert len(re.findall(r'class="thumb"', text)) == 24
    assert len(re.findall(r'<div class="cell[ "]', text)) == 7 * (len(content["ids"]) - 1)
    for place in ("strip", "norms", "lens-table", "map-readout", "choice-table", "cache-chart"):
        inner = re.search(rf'id="{place}"[^>]*>(.{{40}})', text, re.DOTALL)
        assert inner is not None and inner[1].startswith("<"), place


def test_a_damaged_page_draws_nothing_but_the_error(made, tmp_path):
    text = made[0].read_text("utf-8")
    data = content_of(made[0])["tensors"]["attention.3"]["data"]
    path = tmp_path / "damaged.html"
    path.write_text(text.replace(data, data[:-1] + ("A" if data[-1] != "A" else "B")), encoding="utf-8")
    shown = drawn(path, tmp_path)
    assert 'data-check="bad"' in shown and "Do not trust this page: 1 of" in shown
    assert 'class="thumb"' not in shown
