"""The demo, and one page of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import llama_jp
from llama_jp.inspection import report

TEXT = "クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"


@pytest.fixture(scope="session")
def demo():
    return llama_jp.load("demo", dtype="float32")


@pytest.fixture(scope="session")
def made(demo, tmp_path_factory):
    """A page of a sampled answer, and its run."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    run = report(demo[0], TEXT, path, max_new_tokens=6, do_sample=True, temperature=0.8, top_p=0.9, seed=3)
    return path, run


def content_of(path: Path) -> dict[str, Any]:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])
