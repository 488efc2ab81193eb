"""docs/trace.md: its examples run, and the Japanese page shows the same code."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def code(page):
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.M | re.S)


def test_the_examples_run(capsys):
    exec(compile("\n".join(code("trace.md")), "trace.md", "exec"), {})
    assert capsys.readouterr().out.split("\n")[:3] == [
        "torch.Size([1, 9, 256])",
        "torch.Size([256])",
        "torch.Size([1, 9, 256])",
    ]


def test_both_languages_show_the_same_code():
    def without_comments(page):
        return [re.sub(r" *#.*", "", block) for block in code(page)]

    assert without_comments("trace.md") == without_comments("trace.ja.md")
