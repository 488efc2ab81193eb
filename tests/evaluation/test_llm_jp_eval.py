"""The script of docs/evaluate.md between llm-jp-eval's files and `llama-jp generate --prompts`."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

from llama_jp.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "evaluate.md"


def test_the_script_of_the_page_carries_prompts_out_and_answers_in(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r'```python\n("""python llm_jp_eval.py.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "llm_jp_eval.py").write_text(code, encoding="utf-8")
    data = {"target_dataset": "jamp", "output_length": 4, "config": {}, "samples": [{"prompt": "犬は\n", "gold": "x"}]}
    data["samples"].append({"prompt": "クマが", "gold": "y"})
    (tmp_path / "jamp.eval-prompt.json").write_text(json.dumps(data), encoding="utf-8")

    def run(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["llm_jp_eval.py", *words])
        runpy.run_path(str(tmp_path / "llm_jp_eval.py"))

    prompts, lines, answers = (str(tmp_path / name) for name in ("jamp.eval-prompt.json", "p.jsonl", "a.jsonl"))
    run("out", prompts, lines)
    flag, length = capsys.readouterr().out.split()
    assert main(["generate", "--raw", "--greedy", "--prompts", lines, "--out", answers, flag, length]) == 0
    run("in", prompts, answers, str(tmp_path))
    found = json.loads((tmp_path / "jamp.eval-generated.json").read_text(encoding="utf-8"))
    texts = [json.loads(line)["text"] for line in Path(answers).read_text(encoding="utf-8").splitlines()]
    assert [sample["generated"] for sample in found["samples"]] == texts and all(texts)
    assert [sample["gold"] for sample in found["samples"]] == ["x", "y"]
