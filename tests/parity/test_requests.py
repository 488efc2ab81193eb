"""Requests and the command line: which models run, and which exit status a program sees."""

from __future__ import annotations

import argparse
import json
import re

import pytest
from helpers.compared_models import parity

from llama_jp.cli.parity import add_arguments, to_request
from llama_jp.parity.requests import MODES, Request
from llama_jp.parity.run.models import Settings


def test_the_exit_status_separates_equal_different_and_unusable(capsys, folder, tmp_path):
    given = ["--model", str(folder), "--dtype", "float32", "--tokens", "12"]
    assert parity(*given, "--mode", "whole,steps") == 0
    assert re.search(r"whole +equal +0 of", capsys.readouterr().out)
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


def test_texts_that_cannot_give_the_ids_are_refused(capsys, folder, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert parity("--random", "tiny", "--text", str(tmp_path / "latin.txt")) == 2
    assert "latin.txt is not UTF-8 text: byte 3" in capsys.readouterr().err
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
