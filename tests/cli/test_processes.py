"""The command line as a process: encodings, closed and full outputs, signals, full memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

UTF8 = os.environ | {"PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"}
UTF8.pop("PYTHONUNBUFFERED", None)  # an unbuffered output hides what Python still has to write when it ends
COMMAND = [sys.executable, "-m", "llama_jp"]
SJIS = "ネコ".encode("cp932")
unix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of Unix")


def run(*words: str, stdin: bytes = b"", **environment: str) -> tuple[int, bytes, str]:
    clean = {name: value for name, value in UTF8.items() if not (environment and name == "PYTHONUTF8")}
    done = subprocess.run([*COMMAND, *words], input=stdin, capture_output=True, env=clean | environment)
    return done.returncode, done.stdout, done.stderr.decode("utf-8", "replace")


def check_one_line(status: int, err: str, sentence: str) -> None:
    assert status == 1 and err.startswith("llama-jp: ") and err.count("\n") == 1, err
    assert sentence in err


@pytest.mark.parametrize("encoding", ["cp932", "shift_jis", "ascii", "latin-1"])
def test_no_character_is_an_error(encoding):
    """Guards against an answer that dies at its first emoji in a Japanese pipe of Windows."""
    status, out, err = run("tokenize", "ネコ🐻", PYTHONIOENCODING=encoding)
    text = out.decode(encoding)
    assert status == 0 and err == "" and r"\ud83d\udc3b" not in text, "an emoji without a piece is shown as bytes"
    assert "ネコ" in text if encoding in ("cp932", "shift_jis") else r"\u30cd\u30b3" in text
    status, out, err = run("tokenize", "ネコ🐻", "--json", PYTHONIOENCODING=encoding)
    tokenizer = json.loads(out.decode(encoding))["tokenizers"][0]
    assert status == 0 and "ネコ" in tokenizer["pieces"], "the output of --json is valid JSON in every encoding"


def test_an_answer_with_a_character_outside_the_encoding():
    words = ("generate", "🐻", "--raw", "--json", "--max-new-tokens", "2")
    status, out, err = run(*words, PYTHONIOENCODING="cp932")
    assert status == 0 and json.loads(out.decode("cp932"))["ids"], err


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C"}, {"LANG": "C"}, {"PYTHONIOENCODING": "utf-8:strict"}])
def test_input_of_another_encoding_is_named(environment, tmp_path):
    """The commands run in one process, one after the other: Python chooses the encoding when it starts."""
    code = (
        "import json, sys\nfrom llama_jp.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n    sys.stdin.seek(0)\n    print(main(words), file=sys.stderr)\n"
    )
    out = tmp_path / "folder" / "out"
    out.parent.mkdir()
    commands = [["generate"], ["chat"], ["generate", "--prompts", "-", "--out", str(out)]]
    (tmp_path / "input").write_bytes(SJIS)
    clean = {name: value for name, value in UTF8.items() if not (environment and name == "PYTHONUTF8")}
    with (tmp_path / "input").open() as stdin:
        words = [sys.executable, "-c", code, json.dumps(commands)]
        done = subprocess.run(words, stdin=stdin, capture_output=True, env=clean | environment)
    lines = done.stderr.decode("utf-8", "replace").splitlines(keepends=True)
    assert len(lines) == 7 and done.stdout == b"", lines
    assert lines.pop(2).startswith("prompt: "), "chat names the form of the prompt before the first message"
    for err, status in zip(lines[::2], lines[1::2], strict=True):
        check_one_line(int(status), err, "is not UTF-8: byte 0 is 0x83; convert it")
    assert not list(out.parent.iterdir())


def test_input_can_have_the_encoding_of_the_terminal():
    words = ("generate", "--json", "--max-new-tokens", "2", "--greedy")
    _, out, _ = run(*words, stdin=SJIS, PYTHONIOENCODING="cp932")
    _, expected, _ = run(*words, stdin="\ufeffネコ\r\n".encode())
    assert json.loads(out.decode("cp932"))["prompt_ids"] == json.loads(expected)["prompt_ids"]


@unix
def test_a_prompt_of_another_encoding_is_named():
    done = subprocess.run([*COMMAND, "generate", b"ab" + SJIS], capture_output=True, env=UTF8)
    check_one_line(done.returncode, done.stderr.decode(), "the prompt is not UTF-8: byte 2 is 0x83")


@unix
def test_a_prompt_is_utf8_in_every_locale():
    """Guards against a Japanese prompt that is refused, or a --stop that never matches, in the locale C."""
    words = ("generate", "犬", "--stop", "犬", "--max-new-tokens", "1", "--json")
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "utf-8"}
    status, out, err = run(*words, PYTHONUTF8="0", **locale)
    expected = json.loads(run(*words)[1])
    assert status == 0 and json.loads(out) == expected, err


@unix
@pytest.mark.parametrize("command", ["--help", "info demo", "info demo --json", "bench --help", "parity --random tiny"])
def test_a_pipe_that_closes_early_is_quiet(command):
    for redirect in ("", "2>&1"):
        line = f"{sys.executable} -m llama_jp {command} {redirect} | head -c 1"
        done = subprocess.run(["sh", "-c", line], capture_output=True, env=UTF8)
        assert len(done.stdout) == 1 and done.stderr == b""


@unix
@pytest.mark.parametrize("command", ["tokenize 犬", "info demo", "info demo --json"])
def test_an_output_that_is_full_or_closed(command):
    def shell(redirect: str) -> tuple[int, str]:
        done = subprocess.run(
            ["sh", "-c", f"{sys.executable} -m llama_jp {command} {redirect}"], capture_output=True, env=UTF8
        )
        return done.returncode, done.stderr.decode()

    assert shell(">&-") == (0, "")
    if Path("/dev/full").exists():
        check_one_line(*shell("> /dev/full"), "No space left on device; make room")


@unix
def test_a_help_that_cannot_be_printed():
    """argparse leaves the program by itself, and Python would complain about the output when it ends."""
    line = f"{sys.executable} -m llama_jp --help > /dev/full"
    if Path("/dev/full").exists():
        assert subprocess.run(["sh", "-c", line], capture_output=True, env=UTF8).stderr == b""


@unix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_removes_the_unfinished_folder(number, tmp_path):
    """Guards against a hidden folder of gigabytes after `kill`, or after the terminal has closed."""
    words = ["quantize", "demo", str(tmp_path / "out"), "--bits", "4", "--group-size", "64", "--method", "gptq"]
    process = subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, env=UTF8)  # takes long enough to be caught
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out-*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.glob(".out-*")), "the command works in a folder beside its target"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number) and err == b""
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sees in /proc that torch is being imported")
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.3, 0.6])
def test_ctrl_c_while_torch_is_imported_is_quiet(seconds):
    process = subprocess.Popen([*COMMAND, "bench", "nowhere/at-all"], stderr=subprocess.PIPE, env=UTF8)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch" not in maps.read_text():
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err.decode()
    assert process.returncode in (130, -signal.SIGINT, 1), "done, or while the interpreter ends"


@unix
def test_ignored_signals_stay_ignored(tmp_path):
    """As under nohup: the end of the terminal does not end the command."""
    line = f"trap '' HUP; exec {sys.executable} -m llama_jp quantize demo {tmp_path / 'out'}"
    process = subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=UTF8)
    while not list(tmp_path.glob(".out-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0 and (tmp_path / "out" / "certificate.json").exists()


@unix
def test_a_full_memory_takes_one_line():
    words = "generate 犬 --dtype float32 --past-context shift --max-new-tokens 999999999999"
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m llama_jp {words}"], capture_output=True, env=UTF8)
    check_one_line(done.returncode, done.stderr.decode(), "the memory is full")


@pytest.mark.parametrize("command", ["convert", "quantize"])
def test_a_full_disk_takes_one_line_and_leaves_nothing(command, tmp_path, monkeypatch, capsys):
    """The disk is full at the second tensor file: the error of safetensors, which is none of Python's."""
    from safetensors import SafetensorError

    from llama_jp.cli import main

    def save_file(tensors, file, metadata=None):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("llama_jp.checkpoint.save.save_file", save_file)
    monkeypatch.setattr("llama_jp.quantization.convert.save_file", save_file)
    assert main([command, "demo", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "llama-jp: No space left on device; make room, or write to another disk\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--certificate", "--report"])
def test_a_full_disk_leaves_the_earlier_report(flag, tmp_path, monkeypatch, capsys):
    """Guards against a certificate of many runs that is emptied by the run that finds the disk full."""
    from llama_jp.cli import main

    words = ["parity", "--random", "tiny", "--layers", "1", "--tokens", "4", flag, str(tmp_path / "page")]
    assert main(words) == 0
    before, write_text = (tmp_path / "page").read_bytes(), Path.write_text

    def fail(self, text, encoding=None):
        write_text(self, text[:5], encoding=encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err == "llama-jp: No space left on device; make room, or write to another disk\n"
    assert (tmp_path / "page").read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["page"]


def test_an_interrupted_cache_leaves_the_earlier_one(folder, tmp_path, monkeypatch, capsys):
    from llama_jp.cache import Cache
    from llama_jp.cli import main

    words = ["generate", "犬", "--model", str(folder), "--max-new-tokens", "2", "--cache", str(tmp_path / "cache")]
    assert main(words) == 0
    before, save = (tmp_path / "cache").read_bytes(), Cache.save

    def fail(self, file, ids, model):
        save(self, file, ids, model)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Cache, "save", fail)
    assert main(words) == 1
    assert (tmp_path / "cache").read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["cache"]
