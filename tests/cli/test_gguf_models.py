"""GGUF files in the commands."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import pytest
from helpers.gguf_files import vocabulary_keys, write_gguf

from llama_jp.checkpoint.hub import demo_folder
from llama_jp.cli import main
from llama_jp.loading import load


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The demo as Q8_0, whole, and with a vocabulary whose order of merges is lost."""
    folder, kind = tmp_path_factory.mktemp("gguf"), gguf.GGMLQuantizationType.Q8_0
    lost = vocabulary_keys(demo_folder())
    lost["tokenizer.ggml.scores"] = [-1000.0] * len(lost["tokenizer.ggml.scores"])
    whole = write_gguf(demo_folder(), folder / "whole.gguf", kind, tokenizer=True)
    return str(whole), str(write_gguf(demo_folder(), folder / "lost.gguf", kind, keys=lost))


@pytest.fixture
def run(capsys):
    """Run a command with the models that its words name. Returns the exit status, standard output and error."""

    def run_words(*words):
        status = main(list(words))
        return status, *capsys.readouterr()

    return run_words


def test_info_reads_the_header_only(run, files):
    """Guards against an import of torch or numpy, against a wait, and against the types of dequantised weights."""
    status, out, err = run("info", files[0], "--json")
    content = json.loads(out)
    assert status == 0, err
    assert content["weights"]["dtypes"] == ["F32", "Q8_0"] and list(content["weights"]["files"]) == ["whole.gguf"]
    assert content["tokenizer"]["kind"] == "sentencepiece" and content["tokenizer_missing"] is None
    code = (
        "import sys; from llama_jp.cli import main\n"
        f"status = main(['info', {files[0]!r}])\n"
        "assert status == 0 and not {'torch', 'gguf'} & sys.modules.keys(), status"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_info_calls_a_file_a_file(run, files):
    status, out, _ = run("info", files[0])
    assert status == 0 and out.startswith("GGUF file ") and "\nfolder " not in out


def test_info_shows_a_model_whose_vocabulary_is_not_usable(run, files):
    """Guards against a refusal of the whole file."""
    status, out, _ = run("info", files[1])
    assert status == 0 and "the order of merges is lost" in out and "hidden_size" in out


def test_generate_with_another_tokenizer(run, files):
    """Guards against a flag that is parsed and not used."""
    arguments = ("昔々", "--max-new-tokens", "5", "--dtype", "float32")
    status, expected, err = run("generate", "--model", files[0], *arguments)
    assert status == 0 and "ELYZA's instruction template (from whole.gguf)" in err
    status, _, err = run("generate", "--model", files[1], *arguments)
    assert status == 1 and "--tokenizer FOLDER" in err
    status, out, err = run("generate", "--model", files[1], "--tokenizer", "demo", *arguments)
    assert status == 0 and out == expected, err


def test_convert_writes_a_folder(run, files, tmp_path):
    """Guards against half a folder after a refusal, and against other ids or weights in the folder."""
    import torch

    status, _, err = run("convert", files[1], str(tmp_path / "no"))
    assert status == 1 and "the order of merges is lost" in err and not (tmp_path / "no").exists()
    assert run("convert", files[1], str(tmp_path / "with"), "--tokenizer", "demo")[0] == 0
    assert run("convert", files[0], str(tmp_path / "out"))[0] == 0
    (model, tokenizer), expected = load(files[0], dtype="float32"), load("demo")[1]
    for name in ("with", "out"):
        converted, of_folder = load(tmp_path / name, dtype="stored")
        text = "昔々、 あるところに  犬がいました。\n"
        assert of_folder.encode(text) == tokenizer.encode(text) == expected.encode(text)
        weights = model.state_dict()
        assert all(torch.equal(tensor, weights[key]) for key, tensor in converted.state_dict().items())


def test_quantize_and_its_certificate(run, files, tmp_path):
    """Guards against a certificate that names a path of this machine, or no checksum of the original."""
    status, _, err = run("quantize", files[0], str(tmp_path / "int8"), "--bits", "8")
    assert status == 0, err
    original = json.loads((tmp_path / "int8/certificate.json").read_text())["original"]
    assert original["source"] is None and list(original["sha256"]) == ["whole.gguf"]


def test_parity_needs_a_folder(run, files):
    """Guards against transformers' own reader of GGUF, which drops settings without an error."""
    status, _, err = run("parity", "--model", files[0])
    assert status != 0 and "is a GGUF file, of which transformers drops" in err


@pytest.mark.slow
def test_parity_of_tokenizers(run, files):
    """Guards against a refusal of the one mode that needs no model, and against transformers' own reader of GGUF."""
    for other in ("transformers", "demo"):
        status, out, err = run("parity", "--model", files[0], "--against", other, "--mode", "tokenizer")
        assert status == 0 and ("have equal ids" in out or "documented" in out), err


def test_convert_writes_a_gguf_file(run, files, tmp_path):
    """Guards against a target that is taken as a folder, and against another file that is overwritten."""
    target = str(tmp_path / "out.gguf")
    status, _, err = run("convert", files[0], target, "--type", "q4_0")
    assert status == 0 and "57 tensors (44 Q4_0, 13 F32)" in err, err
    status, _, err = run("convert", files[0], target)
    assert status == 1 and "out.gguf exists; choose another name, or remove it" in err
    status, _, err = run("convert", files[1], str(tmp_path / "other.gguf"))
    assert status == 1 and "the order of merges is lost" in err and list(tmp_path.iterdir()) == [tmp_path / "out.gguf"]
    assert run("convert", files[1], str(tmp_path / "other.gguf"), "--tokenizer", "demo")[0] == 0
