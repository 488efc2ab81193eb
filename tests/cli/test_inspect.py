"""llama-jp inspect."""

from __future__ import annotations

import pytest

from llama_jp import Tokenizer


def test_it_writes_a_page_and_prints_the_answer(run, folder, tmp_path):
    path = tmp_path / "page.html"
    status, out, err = run("inspect", "クマが", "--report", str(path), "--max-new-tokens", "3", "--compare", "demo")
    text = path.read_text("utf-8")
    assert status == 0 and str(path) in err and "prompt: " in err and out.strip() != ""
    assert '"name":"demo","text":"クマが"' in text and text.startswith("<!doctype html>")


def test_the_prompt_is_that_of_generate(run, folder, tmp_path):
    """Against: a page of another prompt than `llama-jp generate` answers."""
    for flags in ([], ["--raw"], ["--system", "短く"]):
        _, answer, _ = run("generate", "クマ", "--max-new-tokens", "5", *flags)
        _, shown, _ = run("inspect", "クマ", "--max-new-tokens", "5", "--report", str(tmp_path / "page.html"), *flags)
        assert shown == answer


def test_drafts_are_shown(run, folder, tmp_path):
    flags = ["--prompt-lookup-num-tokens", "3", "--max-new-tokens", "6", "--layers", "1", "--heads", "0,2"]
    status, _, err = run("inspect", "クマ、クマ、クマ", "--report", str(tmp_path / "page.html"), *flags)
    assert status == 0, err
    assert '"layers":[1],"heads":[0,2]' in (tmp_path / "page.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--layers", "7"], "there is no layer 7; the model has layers 0 to 1"),
        (["--report", "nowhere/page.html"], "there is no folder"),
        (["--compare", "nowhere"], "nowhere"),
        (["--past-context", "shift"], "which the page cannot show; leave it out"),
    ],
)
def test_mistakes_take_one_line(run, tmp_path, monkeypatch, flags, sentence):
    monkeypatch.chdir(tmp_path)
    status, _, err = run("inspect", "クマ", "--report", "page.html", *flags)
    assert status == 1 and sentence in err and len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_text_begins_with_bos(run, folder, tmp_path):
    status, _, err = run("inspect", "", "--raw", "--report", str(tmp_path / "page.html"), "--max-new-tokens", "1")
    assert status == 0, err
    assert f'"ids":[{Tokenizer.from_pretrained(folder).bos_id},' in (tmp_path / "page.html").read_text("utf-8")
