"""The operations of the page, beside model.py."""

from __future__ import annotations

import re

import pytest

from llama_jp.inspection.interface import PAGE
from llama_jp.inspection.operations import OPERATIONS, highlighted, quote
from llama_jp.tracing import point_names

CARDS = (PAGE / "cards.html").read_text("utf-8")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_finds_its_lines(demo, operation):
    """Goes red when a quoted line of model.py changes: then the card's sentence and equation may be wrong as well."""
    model = demo[0]
    source = quote(operation.source(model, model.layers[0]))
    assert source is not None
    for part in operation.lines:
        assert len(highlighted(source["lines"], (part,))) == 1, f"{part!r} in {source['name']} of {source['file']}"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_a_card(demo, operation):
    card = re.search(rf'<article class="card" data-op="{operation.name}" hidden>(.*?)</article>', CARDS, re.DOTALL)
    assert card is not None and "<math" in card[1]
    assert card[1].count('lang="en"') == card[1].count('lang="ja"') == 2
    assert operation.point == "" or operation.point_in(0) in point_names(demo[0])


def test_inputs_are_earlier_operations():
    """The residual stream alone comes from the layer before."""
    names = [operation.name for operation in OPERATIONS]
    assert names == re.findall(r'data-op="(\w+)"', CARDS)
    for i, operation in enumerate(OPERATIONS):
        assert all(name in names[:i] or name == "block" for name in operation.inputs)


def test_the_rail_shows_every_operation():
    """Against: an operation that is missing in operations.js, which lists them in groups."""
    script = (PAGE / "operations.js").read_text("utf-8")
    groups = script[script.index("const GROUPS") : script.index("const STREAM")]
    listed = [
        name for names in re.findall(r"names: \[(.*?)\]", groups, re.DOTALL) for name in re.findall(r'"(\w+)"', names)
    ]
    assert listed == [operation.name for operation in OPERATIONS]


def test_both_languages_say_everything():
    """Every text of the page has a Japanese and an English form."""
    for file in ("page.html", "cards.html"):
        text = (PAGE / file).read_text("utf-8")
        assert text.count('<span lang="en">') == text.count('<span lang="ja">') > 20
