"""docs/filters.svg is what docs/make_pictures.py draws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import llama_jp

DOCS = Path(__file__).parents[2] / "docs"
sys.path[:0] = [str(DOCS), str(DOCS / "learn")]

from build import same_picture  # noqa: E402
from make_pictures import PANELS, draw, next_logits, probabilities  # noqa: E402


@pytest.fixture(scope="module")
def demo():
    return llama_jp.load("demo", dtype="float32", device="cpu")


def test_the_picture_of_the_filters_is_not_stale(demo):
    """Guards against a picture that shows another formula, another option or another model."""
    drawn = draw(*next_logits(*demo), demo[1])
    assert same_picture((DOCS / "filters.svg").read_text(encoding="utf-8"), drawn)


def test_every_filter_of_the_picture_shows(demo):
    """Guards against a panel whose filter changes nothing at this token."""
    ids, logits = next_logits(*demo)
    for options in PANELS:
        assert (probabilities(ids, logits, options) - logits.softmax(-1)[0]).abs().max() > 0.02, options
