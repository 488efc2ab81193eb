"""Requests and the command line: which models run, and which exit status a program sees."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys

import pytest
from helpers.compared_models import parity

from llama_jp.cli.parity import add_arguments, to_request
from llama_jp.parity.requests import MODES, Request
from llama_jp.parity.run.models import Settings


def test_the_exit_status_separates_equal_different_and_unusable(capsys, folder, tmp_path):
    given = ["--model", str(folder), "--dtype", "float32", "--tokens", "12"]
    assert parity(*given, "--mode", "whole,steps") == 0
    assert re.search(r"whole +equal +100.0% +0 +0 +0 of", capsys.readouterr().out)
    assert parity(*given, "--against-attention", "eager") == 1
    assert "rounding" in capsys.readouterr().out
    assert parity(*given, "--against-attention", "eager", "--max-kl", "1e-6") == 0
    assert parity("--model", str(tmp_path / "nothing")) == 2
    with pytest.raises(SystemExit) as stopped:
        parity("--mode", "sideways")
    assert stopped.value.code == 2


def test_both_models_load_the_random_weights_and_no_other_checkpoint(capsys, folder):
    assert parity("--random", "tiny", "--model", "transformers-cast", "--dtype", "bfloat16") == 1
    assert "inv_freq" in capsys.readouterr().out
    assert parity("--random", "tiny", "--model", str(folder)) == 2
    assert "cannot be named with --random" in capsys.readouterr().err


USELESS = {
    "--random tiny --model demo": "demo cannot be named with --random",
    "--random tiny --against demo": "demo cannot be named with --random",
    "--random tiny --checkpoint demo": "demo cannot be named with --random",
    "--layers 3": "--layers is the number of layers of a random model",
    "--folder x": "--folder names the checkpoint of --fullsize",
    "--fullsize 7b --folder x --rows 3": "--rows has no effect with --fullsize",
    "--replay x.json --mode steps": "--mode has no effect with --replay",
    "--against demo --checkpoint demo": "--checkpoint has no effect: both models name their own",
    "--new-tokens 4": "--new-tokens needs a mode that generates: greedy or sampled",
    "--mode tokenizer --dtype float32": "--dtype has no effect: the mode tokenizer runs no model",
    "--mode gradients --max-kl 1": "--max-kl needs a mode that compares logits",
    "--mode whole,gradients --expect lm_head": "--expect judges single operations",
    "--text a.txt --seed 0": "--seed has no effect: the ids come from --text",
    "--against json:loads --against-dtype float32": "--against-dtype has no effect: the function json:loads",
}


@pytest.mark.parametrize("arguments", USELESS)
def test_an_option_without_effect_is_refused_by_name(arguments, capsys):
    """Guards against a comparison of something else than the person asked for."""
    assert parity(*arguments.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and USELESS[arguments] in error


@pytest.mark.parametrize("option", [("--max-ulp", "-3"), ("--max-kl", "nan"), ("--max-kl", "-1"), ("--mode", "whole,")])
def test_values_that_mean_nothing_are_refused(option):
    with pytest.raises(SystemExit) as stopped:
        parity(*option)
    assert stopped.value.code == 2


FUNCTIONS = """
import torch
def raises(): raise ZeroDivisionError("division\\nby zero")
def exits(): raise SystemExit(1)
def gives_nothing(): return None
def fails_later(): return lambda ids: ids / (1 - 1) @ 0
def gives_a_tuple(): return lambda ids: (torch.zeros(*ids.shape, 5),)
def gives_ids(): return lambda ids: ids
def gives_two_dimensions(): return lambda ids: torch.zeros(len(ids), 5)
def refuses_ids(): return lambda ids: int("my value")
def needs_a_file(): return lambda ids: open("my file")
number = 3
"""
FAILURES = {
    "raises": r"failing_llama:raises fails: ZeroDivisionError: division by zero \(failing_llama.py, line 3\)",
    "exits": "failing_llama:exits fails: SystemExit: 1",
    "gives_nothing": "is a NoneType, which cannot be called",
    "fails_later": r"the model of failing_llama:fails_later failed: .*\(failing_llama.py, line 6\)",
    "gives_a_tuple": "returns a tuple for ids; a tensor of logits",
    "gives_ids": r"give torch.int64 logits \(2, 4\)",
    "gives_two_dimensions": r"ids \(2, 4\) give torch.float32 logits \(2, 5\)",
    "refuses_ids": r"failing_llama:refuses_ids failed: ValueError: .*'my value' \(failing_llama.py, line 10\)",
    "needs_a_file": r"the model of failing_llama:needs_a_file failed: FileNotFoundError: .*line 11\)",
    "number": "is an object of the type int, not a function",
    "missing": "failing_llama:missing cannot be imported: AttributeError",
}


@pytest.mark.parametrize("function", FAILURES)
def test_a_function_that_fails_is_status_2_and_one_line(function, capsys, tmp_path, monkeypatch):
    """Guards against status 1, "different", for a model that never ran."""
    (tmp_path / "failing_llama.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    assert parity("--model", f"failing_llama:{function}", "--checkpoint", "demo", "--tokens", "4") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and re.search(FAILURES[function], error), error


def test_what_a_function_prints_is_no_part_of_the_result(capsys, tmp_path, monkeypatch):
    """Guards against a line before the JSON that another program reads."""
    (tmp_path / "talking_llama.py").write_text(
        "from llama_jp import Llama\n"
        "def make(folder):\n"
        "    print('loading')\n"
        "    return Llama.from_pretrained(folder, device='cpu')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert parity("--model", "talking_llama:make", "--checkpoint", "demo", "--tokens", "4", "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["comparisons"][0]["verdict"] == "equal" and "loading" in printed.err


@pytest.mark.parametrize("code", ["raise RuntimeError('at import')", "def f(:", "import sys; sys.exit(0)"])
def test_a_module_that_cannot_be_imported_is_status_2(code, capsys, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert parity("--model", "broken:make", "--checkpoint", "demo") == 2
    assert "broken:make cannot be imported" in capsys.readouterr().err


def test_a_reader_that_has_ended_is_no_failure(tmp_path):
    """Guards against "Broken pipe" and a missing report in `llama-jp parity … | head -1`."""
    page = tmp_path / "out.html"
    command = ["-m", "llama_jp", "parity", "--random", "tiny", "--layers", "1", "--tokens", "4", "--json", "--report"]
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, *command, str(page)], stdout=pipe, stderr=pipe) as run:
        run.stdout.close()
        assert run.stderr.read() == b""
    assert page.is_file()


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 7])
def test_any_number_of_rows_can_differ(rows, capsys):
    """Guards against a sample of rows that divides by zero."""
    models = ("--random", "tiny", "--layers", "1", "--attention", "eager", "--against-attention", "sdpa")
    for mode in ("whole", "ragged"):
        assert parity(*models, "--rows", str(rows), "--tokens", "6", "--mode", mode) == 1
    assert capsys.readouterr().out.count("rounding") >= 2


def test_texts_that_cannot_give_the_ids_are_refused(capsys, folder, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert parity("--random", "tiny", "--text", str(tmp_path / "latin.txt")) == 2
    assert "latin.txt is not UTF-8: byte 3" in capsys.readouterr().err
    (tmp_path / "short.txt").write_text("クマ")
    assert parity("--random", "tiny", "--text", str(tmp_path / "short.txt")) == 2
    assert "need a checkpoint with a tokenizer" in capsys.readouterr().err
    assert parity("--model", "demo", "--text", str(tmp_path / "short.txt"), "--rows", "3", "--tokens", "50") == 2
    assert "3 rows of 50 tokens need 150; give a longer text" in capsys.readouterr().err
    assert parity("--model", "demo", "--mode", "tokenizer", "--against", "somebody:make") == 2
    assert "somebody:make is a function" in capsys.readouterr().err


def test_a_request_survives_json():
    """Guards against a certificate whose request cannot be run again."""
    request = Request("a", modes=["greedy", "ragged"], first=Settings("float16", threads=2), max_kl=1e-6)
    assert Request.from_dict(json.loads(json.dumps(request.as_dict()))) == request


def test_the_settings_of_the_reference_default_to_those_of_the_first_model():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    request = to_request(parser.parse_args(["--dtype", "float16", "--batch", "2", "--against-attention", "eager"]))
    assert request.first == Settings("float16", "sdpa", None, 2)
    assert request.second == Settings("float16", "eager", None, 2)
    everything = to_request(parser.parse_args(["--mode", "all", "--random", "tiny"])).modes
    assert set(MODES) - set(everything) == {"tokenizer"}  # a random checkpoint has none
    everything = to_request(parser.parse_args(["--mode", "all", "--model", "somebody:make"])).modes
    assert set(MODES) - set(everything) == {"tokenizer"}  # a function has none
