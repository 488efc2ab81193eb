"""The commands of the tour that take too long for `test_learn.py`: they run, after the code above them on the page."""

from __future__ import annotations

import pytest
from test_learn import CHAPTERS, build

NOT_RUN = "<!--not run-->\n"
PRINTED = {
    "11-bits": ["「ぼくは、ここから出たことがないの。よその町の話を聞かせて。」"],
    "12-break-it": ["likely cause in docs.learn.mystery:one: eps 1e-05 where config.json has 1e-06"],
    "13-training": ["クマは家に帰りました。めでたし、めでたし。"],
    "14-quantisation": ["アザラシに見送られて、クマは家に帰りました。", "equal: every number as certified"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, chapter in CHAPTERS.items() if NOT_RUN in chapter.pages[0].read_text()]
)
def test_the_commands_run(name):
    """Guards against a command that fails, and against a saved folder that loses its template."""
    page = CHAPTERS[name].pages[0]
    text = page.read_text(encoding="utf-8").replace(NOT_RUN, "")
    outputs = build.without_random(build.run_blocks, page, text)
    consoles = [number for number, block in enumerate(build.code_blocks(text)) if block[1] == "console"]
    printed = "".join(outputs[number] for number in consoles)
    assert "llama-jp: " not in printed
    for line in PRINTED.get(name, []):
        assert line in printed
