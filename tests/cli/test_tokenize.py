"""llama-jp tokenize."""

from __future__ import annotations

import argparse
import io
import json
import shlex
import sys

import pytest
from helpers.tokenizer_files import llama_json, llama_model, write

from llama_jp.cli import tokenize
from llama_jp.cli.columns import display_width, pad, visible
from llama_jp.text.prompt_forms import forms_of_prompt
from llama_jp.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tokenizers of different vocabularies, the second without a dummy prefix."""
    if sys.getfilesystemencoding() == "ascii":
        pytest.skip("folders cannot have Japanese names: LC_ALL=C, and Python's UTF-8 mode is off")
    root = tmp_path_factory.mktemp("models")
    other = llama_model(vocab_size=540, add_dummy_prefix=False)
    one = write(root / "one", tokenizer_model=llama_model())
    two = write(root / "二番目", tokenizer_json=llama_json(other, add_dummy_prefix=False))
    return str(one), str(two)


@pytest.fixture
def run(capsys):
    def call(*argv):
        parser = argparse.ArgumentParser()
        tokenize.add_arguments(parser)
        assert tokenize.run(parser.parse_args(argv)) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        return captured.out

    return call


def give_input(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_table_of_one_tokenizer(run, models):
    """Guards against wrong columns: the printed table is compared with the tokenizer."""
    text = "the 𠮷、犬\tA"
    tokenizer = Tokenizer.from_pretrained(models[0])
    ids = tokenizer.encode(text)
    header, *rows, blank, summary, line = run(text, "--model", models[0]).splitlines()
    assert header.split() == ["id", "bytes", "piece"]
    assert [int(row.split()[0]) for row in rows] == ids
    assert [row.split()[2] for row in rows] == tokenizer.pieces(ids)
    sizes = [int(row.split()[1]) for row in rows]
    assert sum(sizes) == len(text.encode("utf-8")) + 1  # the 1 is the space that this tokenizer adds
    assert sizes[0] == 0 and rows[3].split()[1:] == ["1", "<0xF0>"]
    assert blank == ""
    assert summary == f"{len(text)} characters, {len(text.encode())} bytes"
    assert f"{len(ids)} tokens, {len(text) / len(ids):.3f} characters per token" in line


def test_flags_reach_the_tokenizer(run, models):
    """Guards against --no-bos and --parse-special without effect."""
    tokenizer = Tokenizer.from_pretrained(models[0])

    def ids(*argv):
        return json.loads(run("<s>犬", "--model", models[0], "--json", *argv))["tokenizers"][0]["ids"]

    assert ids() == tokenizer.encode("<s>犬")
    assert ids("--no-bos") == tokenizer.encode("<s>犬", bos=False)
    assert ids("--parse-special") == tokenizer.encode("犬")


def test_json_holds_everything(run, models):
    """Guards against a key that is missing or belongs to the other tokenizer."""
    content = json.loads(run("犬と𠮷", "--model", models[0], "--model", models[1], "--json"))
    assert (content["characters"], content["bytes"]) == (3, 10)
    for name, column in zip(models, content["tokenizers"], strict=True):
        tokenizer = Tokenizer.from_pretrained(name)
        ids = tokenizer.encode("犬と𠮷")
        assert column["model"] == name and column["kind"] == tokenizer.kind
        assert column["ids"] == ids and column["pieces"] == tokenizer.pieces(ids)
        assert column["tokens"] == len(ids) == len(column["bytes"])
        assert column["byte_tokens"] == 4
        assert column["characters_per_token"] == 3 / len(ids)


def test_side_by_side_lines_up(run, models):
    """Guards against full-width characters that shift a column, and against tokens in the wrong row."""
    out = run("小さな犬が、駅で待つ。the dog", "--model", models[0], "--model", models[1])
    table = out.split("\n\n")[0].splitlines()
    assert models[0] in table[0] and models[1] in table[0]
    bars = {display_width(line.split("|")[0]) for line in table if "|" in line}
    assert len(bars) == 1
    both = [[cell.split() for cell in line.split("|")] for line in table[2:]]
    for column, name in enumerate(models):
        tokenizer = Tokenizer.from_pretrained(name)
        shown = [int(row[column][0]) for row in both if len(row) > column and row[column]]
        assert shown == tokenizer.encode("小さな犬が、駅で待つ。the dog")
    summary = out.split("\n\n")[1].splitlines()
    assert len(summary) == 3 and "(sentencepiece)" in summary[1] and "(json)" in summary[2]


def test_tokens_that_begin_at_the_same_byte_share_a_row():
    """Guards against rows by token number. "abcd" is ab|cd or a|b|cd: rows at bytes 0, 1 and 2, and one for BOS."""
    one = tokenize.Column("1", "json", [1, 7, 8], ["<s>", "ab", "cd"], [0, 2, 2], 0)
    two = tokenize.Column("2", "json", [1, 4, 5, 8], ["<s>", "a", "b", "cd"], [0, 1, 1, 2], 0)
    lines = [line.split() for line in tokenize.side_by_side([one, two])]
    assert lines[2:] == [
        ["1", "0", "<s>", "|", "1", "0", "<s>"],
        ["7", "2", "ab", "|", "4", "1", "a"],
        ["|", "5", "1", "b"],
        ["8", "2", "cd", "|", "8", "2", "cd"],
    ]
    three = tokenize.Column("3", "json", [7, 8], ["ab", "cd"], [2, 2], 0)  # without BOS, only the first row changes
    lines = [line.split() for line in tokenize.side_by_side([three, one])]
    assert lines[2:] == [
        ["7", "2", "ab", "|", "1", "0", "<s>"],
        ["|", "7", "2", "ab"],
        ["8", "2", "cd", "|", "8", "2", "cd"],
    ]


def test_display_width_counts_terminal_columns():
    """Guards against counting characters."""
    assert display_width("abc") == 3
    assert display_width("犬ＡＢ　") == 8
    assert display_width("ｱｲｳ") == 3
    assert display_width("e\u0301") == 1
    assert pad("犬", 4) == "犬  "


def test_control_characters_are_escaped(run, models):
    """Guards against a line end in a piece, which breaks the table."""
    table = run("a\r\n\tb", "--model", models[0]).split("\n\n")[0]
    assert len(table.splitlines()) == 1 + len(Tokenizer.from_pretrained(models[0]).encode("a\r\n\tb"))
    assert visible("▁\r　\u200b犬") == "▁\\r　\\u200b犬"


def test_a_file_is_summarised_with_its_line_ends(run, models, tmp_path):
    """Guards against text mode, which turns CR LF into LF and loses tokens, and against a table of a whole novel."""
    text = "小さな犬。\r\n駅で待つ。\r\n"
    path = tmp_path / "犬.txt"
    path.write_bytes(text.encode("utf-8"))
    tokens = len(Tokenizer.from_pretrained(models[0]).encode(text))
    assert tokens > len(Tokenizer.from_pretrained(models[0]).encode(text.replace("\r\n", "\n")))
    lines = run("--file", str(path), "--model", models[0], "--model", models[1]).splitlines()
    assert len(lines) == 3
    assert lines[0] == f"{len(text)} characters, {len(text.encode())} bytes"
    assert f"{tokens} tokens, {len(text) / tokens:.3f} characters per token" in lines[1]
    assert json.loads(run("--file", str(path), "--model", models[0], "--json"))["tokenizers"][0]["tokens"] == tokens


def test_standard_input(run, models, monkeypatch):
    """Guards against the encoding of the machine, and against changed line ends."""
    give_input(monkeypatch, "犬\r\n".encode())
    content = json.loads(run("--model", models[0], "--json"))
    assert content["tokenizers"][0]["ids"] == Tokenizer.from_pretrained(models[0]).encode("犬\r\n")


def test_empty_text(run, models):
    """Guards against a division by zero tokens."""
    assert "0 characters, 0 bytes" in run("", "--model", models[0])
    out = run("", "--model", models[0], "--no-bos")
    assert "0 tokens" in out and "characters per token" not in out
    content = json.loads(run("", "--model", models[0], "--no-bos", "--json"))
    assert content["tokenizers"][0]["characters_per_token"] is None


def test_input_that_is_not_utf8_is_refused(run, models, tmp_path, monkeypatch):
    """Guards against a message without the file and the position."""
    path = tmp_path / "sjis.txt"
    path.write_bytes("ok犬".encode("shift_jis"))
    with pytest.raises(ValueError, match=r"sjis\.txt is not UTF-8: byte 2 is 0x8c; convert it"):
        run("--file", str(path), "--model", models[0])
    give_input(monkeypatch, b"\xff")
    with pytest.raises(ValueError, match="standard input is not UTF-8: byte 0 is 0xff; convert it"):
        run("--model", models[0])
    with pytest.raises(FileNotFoundError):
        run("--file", str(tmp_path / "none.txt"), "--model", models[0])


def test_text_and_file_together_are_a_usage_error(run, models, capsys):
    """Guards against silently ignoring one of the two."""
    with pytest.raises(SystemExit) as caught:
        run("犬", "--file", "x.txt", "--model", models[0])
    assert caught.value.code == 2
    capsys.readouterr()


def test_demo_is_the_default(run, models, monkeypatch):
    """Guards against an example that needs a download."""
    calls = []

    def from_pretrained(source, *args, **kwargs):
        calls.append(source)
        return Tokenizer.from_pretrained(models[0])

    monkeypatch.setattr(tokenize, "load_tokenizer", from_pretrained)
    run(*shlex.split(tokenize.EXAMPLE)[2:])
    assert calls == ["demo"]


def test_explain_shows_five_forms(run):
    """Guards against a table that shows other ids than the forms have."""
    tokenizer = Tokenizer.from_pretrained("demo")
    forms = forms_of_prompt(tokenizer, "クマは")
    out = run("--explain", "クマは")
    table, lines, ids = out.split("\n\n")
    assert ids.strip() == "ids as trained: " + ",".join(map(str, forms[0].ids))
    for form in forms:
        assert form.name in table and f"{form.name.ljust(14)}  {len(form.ids)} tokens; " in lines
    header, *rows = table.splitlines()
    starts = [display_width(header.split(form.name)[0]) for form in forms]
    shown = [[] for _ in forms]
    for row in rows:
        cells = [cell.split() for cell in split_columns(row, starts)]
        for i, cell in enumerate(cells):
            if cell:
                shown[i].append(int(cells[0][0] if cell == ["="] else cell[0]))
    assert shown == [form.ids for form in forms]
    content = json.loads(run("--explain", "クマは", "--json"))
    assert [each["ids"] for each in content["forms"]] == [form.ids for form in forms]
    assert [each["pieces"] for each in content["forms"]] == [tokenizer.pieces(form.ids) for form in forms]


def split_columns(row: str, starts: list[int]) -> list[str]:
    """The cells of a row whose columns begin at these widths."""
    cells, width, column = [""] * len(starts), 0, 0
    for character in row:
        while column + 1 < len(starts) and width >= starts[column + 1]:
            column += 1
        cells[column] += character
        width += display_width(character)
    return cells


def test_explain_names_the_mistakes_in_pasted_ids(run):
    """Guards against ids that cannot be pasted as people have them, and a report without the right ids."""
    tokenizer = Tokenizer.from_pretrained("demo")
    trained = forms_of_prompt(tokenizer, "クマは")[0].ids
    assert "no mistake: this is the prompt of 'クマは' as trained" in run("--explain", "--ids", str(trained))
    for pasted in (
        str([1, *trained]),
        " ".join(map(str, [1, *trained])),
        f"tensor([{[1, *trained]}], device='cuda:0')",
    ):
        lines = run("--explain", "--ids", pasted).splitlines()
        assert lines[0] == f"{len(trained) + 1} ids, 1 mistake:" and lines[1].startswith(
            "  doubled BOS: BOS stands twice; "
        )
        assert lines[2] == "first difference at token 1: 1 <s>, where 265 ▁[ was trained"
        assert lines[3] == "trained for 'クマは': " + ",".join(map(str, trained))
    content = json.loads(run("--explain", "１匹", "--json", "--ids", ",".join(map(str, trained))))
    assert [mistake["kind"] for mistake in content["mistakes"]] == ["another message"]
    assert content["message"] == "１匹" and content["first_difference"] == 21
    assert content["trained"] == forms_of_prompt(tokenizer, "１匹")[0].ids
    assert "1 mistake:\n  wrong vocabulary: " in run("--explain", "--ids", "1,40000")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["犬", "--ids", "1"], "^--ids needs --explain$"),
        (["犬", "--explain", "--no-bos"], "leave out --no-bos and --parse-special"),
        (["犬", "--explain", "--model", "demo", "--model", "demo"], "--explain takes one --model, and there are 2"),
        (["--explain", "--ids=-100,1"], "-100 marks labels that training ignores"),
    ],
)
def test_what_explain_refuses(run, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(*words)


def test_ids_that_are_no_numbers_are_wrong_usage(run, capsys):
    with pytest.raises(SystemExit):
        run("--explain", "--ids", "1,<s>")
    assert "'1,<s>' is not a list of ids, such as 1,518,25580" in capsys.readouterr().err
