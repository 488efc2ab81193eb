"""llama-jp quantize: wrong input, and --verify."""

from __future__ import annotations

import json
import re

import pytest
from helpers.quantized import rewrite_json

from llama_jp.checkpoint.layouts import find_tensors
from llama_jp.cli import main
from llama_jp.evaluation.documents import TEXTS


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("demo OUT --bits 4", "704 inputs, which is not a multiple of the group size 128; use 32 or 64"),
        ("demo OUT --bits 4 --group-size 48", "group_size is one of 32, 64, 128, not 48"),
        ("demo OUT --group-size 64", "--group-size needs --bits 4"),
        ("demo OUT --method gptq", "gptq needs 4 bits"),
        ("demo OUT --head-bits 4", r"head_bits is 8 or equal to bits \(8\), not 4"),
        ("demo OUT --calibrate TEXT", "--calibrate needs --method gptq"),
        ("demo OUT --text SHORT", "3 tokens to predict; at least 200 are needed"),
        ("demo OUT --text LATIN", "is not UTF-8: byte 3 is 0xe9; convert it"),
        (
            "demo OUT --text nowhere.txt",
            r"there is no file nowhere.txt; the texts of the package are .*held-out.ja.txt",
        ),
        ("demo OUT --bits 4 --group-size 32 --method gptq --calibrate SHORT", "3 tokens to predict"),
        ("INT8 OUT", "is already quantised .int8, one scale per row.; quantise its original"),
        ("TINY OUT --bits 4 --group-size 32 --method gptq", "gptq needs a calibration text, and there is no tokenizer"),
        ("demo INT8", "exists and is not an empty folder"),
        ("demo SHORT", "exists and is not an empty folder"),
        ("demo", "MODEL and OUT are needed"),
        ("demo OUT --against demo", "--against needs --verify"),
        ("--verify INT8 --bits 8", "--verify FOLDER takes no MODEL, no OUT and no options for quantising"),
        ("--verify demo", "is not quantised, so there is nothing to verify"),
        ("--verify INT8 --against TINY", "the certificate has another sha256 for config.json, model.safetensors"),
    ],
)
def test_wrong_input_gives_one_sentence_and_leaves_no_files(
    quantized_demo, quantizable, tmp_path, capsys, words, message
):
    (tmp_path / "short").write_text("短い。", encoding="utf-8")
    (tmp_path / "latin").write_bytes(b"caf\xe9 " * 500)
    names = {"OUT": tmp_path / "out", "SHORT": tmp_path / "short", "LATIN": tmp_path / "latin"}
    names |= {"INT8": quantized_demo["int8"], "TINY": quantizable, "TEXT": TEXTS / "prose.ja.txt"}
    assert main(["quantize", *(str(names.get(word, word)) for word in words.split())]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "Traceback" not in error
    assert re.search(message, error), error
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latin", "short"]


def test_verify_measures_the_same_numbers(quantized_demo, capsys):
    assert main(["quantize", "--verify", str(quantized_demo["int8"])]) == 0
    assert "equal: every number as certified, to the last digit" in capsys.readouterr().out


def test_verify_detects_a_wrong_certificate(quantized_copy, capsys):
    def exaggerate(certificate):
        certificate["result"]["kl_divergence"] /= 2
        certificate["result"]["top1_agreement"] = 1.0

    rewrite_json(quantized_copy / "certificate.json", exaggerate)
    assert main(["quantize", "--verify", str(quantized_copy)]) == 1
    out = capsys.readouterr().out
    assert "NOT equal: kl_divergence is" in out and "top1_agreement is" in out and "perplexity is" not in out


def test_verify_measures_another_text_without_a_comparison(quantized_copy, capsys):
    assert main(["quantize", "--verify", str(quantized_copy), "--text", "prose.ja.txt", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is None and found["measured"]["text"]["file"] == "prose.ja.txt"


def test_info_shows_the_quantisation(quantized_demo, capsys):
    assert main(["info", "--model", str(quantized_demo["gptq"])]) == 0
    out = capsys.readouterr().out
    assert "int4 in groups of 32 (gptq), lm_head int8" in out
    size = sum(tensor.nbytes for tensor in find_tensors(quantized_demo["gptq"]).values())
    assert f"{size / 2**20:.2f} MiB as stored" in out
