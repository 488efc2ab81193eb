"""The reports: lines of text, and one HTML page."""

from __future__ import annotations

import re

from helpers.compared_models import IDS, here, parity, reference

from llama_jp.environment import describe_environment
from llama_jp.parity import Settings, as_compared_model, compare
from llama_jp.parity.report.html import html_report, largest_differences, short
from llama_jp.parity.report.text import HEAD, text_report
from llama_jp.parity.requests import Request


def test_the_html_report_loads_no_other_file(folder, tmp_path, capsys):
    file = tmp_path / "out.html"
    parity("--model", str(folder), "--dtype", "float32", "--against-attention", "eager", "--report", str(file))
    html = file.read_text(encoding="utf-8")
    assert "First divergence" in html and re.search('class="op [^"]*mark"', html)
    assert "prefers-color-scheme: dark" in html and "max-width: 760px" in html
    assert not re.search(r"(src|href)=|https?://|@import|url\(", html)
    assert describe_environment()["torch"] in html


def test_the_text_report_names_the_first_divergence_and_the_cause(folder):
    model = here(folder, attention="eager")
    model.layers[2].input_layernorm.eps *= 10
    text = text_report([compare(as_compared_model(model, Settings(attention="eager"), "mine"), reference(folder), IDS)])
    lines = text.splitlines()
    assert lines[0] == "mine (float32, eager) against transformers (float32, sdpa)"
    assert lines[2].split("  ")[0] == "mode" and lines[3].startswith("whole  bug")
    assert re.search(r"first divergence: row 0, token \d, layer 0, layers.0.self_attn.attn_output .*: rounding", text)
    assert "first bug: row 0, token 0, layer 2, layers.2.input_layernorm (RMSNorm)" in text
    assert "likely cause in mine: eps 1e-05" in text


def test_the_map_shows_each_operation_in_its_worst_call(folder):
    """Guards against a map of the first call only."""
    model = here(folder, attention="eager")
    found = compare(model, reference(folder), IDS, "steps")
    name = "layers.3"
    medians = [row.difference.median_ulp for row in found.rows if row.operation.name == name]
    assert len(set(medians)) > 1
    assert largest_differences(found)[name].median_ulp == max(medians)


def test_every_number_of_the_map_is_visible_and_named_in_a_table(folder):
    """Guards against numbers that only a mouse can show."""
    found = compare(here(folder, attention="eager"), reference(folder), IDS)
    html = html_report(Request(), [found])
    visible = re.sub(r'title="[^"]*"', "", html)
    for row in found.rows:
        if not row.difference.equal:
            assert re.search(rf"<td[^>]*>{row.operation.name}</td>.*?<td[^>]*>{row.difference.max_ulp:,}</td>", visible)
    logits = found.rows[-1].difference
    assert f"{short(logits.median_ulp)}<i>≤ {short(logits.max_ulp)}</i>" in visible
    assert "The models differ by rounding only" in visible and "same top-1" in visible


def test_short_numbers():
    numbers = {0: "0", 7: "7", 950: "950", 3124: "3.1k", 31_239: "31k", 8_316_416: "8.3M", 3_226_080_652: "3G"}
    assert {number: short(number) for number in numbers} == numbers


def test_the_effect_on_the_prediction_stands_before_the_largest_ulp_distance(folder):
    """Guards against "max ULP 31,239 / rounding" as the first thing that a reader sees."""
    assert HEAD.index("same top-1") < HEAD.index("max KL") < HEAD.index("median ULP") < HEAD.index("max ULP")
    text = text_report([compare(here(folder, attention="eager"), reference(folder), IDS)])
    assert "the steps are smallest there" in text


def test_names_are_escaped_in_the_html_report(folder):
    first = as_compared_model(here(folder), name="<script>")
    html = html_report(Request(), [compare(first, reference(folder), IDS)])
    assert "<script>" not in html and "&lt;script&gt;" in html
