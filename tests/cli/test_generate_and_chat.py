"""The options of generation from the command line: all of them there, in groups, and doing what they do in Python."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import random

import pytest
import torch
from helpers.reference import random_config, save_random
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.cli import main, make_parser
from llama_jp.cli.common import common_prefix
from llama_jp.generation.options import Options

# Functions cannot be typed; a single prompt has no padding; --greedy and --sample are do_sample.
NOT_TYPED = {"prefix_allowed_tokens_fn", "logits_processor", "stopping_criteria", "pad_token_id", "do_sample"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    folder = llama_folder(tmp_path_factory.mktemp("cli"))
    V = llama_jp.Tokenizer.from_pretrained(folder).vocab_size
    config = random_config(random.Random(3), "default") | {"vocab_size": V, "max_position_embeddings": 400}
    return save_random(folder, 11, **config)


def run(capsys, folder, *arguments: str) -> tuple[str, str]:
    assert main(["generate", "--model", str(folder), "--dtype", "float32", "--raw", *arguments]) == 0
    out = capsys.readouterr()
    return out.out, out.err


def run_json(capsys, folder, *arguments: str) -> dict:
    return json.loads(run(capsys, folder, "--json", *arguments)[0])


def test_every_option_has_a_flag_and_a_group():
    """Guards against an option that only Python can reach, and one that is not explained."""
    commands = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    generate = commands.choices["generate"]
    flags = {action.dest: action for action in generate._actions}
    assert {field.name for field in dataclasses.fields(Options)} - flags.keys() == NOT_TYPED
    assert all(action.help for action in flags.values())
    in_groups = [a.dest for group in generate._action_groups[2:] for a in group._group_actions]
    assert in_groups.index("max_new_tokens") == 0, "the first group begins with what everybody needs"


def test_flags_do_what_options_do(capsys, folder):
    model, tokenizer = llama_jp.load(folder, dtype="float32", device="cpu")
    flags = "--max-new-tokens 9 --no-repeat-ngram-size 2 --suppress-tokens 5,6 --repetition-penalty 1.2 --seed 3 "
    flags += "--typical-p 0.9 --min-new-tokens 4 --eos-token-id 7,8 --penalty-window 5 --presence-penalty 0.5"
    shown = run_json(capsys, folder, "吾輩は", *flags.split(), "--bad-words-ids", "[[9], [10, 11]]")
    options = {
        "max_new_tokens": 9,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [5, 6],
        "repetition_penalty": 1.2,
        "seed": 3,
        "typical_p": 0.9,
        "min_new_tokens": 4,
        "eos_token_id": [7, 8],
        "penalty_window": 5,
        "presence_penalty": 0.5,
        "bad_words_ids": [[9], [10, 11]],
        "do_sample": True,
    }
    assert shown["options"] == options
    assert shown["ids"] == llama_jp.generate(model, [tokenizer.encode("吾輩は")], **options)[0].ids


def test_beams_and_several_answers(capsys, folder):
    beams = (
        "猫",
        "--max-new-tokens",
        "5",
        "--num-beams",
        "3",
        "--num-return-sequences",
        "2",
        "--early-stopping",
        "never",
    )
    shown = run_json(capsys, folder, *beams)
    assert len(shown["answers"]) == 2 and shown["options"]["early_stopping"] == "never"
    assert shown["answers"][0]["sequence_score"] >= shown["answers"][1]["sequence_score"]
    out, err = run(capsys, folder, *beams)
    assert out.startswith("[1] ") and "\n[2] " in out and "new: 5 (length), 5 (length)" in err


def test_speculation_and_alternatives(capsys, folder):
    plain = run_json(capsys, folder, "猫猫猫猫猫猫", "--max-new-tokens", "12", "--top-logprobs", "2")
    assert [len(top) for top in plain["top_logprobs"]] == [2] * 12
    fast = ("--prompt-lookup-num-tokens", "4"), ("--assistant-model", str(folder), "--num-assistant-tokens", "3")
    for flags in fast:
        shown = run_json(capsys, folder, "猫猫猫猫猫猫", "--max-new-tokens", "12", *flags)
        assert shown["ids"] == plain["ids"]
    assert shown["accepted"] == shown["drafted"] > 0, "a model that drafts for itself is always right"


def test_a_cache_in_a_file_saves_reading(capsys, folder, tmp_path):
    file = tmp_path / "cache.safetensors"
    plain = run_json(capsys, folder, "吾輩は猫である", "--max-new-tokens", "4")
    _, err = run(capsys, folder, "吾輩は猫である", "--max-new-tokens", "4", "--cache", str(file))
    assert "0 tokens of the prompt were known" in err
    again = run_json(capsys, folder, "吾輩は猫である", "--max-new-tokens", "4", "--cache", str(file))
    assert again["ids"] == plain["ids"]
    _, err = run(capsys, folder, "吾輩は猫である。名前は", "--max-new-tokens", "4", "--cache", str(file))
    assert f"{len(plain['prompt_ids'])} tokens of the prompt were known" in err


def test_a_longer_context(capsys, folder):
    shown = run_json(capsys, folder, "猫", "--max-new-tokens", "500", "--rope-scaling", "linear:2")
    assert len(shown["ids"]) == 500
    shown = run_json(capsys, folder, "猫", "--max-new-tokens", "500", "--past-context", "shift", "--sink-tokens", "2")
    assert len(shown["ids"]) == 500
    assert main(["generate", "--model", str(folder), "--raw", "猫", "--max-new-tokens", "500"]) == 1
    assert "the context holds 400" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--greedy", "--typical-p", "0.5"], "--greedy draws nothing, so --typical-p cannot go with it"),
        (["--num-return-sequences", "2"], "greedy decoding has one answer"),
        (["--num-beams", "2", "--prompt-lookup-num-tokens", "2"], "not with beam search"),
        (["--sequence-bias", "[[[3], 1]]"], "pairs ids with a float"),
        (["--rope-scaling", "none:2"], "needs more than a factor"),
        (["--top-logprobs", "3"], "--top-logprobs are shown with --json only"),
        (["--num-assistant-tokens", "3"], "--num-assistant-tokens needs --assistant-model"),
        (["--cache", "/no/such/folder/file"], "there is no folder /no/such/folder to keep file in"),
        (["--eos-token-id", "99999"], "eos_token_id has [99999], but ids are whole numbers from 0 to"),
    ],
)
def test_refused_in_one_line(capsys, folder, flags, sentence):
    assert main(["generate", "--model", str(folder), "--raw", "猫", "--max-new-tokens", "3", *flags]) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--suppress-tokens", "a"], ["--bad-words-ids", "{"], ["--rope-scaling", "linear"]])
def test_wrong_usage(capsys, folder, flags):
    with pytest.raises(SystemExit) as exit:
        main(["generate", "--model", str(folder), "猫", *flags])
    assert exit.value.code == 2


def test_common_prefix_by_hand():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == [1, 2]
    assert common_prefix([1, 2, 3], [1, 2, 3]) == [1, 2], "the last token is read anew: its logits are needed"
    assert common_prefix([], [1]) == common_prefix([2], [1, 2]) == []


@pytest.mark.parametrize("past_context", ["refuse", "shift"])
def test_a_second_turn_reads_only_what_is_new(capsys, folder, monkeypatch, past_context):
    """Guards against a conversation that is read again at every turn, and against a cache that has shifted under it."""
    read: list[list[int]] = [[]]
    plain = llama_jp.Llama.forward

    def counted(self, ids, cache=None, **options):
        read[-1].append(ids.shape[1])
        return plain(self, ids, cache, **options)

    def say(prompt=""):
        if len(read) > 3:
            raise EOFError
        read.append([])
        return "猫"

    monkeypatch.setattr(llama_jp.Llama, "forward", counted)
    monkeypatch.setattr("builtins.input", say)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    flags = ["--max-new-tokens", "20", "--past-context", past_context, "--dtype", "float32", "--eos-token-id", "0"]
    assert main(["chat", "--model", str(folder), *flags]) == 0
    first, second, third = (turn[0] for turn in read[1:4])
    assert first > second and first > third, "each turn adds as much, but the first reads the system prompt as well"
    assert abs(second - third) <= 20, "no turn reads the turns before"


def test_chat_refuses_wrong_values_before_the_first_turn(capsys, folder):
    """And offers no beams: a conversation streams one answer."""
    assert main(["chat", "--model", str(folder), "--temperature", "-1"]) == 1
    assert "temperature has to be a number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["chat", "--model", str(folder), "--num-beams", "2"])


def test_a_turn_reports_what_the_cache_knew(capsys, folder, monkeypatch):
    """Nothing at first, then the prompt of the turn before, up to where the answer changes how it is cut into ids."""
    monkeypatch.setattr("sys.stdin", io.StringIO("吾輩は猫である。\nなまえはまだない。\n"))
    assert main(["chat", "--model", str(folder), "--dtype", "float32", "--greedy", "--max-new-tokens", "4"]) == 0
    reports = [line for line in capsys.readouterr().err.splitlines() if "prompt tokens" in line]
    first = int(reports[0].split()[0])
    assert "known" not in reports[0]
    known = int(reports[1].split("(")[1].split()[0])
    assert first <= known + 2
