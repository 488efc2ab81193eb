"""--adapter in the commands that take a model."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.adapters import difference, edit_settings, merged_by_peft, train

from llama_jp.checkpoint.load import load_model


@pytest.fixture
def adapter(folder, tmp_path):
    return train(folder, tmp_path / "adapter", target_modules="all-linear")


def test_generate_and_chat_take_an_adapter(run, adapter):
    """Guards against a flag that is accepted and dropped: the merged copy gives the same answer, the base another."""
    words = ("generate", "クマが", "--max-new-tokens", "8", "--dtype", "float32", "--json")
    base = json.loads(run(*words)[1])["ids"]
    status, out, err = run(*words, "--adapter", str(adapter))
    assert status == 0, err
    assert json.loads(out)["ids"] != base
    chat = ("chat", "--max-new-tokens", "4", "--dtype", "float32")
    answers = [run(*chat, *flags, stdin="クマ\n")[1] for flags in ((), ("--adapter", str(adapter)))]
    assert answers[0] != answers[1]


def test_answers_of_an_adapter_are_not_continued_without_it(run, adapter, tmp_path):
    (tmp_path / "in.jsonl").write_text('"a"\n"b"\n')
    words = ("generate", "--prompts", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"))
    flags = ("--max-new-tokens", "2", "--dtype", "float32", "--raw")
    assert run(*words, *flags, "--adapter", str(adapter))[0] == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["model"].endswith(f" with {adapter}")
    (tmp_path / "out.jsonl").write_text(lines[0] + "\n")
    status, _, err = run(*words, *flags)
    assert status == 1 and "model" in err


def test_convert_and_quantize_write_the_merged_weights(run, folder, adapter, tmp_path):
    """Guards against a copy of the base, and against a merge into rounded weights."""
    assert run("convert", str(folder), str(tmp_path / "merged"), "--adapter", str(adapter))[0] == 0
    merged = load_model(tmp_path / "merged", "stored", "cpu")
    assert difference(merged, merged_by_peft(folder, adapter, torch.float16)) == []
    for source, flags in ((folder, ["--adapter", str(adapter)]), (tmp_path / "merged", [])):
        status, _, err = run("quantize", str(tmp_path / source.name) + "-int8", *flags, model=source)
        assert status == 0, err
    states = [load_model(tmp_path / f"{name}-int8").state_dict() for name in (folder.name, "merged")]
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())
    assert (tmp_path / f"{folder.name}-int8" / "tokenizer.model").is_file()
    status, _, err = run("generate", "a", "--adapter", str(adapter), model=tmp_path / "merged-int8")
    assert status == 1 and "cannot be merged into quantised weights" in err and err.count("\n") == 1


def test_bench_takes_an_adapter(run, adapter):
    status, _, err = run("bench", "--dtype", "float32", "--adapter", str(edit_settings(adapter, r=3)))
    assert status == 1 and "does not fit this model: misshapen" in err and err.count("\n") == 1


def test_a_reference_of_evaluate_has_no_adapter(run, folder, adapter):
    """Guards against the adapter in both models, whose distance is then 0."""
    words = ("evaluate", "--text", "prose.ja.txt", "--convention", "llama.cpp", "--window", "64", "--dtype", "float32")
    base, changed = (
        json.loads(run(*words, "--json", *flags)[1])
        for flags in ((), ("--adapter", str(adapter), "--against", str(folder)))
    )
    assert changed["kl"] > 0 and changed["loss"] != base["loss"]
    assert changed["against"][0]["loss"] == base["loss"]
    assert changed["model"] == f"{folder} with {adapter}"


def test_an_adapter_without_a_model_to_merge_it_into(run, adapter):
    status, _, err = run("quantize", "--verify", "x", "--adapter", str(adapter))
    assert status == 1 and "--verify FOLDER takes no MODEL" in err


def test_an_adapter_in_the_place_of_the_model(run, folder, adapter):
    status, _, err = run("generate", "a", model=adapter)
    assert status == 1 and f"it is a PEFT adapter: name its base model {folder}, and this folder with --adapter" in err
