"""llama-jp generate --prompts: a file of prompts, several at a time, resumable."""

from __future__ import annotations

import json

import pytest

import llama_jp
from llama_jp.generation.in_flight import ManyGenerations

PROMPTS = [{"prompt": "犬", "id": "a"}, "猫は長い長い長い坂を下りて", {"prompt": "水の中の\n魚"}, "鳥", "犬と猫"]


@pytest.fixture
def answer(run, tmp_path):
    """Answer PROMPTS; returns the exit status, the answers by line, and standard error."""
    lines = [json.dumps(prompt, ensure_ascii=False) for prompt in PROMPTS]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines[:2], "", *lines[2:]]) + "\n", encoding="utf-8")

    def answer(*flags: str, out: str = "out.jsonl"):
        words = ("--prompts", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / out), "--dtype", "float32")
        status, printed, err = run("generate", *words, "--max-new-tokens", "6", *flags)
        assert printed == ""
        text = (tmp_path / out).read_text(encoding="utf-8") if (tmp_path / out).exists() else ""
        return status, [json.loads(line) for line in text.splitlines()], err

    return answer


def test_every_line_has_the_answer_of_a_single_run(answer, run, folder):
    status, answers, err = answer("--batch", "2")
    assert status == 0 and "5 answers, 5 of them new" in err
    assert "2 prompts at a time; KV cache: up to " in err.splitlines()[0]
    assert [each["line"] for each in answers] == [1, 2, 4, 5, 6], "in the order of the file, whatever the batches"
    assert answers[0]["id"] == "a" and answers[2]["prompt"] == "水の中の\n魚"
    for each in answers:
        single = json.loads(run("generate", each["prompt"], "--json", "--dtype", "float32", "--max-new-tokens", "6")[1])
        assert {key: each[key] for key in ("text", "ids", "finish_reason")} == {
            key: single[key] for key in ("text", "ids", "finish_reason")
        }
        assert each["prompt_tokens"] == len(single["prompt_ids"]) and each["model"] == str(folder)


@pytest.mark.parametrize("sampling", [(), ("--temperature", "2.0"), ("--temperature", "2.0", "--seed", "7")])
def test_the_same_command_goes_on_after_an_interruption(answer, tmp_path, monkeypatch, sampling):
    """Also where a line is cut in the middle, and with the random seed of the first run."""
    answer("--batch", "2", *sampling)
    complete = (tmp_path / "out.jsonl").read_bytes()
    lines = complete.splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(lines[3] + lines[1] + lines[0][:40])
    generated = []
    stream_many = llama_jp.stream_many
    monkeypatch.setattr(
        "llama_jp.cli.prompts_file.stream_many", lambda m, p, **o: generated.extend(p) or stream_many(m, p, **o)
    )
    status, answers, err = answer("--batch", "3", *sampling)
    assert status == 0 and len(generated) == 3 and "5 answers, 3 of them new" in err
    assert (tmp_path / "out.jsonl").read_bytes() == complete
    monkeypatch.setattr("llama_jp.cli.prompts_file.open_model", lambda args, rows: pytest.fail("nothing is left to do"))
    assert "all 5 prompts are answered already" in answer(*sampling)[2]


def test_a_cut_line_is_removed_before_the_next_answer(answer, tmp_path, monkeypatch):
    """Guards against an answer appended to half a line: a second interruption would then leave an unreadable file."""
    answer("--batch", "2")
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(lines[0] + lines[1][:40])

    class Interrupted(ManyGenerations):
        def __iter__(self):
            yield next(super().__iter__())
            raise KeyboardInterrupt

    monkeypatch.setattr("llama_jp.generation.interface.ManyGenerations", Interrupted)
    status, answers, _ = answer("--batch", "1")
    assert status == 130 and len(answers) == 2
    monkeypatch.undo()
    assert answer("--batch", "2")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b"".join(lines)


def test_beam_search_answers_one_prompt_after_the_other(answer, run):
    _, answers, err = answer("--num-beams", "2")
    single = run("generate", "鳥", "--num-beams", "2", "--json", "--dtype", "float32", "--max-new-tokens", "6")[1]
    assert len(answers) == 5 and answers[3]["ids"] == json.loads(single)["answers"][0]["ids"]


def test_answers_of_other_settings_are_not_mixed(answer, tmp_path):
    answer()
    lines = (tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(b"".join(lines[:2]))
    for flags, sentence in (
        (("--top-k", "3"), "options was {'max_new_tokens': 6} and is "),
        (("--raw",), "prompt_tokens was "),
    ):
        status, answers, err = answer(*flags)
        assert status == 1 and len(answers) == 2 and sentence in err, err
    (tmp_path / "other.jsonl").write_text('{"line": 1}\n', encoding="utf-8")
    status, _, err = answer(out="other.jsonl")
    assert status == 1 and "other.jsonl, line 1 is no answer to these prompts" in err


def test_a_prompt_that_is_too_long_is_named_before_the_first_answer(answer, tmp_path):
    with (tmp_path / "in.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps("犬" * 600) + "\n")
    status, answers, err = answer()
    assert status == 1 and answers == [] and "in.jsonl, line 7: the prompt has " in err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("[1]", 'line 7 is no string and no object with a text in "prompt"'),
        ('{"text": "x"}', "line 7 is no string"),
        ('{"prompt": 3}', "line 7 is no string"),
        ('{"prompt": "x", "ids": 3}', 'line 7 has the key "ids", which belongs to the answer'),
        ("犬", "line 7 is not JSON"),
    ],
)
def test_a_wrong_line_is_named(answer, tmp_path, line, sentence):
    with (tmp_path / "in.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    status, answers, err = answer()
    assert status == 1 and answers == [] and sentence in err and err.count("\n") == 1
