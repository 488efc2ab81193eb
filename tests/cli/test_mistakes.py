"""Mistakes that people make on the command line: one line, no traceback, the right status."""

from __future__ import annotations

import io
import random
import re
import shlex

import pytest

from llama_jp.cli import main

USAGE, REFUSED = 2, 1

# The words, the status, and a part of the sentence. FOLDER is a small model, EMPTY an empty folder, and so on.
MISTAKES = [
    ("", USAGE, "required: COMMAND; usage: llama-jp COMMAND"),
    ("fly", USAGE, "there is no command fly"),
    ("genrate 犬", USAGE, "there is no command genrate; did you mean generate"),
    ("--vesion", USAGE, "--vesion is unknown"),
    ("generate -5は", USAGE, "a text that begins with - follows --: llama-jp generate -- '-5は'"),
    ("generate 犬 --tempratur 1", USAGE, "did you mean --temperature"),
    ("generate 犬 猫", USAGE, "猫 is unknown"),
    ("generate 犬 --max-new-tokens 0", USAGE, "--max-new-tokens: '0' is not a whole number of at least 1"),
    ("generate 犬 --max-new-tokens", USAGE, "expected one argument"),
    ("generate 犬 --system -x", USAGE, "a value that begins with - follows =, as in --system=-1"),
    ("generate 犬 --top-p x", USAGE, "--top-p: invalid float value: 'x'"),
    ("generate 犬 --dtype float8", USAGE, "--dtype: invalid choice: 'float8'"),
    ("generate 犬 --threads 100000", USAGE, "100000 threads are more than 1024"),
    ("generate 犬 --raw --instruct", USAGE, "not allowed with"),
    ("generate 犬 --greedy --sample", USAGE, "not allowed with"),
    ("generate 犬 --past-context never", USAGE, "invalid choice: 'never'"),
    ("generate 犬 --bad-words-ids {", USAGE, "is not JSON"),
    ("generate --prompts FILE", USAGE, "--prompts FILE.jsonl and --out FILE.jsonl belong together"),
    ("generate --out FILE", USAGE, "belong together"),
    ("generate --batch 3", USAGE, "belong together"),
    ("generate 犬 --prompts FILE --out NEW", USAGE, "PROMPT belongs to a single prompt"),
    ("generate --prompts FILE --out NEW --json", USAGE, "--json belongs to a single prompt"),
    ("generate --prompts FILE --out NEW --cache NEW", USAGE, "--cache belongs to a single prompt"),
    ("generate --prompts FILE --out FILE", REFUSED, "are the same file"),
    ("generate --prompts FILE --out NEW", REFUSED, "line 1 is not JSON"),
    ("generate --prompts nowhere.jsonl --out NEW", REFUSED, "nowhere.jsonl: No such file"),
    ("generate --prompts EMPTY --out NEW", REFUSED, "Is a directory|Permission denied"),
    ("generate --prompts FILE --out /no/such/folder/x", REFUSED, "there is no folder /no/such/folder"),
    ("generate --prompts LATIN --out NEW", REFUSED, "is not UTF-8: byte 3 is 0xe9"),
    ("generate ''", REFUSED, "the prompt is empty; --raw"),
    ("generate", REFUSED, "the prompt is empty"),
    ("generate 犬 --min-new-tokens 50 --max-new-tokens 4", REFUSED, "min_new_tokens is 50, but max_new_tokens is 4"),
    ("generate 犬 --min-length 50 --max-length 40", REFUSED, "min_length is 50, but max_length is 40"),
    ("generate 犬 --greedy --temperature 1", REFUSED, "--greedy does not sample"),
    ("generate 犬 --raw --system x", REFUSED, "--system is part of the"),
    ("generate 犬 --temperature 0", REFUSED, "temperature has to be a number above 0"),
    ("generate 犬 --top-p nan", REFUSED, "top_p has to be"),
    ("generate 犬 --seed 99999999999999999999", REFUSED, "seed has to be"),
    ("generate 犬 --max-new-tokens 9999999999999999999", USAGE, "'9999999999999999999' is too large"),
    ("generate 犬 --max-new-tokens 999999999999999999", REFUSED, "the context holds"),
    ("convert demo x.gguf --dtype float16", REFUSED, "--dtype is of folders, and x.gguf is a GGUF file; use --type"),
    ("convert demo x --type f16", REFUSED, "--type is of GGUF files, and x is a folder; name it x.gguf"),
    ("convert demo EMPTY --type f16", REFUSED, "EMPTY is a folder; name it .*EMPTY/model.gguf, or use --dtype"),
    ("convert demo . --type f16", REFUSED, r"--type is of GGUF files, and \. is a folder; name it model.gguf, or"),
    ("convert demo .. --type f16", REFUSED, "name it ../model.gguf, or"),
    ("convert demo / --type f16", REFUSED, "name it /model.gguf, or"),
    ("convert demo x.v1/ --type f16", REFUSED, "name it x.v1.gguf, or"),
    ("convert demo .gguf", REFUSED, ".gguf is an ending without a name; name the file, such as model.gguf"),
    ("convert demo x.safetensors", REFUSED, "x.safetensors names a file, but a folder is written; name it x;?$"),
    ("convert demo /", REFUSED, "/ exists and is not an empty folder"),
    ("convert nowhere.gguf NEW", REFUSED, "there is no file nowhere.gguf$"),
    ("quantize demo /", REFUSED, "/ exists and is not an empty folder"),
    ("quantize demo x.gguf", REFUSED, "name it x; llama-jp convert MODEL x.gguf --type q8_0 writes a GGUF file"),
    ("finetune FILE x.gguf", REFUSED, "name it x; afterwards, llama-jp convert OUT x.gguf writes a GGUF file"),
    ("finetune FILE /", REFUSED, "/ holds files that are no training run"),
    ("generate 犬 --cache EMPTY", REFUSED, "EMPTY is a folder; name a file, such as .*EMPTY/prompt.cache"),
    ("evaluate demo --text EMPTY", REFUSED, "EMPTY is a folder; name a text file"),
    ("parity --report EMPTY", 2, "EMPTY is a folder; name a file, such as .*EMPTY/parity.html"),
    ("parity --certificate /no/such/folder/x", 2, "there is no folder /no/such/folder for x; create it first"),
    ("parity --rows 9999999999999999999999", USAGE, "is too large"),
    ("generate 犬 --past-context shift --max-new-tokens 9999999999999", REFUSED, "the memory is full"),
    ("generate 犬 --top-logprobs 3", REFUSED, "--top-logprobs needs --json"),
    ("generate 犬 --num-assistant-tokens 3", REFUSED, "needs --assistant-model"),
    ("generate 犬 --assistant-model demo", REFUSED, "has another tokenizer than"),
    ("generate 犬 --assistant-model FOLDER --prompt-lookup-num-tokens 3", REFUSED, "both draft"),
    ("generate 犬 --optimize int8", REFUSED, "--optimize int8 needs int8 weights"),
    ("generate 犬 --optimize exact --compile", REFUSED, "--compile changes the rounding, which --optimize exact excl"),
    ("bench demo --optimize exact --compile", REFUSED, "--compile changes the rounding, which --optimize exact excl"),
    ("generate --prompts DEEP --out NEW --compile", USAGE, "--compile belongs to a single prompt; leave it out with"),
    ("generate --prompts DEEP --out NEW", REFUSED, "line 1 is not JSON: it is nested too deeply"),
    (f"generate 犬 --max-length {'9' * 5000}", USAGE, r"--max-length: '9+… is not a whole number|9… is not"),
    (f"generate 犬 --bad-words-ids {'[' * 100000}", USAGE, "is not JSON: it is nested too deeply"),
    ("generate 犬 --max-length ²", USAGE, "'²' is not a whole number"),
    ("generate 犬 --device meta", REFUSED, "the device 'meta' holds no numbers"),
    ("generate 犬 --model nowhere:make", REFUSED, "nowhere:make cannot be imported: ModuleNotFoundError"),
    ("generate 犬 --model sys:exit", REFUSED, "sys:exit fails: SystemExit"),
    ("bench os:getcwd", REFUSED, "os:getcwd returns an object of the type str, but a Llama is needed"),
    (f"info {'x' * 5000}", REFUSED, "x…|File name too long"),
    ("parity --replay DEEP", 2, "is not JSON: it is nested too deeply"),
    ("parity --replay LATIN", 2, "is not UTF-8: byte 3 is 0xe9"),
    ("generate 犬 --device moon", REFUSED, "the device 'moon' cannot be used"),
    ("generate 犬 --rope-scaling none:2", REFUSED, "needs more than a factor"),
    ("generate 犬 --cache /no/such/folder/x", REFUSED, "there is no folder"),
    ("generate 犬 --cache FILE", REFUSED, "is damaged or not a saved cache"),
    ("generate 犬 --model EMPTY", REFUSED, "EMPTY"),
    ("generate 犬 --model nowhere", REFUSED, "nowhere"),
    ("info demo --model demo", USAGE, "not allowed with"),
    ("info nowhere", REFUSED, "nowhere"),
    ("info EMPTY", REFUSED, "EMPTY"),
    ("info FILE", REFUSED, "FILE"),
    ("chat demo demo", USAGE, "demo is unknown"),
    ("chat --num-beams 2", USAGE, "--num-beams is unknown"),
    ("chat --temperature -1", REFUSED, "temperature has to be"),
    ("chat --max-new-tokens 512 --model FOLDER", REFUSED, "max_new_tokens is 512, but the context holds 512"),
    ("bench demo --random tiny", USAGE, "not allowed with"),
    ("bench --model demo --random tiny", USAGE, "not allowed with"),
    ("bench --layers 3", USAGE, "--layers needs --random"),
    ("bench --random tiny --revision main", USAGE, "--revision belongs to a checkpoint"),
    ("bench --random huge", USAGE, "invalid choice: 'huge'"),
    ("bench --batch 0", REFUSED, "at least 1"),
    ("convert demo", USAGE, "SRC and DST are needed"),
    ("convert", USAGE, "SRC and DST are needed"),
    ("convert --model demo demo NEW", USAGE, "the source is named twice"),
    ("convert demo FILE", REFUSED, "exists and is not an empty folder"),
    ("convert demo FILE/x", REFUSED, "is no folder"),
    ("convert demo NEW --max-shard-size big", REFUSED, "big"),
    ("quantize demo NEW --bits 4", REFUSED, "704 inputs, .* use 32 or 64, as in --group-size 64"),
    ("quantize demo NEW --bits 5", USAGE, "--bits: invalid choice: 5"),
    ("quantize --model demo", REFUSED, "MODEL and OUT are needed"),
    ("tokenize --file nowhere", REFUSED, "nowhere: No such file"),
    ("tokenize --file LATIN", REFUSED, "not UTF-8"),
    ("parity --model nowhere", 2, "nowhere"),
]  # fmt: skip


@pytest.fixture
def places(folder, tmp_path):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "FILE").write_text("not what anybody expects\n", encoding="utf-8")
    (tmp_path / "DEEP").write_text("[" * 100_000 + "\n", encoding="utf-8")
    (tmp_path / "LATIN").write_bytes("café".encode("latin-1"))
    names = {name: str(tmp_path / name) for name in ("EMPTY", "FILE", "DEEP", "LATIN", "NEW")}
    return names | {"FOLDER": str(folder)}


def status_of(words: list[str]) -> int:
    """The exit status, also of argparse."""
    try:
        return main(words)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def as_words(line: str, places: dict[str, str]) -> list[str]:
    return [re.sub("^(EMPTY|FILE|DEEP|LATIN|NEW|FOLDER)", lambda m: places[m[0]], word) for word in shlex.split(line)]


@pytest.mark.parametrize(("line", "status", "sentence"), MISTAKES)
def test_a_mistake_takes_one_line(capsys, monkeypatch, places, tmp_path, line, status, sentence):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.chdir(tmp_path)
    words = as_words(line, places)
    if words[:1] == ["generate"] and "--model" not in words:
        words += ["--model", places["FOLDER"]]
    before = sorted(file.name for file in tmp_path.iterdir())
    assert status_of(words) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("llama-jp: ") and err.count("\n") == 1, err
    assert re.search(sentence, err), err
    assert len(err) < 1000, "a long value is cut"
    assert sorted(file.name for file in tmp_path.iterdir()) == before, "nothing half-written stays behind"


WRONG = [
    "",
    "x",
    "-1",
    "0",
    "nan",
    "inf",
    "1e400",
    "-5は",
    "{",
    "[]",
    "[[]]",
    "[[-1]]",
    "99999999999999999999",
    "🐻",
    "\0",
]


@pytest.mark.parametrize("seed", range(60))
def test_random_mistakes_give_no_traceback(capsys, monkeypatch, folder, seed):
    """Any exception that is not described would leave `main`."""
    from llama_jp.cli import make_parser

    generator = random.Random(seed)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    command = make_parser(["generate"])._subparsers._group_actions[0].choices["generate"]
    left_out = {"--help", "--model", "--revision", "--prompts", "--out", "--batch", "--cache", "--max-time", "--device"}
    flags = [
        action for action in command._actions if action.option_strings and action.option_strings[-1] not in left_out
    ]
    words = ["generate", "犬", "--model", str(folder), "--max-length", "80"]
    for flag in generator.sample(flags, 2):
        words.append(flag.option_strings[0])
        if flag.nargs != 0:
            words[-1] += "=" + generator.choice(WRONG)
    status = status_of(words)
    out, err = capsys.readouterr()
    assert status in (0, 1, 2)
    lines = [line for line in err.splitlines() if "prompt tokens" not in line]
    assert all(line.startswith(("llama-jp: ", "optimised; ", "prompt: ")) for line in lines), err
    if status:
        assert sum(line.startswith("llama-jp: ") for line in lines) >= 1, words
