"""llama-jp finetune: the flags reach the run, and every mistake takes one line."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys

import pytest
from helpers.training import save_tiny, write_data

from llama_jp.cli import finetune as command
from llama_jp.cli import main
from llama_jp.training import finetune


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("finetune") / "tiny")


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data.jsonl", 20)


def test_every_option_of_the_function_has_a_flag():
    options = set(inspect.signature(finetune).parameters) - {"data", "out", "model", "progress"}
    assert set(command.OPTIONS) == options


def test_the_command(tiny, data, tmp_path, capsys):
    words = ["finetune", str(data), str(tmp_path / "out"), "--model", str(tiny), "--batch", "2", "--length", "64"]
    words += ["--steps", "2", "--lr", "1e-3", "--seed", "7", "--held-out", "2", "--device", "cpu"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert out == "" and "step 2 of 2   training " in err and f"--model {tmp_path / 'out'}" in err
    settings = json.loads((tmp_path / "out" / "training.json").read_text())["settings"]
    assert [settings[key] for key in ("batch", "length", "steps", "lr", "seed", "held_out")] == [2, 64, 2, 1e-3, 7, 2]
    assert main(words) == 0, "the same command again"
    assert main([*words, "--lr", "2e-3"]) == 1
    assert "lr was 0.001 and is 0.002; repeat the earlier command" in capsys.readouterr().err


def test_an_adapter(tiny, data, tmp_path, capsys):
    words = ["finetune", str(data), str(tmp_path / "out"), "--model", str(tiny), "--lora", "2", "--steps", "1"]
    assert main([*words, "--length", "64"]) == 0
    assert f"--model {tiny} --adapter {tmp_path / 'out'}" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_another_tokenizer(tiny, data, tmp_path, capsys):
    """Guards against a model without a tokenizer that cannot be trained, and a result without the one it was given."""
    bare = tmp_path / "bare"
    shutil.copytree(tiny, bare, ignore=shutil.ignore_patterns("*token*"))
    words = ["finetune", str(data), str(tmp_path / "out"), "--model", str(bare), "--steps", "1", "--length", "64"]
    assert main(words) == 1
    assert "bare has no tokenizer" in capsys.readouterr().err
    assert main([*words, "--tokenizer", str(tiny)]) == 0
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == (tiny / "tokenizer.model").read_bytes()
    assert main(words) == 1
    words[2] = str(tmp_path / "adapter")
    assert main([*words, "--tokenizer", str(tiny), "--lora", "2"]) == 0
    assert f"--adapter {words[2]} --tokenizer {tiny}" in capsys.readouterr().err


def test_a_changed_model_is_tried_with_its_parts(tiny, data, tmp_path, capsys, monkeypatch):
    """Guards against a last line that does not work as typed."""
    part = "def attend(*qkv_and_mask):\n    return attend_eager(*qkv_and_mask)\n"
    make = f"def make():\n    return Llama.from_pretrained({str(tiny)!r}, attention=attend)\n"
    imports = "from llama_jp.model import Llama, attend_eager\n"
    (tmp_path / "changed_for_tuning.py").write_text(imports + part + make)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "my out"
    words = ["finetune", str(data), str(out), "--model", "changed_for_tuning:make", "--steps", "1", "--length", "64"]
    assert main(words) == 0
    *_, after, last = capsys.readouterr().err.splitlines()
    assert last == f"try it: llama-jp generate --model '{out}' --trust-parts \"…\"" and " after 1 step," in after


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (["--steps", "1", "--epochs", "1"], 2, "--steps and --epochs both set"),
        (["--eval", "x", "--held-out", "1"], 2, "--eval and --held-out both choose"),
        (["--lr", "0"], 2, "'0' is not a number above 0"),
        (["--lr", "nan"], 2, "'nan' is not a number of at least 0"),
        (["--clip", "-1"], 2, "--clip"),
        (["--batch", "0"], 2, "'0' is not a whole number"),
        (["--eval", "missing.jsonl"], 1, "missing.jsonl: No such file"),
        (["--length", "9999"], 1, "more than the model's context of 256"),
    ],
)
def test_mistakes_take_one_line(tiny, data, tmp_path, capsys, flags, status, sentence):
    words = ["finetune", str(data), str(tmp_path / "out"), "--model", str(tiny), *flags]
    try:
        found = main(words)
    except SystemExit as error:
        found = error.code
    err = capsys.readouterr().err
    assert found == status and sentence in err and err.count("\n") == 1 and err.startswith("llama-jp: ")
    assert not (tmp_path / "out").exists()


def test_a_wrong_line_of_the_data(tiny, data, tmp_path, capsys):
    data.write_text(data.read_text() + '{"question": "a"}\n')
    assert main(["finetune", str(data), str(tmp_path / "out"), "--model", str(tiny)]) == 1
    assert capsys.readouterr().err.startswith(f"llama-jp: {data}, line 21: it has question; an example has ")
    assert not (tmp_path / "out").exists()


def test_help_does_not_import_torch():
    code = (
        "import sys\nfrom llama_jp.cli import make_parser\nparser = make_parser(['finetune'])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
