"""docs/generation.md and its Japanese version: every option is explained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llama_jp.generation.options import Options

DOCS = Path(__file__).parents[2] / "docs"
NOT_OPTIONS_OF_THEIR_OWN = {"do_sample"}  # in the example


@pytest.mark.parametrize("page", ["generation.md", "generation.ja.md"])
def test_every_option_is_explained(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    names = {field.name for field in dataclasses.fields(Options)} - NOT_OPTIONS_OF_THEIR_OWN
    assert {name for name in names if f"`{name}" not in text} == set()
