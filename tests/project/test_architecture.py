"""docs/architecture.svg and its Japanese version: what the code draws today, with numbers of the configuration."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", DOCS / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize(("name", "japanese"), [("architecture.svg", False), ("architecture.ja.svg", True)])
def test_the_picture_is_the_one_that_the_code_draws(drawing, name, japanese):
    """Guards against a picture of an earlier model.py. `python docs/draw_architecture.py` draws it again."""
    drawn = drawing.draw(drawing.SIZES, drawing.FAST_VOCABULARY, japanese)
    assert (DOCS / name).read_text(encoding="utf-8") == drawn
    assert ("残差ストリーム (B, T, 4096)" if japanese else "residual stream (B, T, 4096)") in words(drawn)
    assert "prefers-color-scheme:dark" in drawn


def test_every_number_comes_from_the_configuration(drawing):
    """Guards against a size that is typed: another model has other numbers everywhere, shared heads included."""
    sizes = {"vocab_size": 700, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 10}
    small = drawing.draw(dataclasses.replace(drawing.SIZES, **sizes, **heads), 900, japanese=False)
    shown = words(small)
    assert not any(number in " ".join(shown) for number in ("4096", "11008", "32", "128", "45043"))
    expected = ["48 → 60", "48 → 20", "60 → 48", "48 → 80", "80 → 48", "(B, 6, T, 10)", "(B, 2, T, 10)"]
    expected += [
        "k, v (B, 2, S, 10)",
        "scores (B, 6, T, S) → (B, 6, T, 10)",
        "Block × 3",
        "embed_tokens 700 (fast 900) × 48",
    ]
    assert set(expected) <= set(shown)


def test_both_pictures_have_the_same_numbers_and_names_of_code():
    english, japanese = (
        sorted(
            re.findall(r"(?a:\d[\d.,]*|\w+\(\)|\w+_\w+)", " ".join(words((DOCS / name).read_text(encoding="utf-8"))))
        )
        for name in ("architecture.svg", "architecture.ja.svg")
    )
    assert english == japanese and len(english) > 50
