"""The commands of the tour that take too long for `test_learn.py`: they run, after the code above them on the page."""

from __future__ import annotations

import pytest
from test_learn import CHAPTERS, build

from llama_jp import cli

NOT_RUN = "<!--not run-->\n"
PAGES = {name: chapter.pages[0].read_text(encoding="utf-8") for name, chapter in CHAPTERS.items()}
PRINTED = {
    "11-bits": "「ぼくは、ここから出たことがないの。よその町の話を聞かせて。」",
    "12-break-it": "likely cause in docs.learn.mystery:one: eps 1e-05 where config.json has 1e-06",
    "13-training": "クマは家に帰りました。めでたし、めでたし。",
    "14-quantisation": "アザラシに見送られて、クマは家に帰りました。",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, text in PAGES.items() if NOT_RUN in text])
def test_the_commands_run(name, monkeypatch):
    """Guards against a command that fails, and against a saved folder that loses its template."""
    statuses = []
    main = cli.main
    monkeypatch.setattr(cli, "main", lambda words: statuses.append((words[0], main(words))))
    text = PAGES[name].replace(NOT_RUN, "")
    outputs = build.without_random(build.run_blocks, CHAPTERS[name].pages[0], text)
    failed = [command for command, status in statuses if status > (command == "parity")]  # parity: 1 is a difference
    assert statuses and not failed
    consoles = [number for number, block in enumerate(build.code_blocks(text)) if block[1] == "console"]
    assert PRINTED.get(name, "") in "".join(outputs[number] for number in consoles)
