"""The page in a browser, without a window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from inspection.conftest import TEXT, content_of

from llama_jp.inspection import report
from llama_jp.inspection.operations import OPERATIONS

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


WALK = """(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const widths = new Set(), titles = [];
  const look = () => widths.add(document.documentElement.scrollWidth <= innerWidth);
  for (const language of ["en", "ja"]) {
    document.querySelector(`[data-language=${language}]`).click();
    for (let i = 0; i < 25; i++) {
      titles.push(document.querySelector(".card:not([hidden])").dataset.op);
      look();
      document.querySelector("#continue").click();
    }
    for (const button of all("#strip button, #steps button, .thumb")) button.click();
    for (let i = 0; i < 60; i += 7) all(".lens .cell")[i].click(); // the table is drawn anew at each
    look();
  }
  const map = document.querySelector("#map");
  all("#strip button")[5].click();
  press(map, "ArrowDown");
  press(map, "ArrowRight");
  const spoken = map.getAttribute("aria-label");
  document.querySelector(".lens .cell.here").focus();
  press(document.activeElement, "ArrowRight");
  const lens = [document.activeElement.dataset.row, document.activeElement.dataset.position].join();
  const [cross, canvas] = [".cross", "#map canvas"].map((each) => document.querySelector(each).getBoundingClientRect());
  const marked = [cross.top - canvas.top, cross.left - canvas.left].map((x) => Math.round(x / cross.height)).join();
  const unnamed = all("button, [role=listbox], [role=grid], [role=application], svg[role=img]")
    .filter((each) => !each.getAttribute("aria-label") && !each.textContent.trim()).length;
  const text = document.body.innerText.includes("undefined");
  const rows = new Set(all(".thumb").slice(0, 4).map((thumb) => thumb.getBoundingClientRect().top)).size;
  return { titles, rows, fits: [...widths], spoken, marked, lens, unnamed, text };
})()"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed, which drives the browser")
def test_a_walk_through_the_page(demo, tmp_path):
    """Every button and arrow key, in both themes and languages, at 390 and 1,600 pixels.

    Against: exceptions, requests, a page that scrolls sideways, and controls without a name for screen readers.
    """
    path = tmp_path / "page.html"
    report(demo[0], TEXT, path, compare={"other": demo[1]}, max_new_tokens=12, prompt_lookup_num_tokens=3)
    driver = Path(__file__).parents[1] / "helpers" / "browser.js"
    steps = [{"width": width, "dark": dark, "script": WALK} for width, dark in ((390, True), (1600, False))]
    command = ["node", str(driver), CHROMIUM, str(tmp_path / "profile"), str(path), json.dumps(steps)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout)
    assert found["exceptions"] == []
    assert set(found["requests"]) == {f"file://{path}"}
    for result in found["results"]:
        assert result["titles"] == [operation.name for operation in OPERATIONS] * 2
        assert result["rows"] == 1, "the heads of a layer stand side by side"
        assert result["fits"] == [True] and result["unnamed"] == 0 and not result["text"]
        assert result["marked"] == "7,1"  # row and column of the frame in the map
        assert "重み" in result["spoken"] and result["lens"].split(",")[1] == "7"
