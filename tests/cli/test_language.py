"""Help and errors in Japanese: complete, without dead entries, and with every number and name of the English."""

from __future__ import annotations

import argparse
import ast
import errno
import io
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_mistakes import MISTAKES, as_words, places, status_of  # noqa: F401 (a fixture)

import llama_jp
from llama_jp.checkpoint.recognise import FOREIGN_FILES, describe_address, describe_folder, shorten
from llama_jp.cli import COMMANDS, main, make_parser
from llama_jp.cli.columns import display_width
from llama_jp.cli.conversation import forgotten_notice
from llama_jp.cli.failures import describe_memory
from llama_jp.cli.finetune import DATA_FORMS
from llama_jp.cli.help_format import NOT_FIRST, wrap
from llama_jp.cli.japanese import HELP, MESSAGES, ROOMS
from llama_jp.cli.language import (
    PLACEHOLDER,
    as_pattern,
    language_of,
    shows_japanese,
    speaking,
    split_language,
    translate,
    translate_help,
)
from llama_jp.cli.output import count
from llama_jp.generation.checks import check_range
from llama_jp.text_files import decode_text

PACKAGE = Path(llama_jp.__file__).parent
# Only Python code meets the errors of these files.
OF_THE_LIBRARY = {
    *("__init__.py", "bridge.py", "model.py", "surgery.py", "linear/fused.py", "linear/weight.py"),
    *("evaluation/choices.py", "evaluation/flexeval_adapter.py", "evaluation/lm_eval_adapter.py"),
    *("parity/judge/context.py", "training/initialisation.py"),
    *(f"tracing/{name}.py" for name in ("activations", "attention", "interface", "recorder")),
}
RETURNING = (
    *("cli/failures.py", "cli/parser.py", "checkpoint/hub.py", "checkpoint/recognise.py", "linear/kernels.py"),
    *("linear/one_query.py", "loading.py", "speed/attention_selection.py", "text_files.py", "training/losses.py"),
)
SAYING = ("error", "warn", "note", "refuse")  # functions whose first argument is a sentence
JAPANESE = re.compile("[ぁ-んァ-ヴ一-龠]")
ENGLISH = re.compile("([a-z]+ ){3}")  # a part that has no entry
# Flags, files, numbers and metavars.
NAMES = re.compile(r"--[a-z][\w-]+|[\w./-]*\w+[._/]\w[\w./]*|\d+|\b[A-Z]{2,}\w*", re.ASCII)


def template(node: ast.expr) -> str | None:
    """The sentence of an expression, with {} for its values; None for an expression that is no sentence."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = template(node.left), template(node.right)
        return None if parts == (None, None) else "".join("{}" if part is None else part for part in parts)
    return None


def sentences(file: Path) -> set[str]:
    """Every string and every sum of strings in a file."""
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return {found for node in nodes if isinstance(node, ast.expr) and (found := template(node))}


def errors(name: str) -> set[str]:
    """The sentences that a file raises, warns with, gives to `parser.error`, or returns, if it is among RETURNING."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse((PACKAGE / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found += node.exc.args[:1]
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in SAYING or ast.unparse(node.func) == "super().__init__":  # the latter of an error
                found += node.args[:1]
        elif isinstance(node, ast.Return) and node.value is not None and name in RETURNING:
            found += [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
    return {sentence for sentence in map(template, found) if sentence and re.search("[a-z]{2,} ", sentence)}


# Each sentence that these files raise, warn with, or give to `parser.error`, `note` or `refuse`, has a Japanese entry.
FILES = {file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")}
LISTED = sorted(name for name in FILES - OF_THE_LIBRARY if errors(name))


def error_of(function, *arguments, **named) -> str:
    with pytest.raises(ValueError) as caught:
        function(*arguments, **named)
    return str(caught.value)


def assembled() -> list[str]:
    """Sentences that the code puts together in pieces."""
    ranges = [
        {},
        {"above": 0, "hint": "; for greedy decoding use do_sample=False (--greedy)"},
        {"above": 0, "most": 1},
        {"least": 0, "most": 1},
        {"least": 0, "below": 1},
        {"least": 1, "whole": True},
        {"whole": True, "least": -(2**63), "most": 2**64 - 1},
    ]
    return [
        *(error_of(check_range, "top_p", "x", **limits) for limits in ranges),
        error_of(decode_text, b"\xe9", "x.txt"),
        error_of(decode_text, b"\xe9", "standard input", way_out=", or set PYTHONIOENCODING to its encoding"),
        describe_memory("CUDA out of memory. Tried to allocate 20.00 GiB"),
        describe_memory("tried to allocate 4000000000 bytes"),
        *(f"x: {count(number, 'turn')} saved" for number in (1, 2)),
        *(
            count(number, noun)
            for number in (1, 2)
            for noun in ("step", "answer", "prompt", "token", "safetensors file")
        ),
        shorten(["a.bin", "b.bin", "c.bin"], 2),
        "missing a.weight; unexpected b.weight; misshapen c.weight is (2, 3) where the model and the rank make it (4,)",
        "misshapen a.b in x is (2,) where config.json makes it (3,), a.c in x is (2,) where config.json makes it (3,)",
        "'silu' or 'swish'",
        "misshapen a.weight; for added tokens, enlarge the model first, with transformers' resize_token_embeddings",
        'missing a.weight (missing="initialise" starts them with the values of the constructor)',
        "hidden_act 'gelu' is not supported; only 'silu' is; x",
        *(f"m has {files} of 4: download x" for files in ("1 consolidated file", "2 consolidated files")),
        *(forgotten_notice([("犬", "猫")] * number, 512) for number in (1, 2)),
    ]


def parts_of(sentence: str) -> set[str]:
    """A sentence, and the texts that entries find inside it."""
    found = {sentence}
    for english in MESSAGES:
        if PLACEHOLDER.search(english) and (match := as_pattern(english).fullmatch(sentence)):
            found |= {part for value in match.groups() if value != sentence for part in parts_of(value)}
    return found


def of_argparse() -> set[str]:
    """argparse's own sentences, with {} for its values."""
    return {re.sub(r"%(\(\w+\))?[sr]", "{}", sentence) for sentence in sentences(Path(argparse.__file__))}


def help_texts() -> set[str]:
    """Every text in the help of the program and of its commands."""
    texts: set[str | None] = {DATA_FORMS}
    todo = [make_parser()]
    for parser in todo:
        texts |= {parser.epilog} | {group.title for group in parser._action_groups if group._group_actions}
        texts |= {group.description for group in parser._action_groups}
        for action in parser._actions:
            texts.add(action.help)
            if isinstance(action, argparse._SubParsersAction):
                texts |= {choice.help for choice in action._choices_actions}
                todo += action.choices.values()
    return {text for text in texts if text and text != argparse.SUPPRESS}


def normalised(english: str) -> str:
    return PLACEHOLDER.sub("{}", english)


def test_every_help_text_has_its_japanese():
    """Guards against a new flag that has no Japanese. Its entry belongs to HELP in cli/japanese/help.py."""
    with speaking("ja"):
        assert {text for text in help_texts() if not JAPANESE.search(translate_help(text))} == set()


@pytest.mark.parametrize("name", LISTED)
def test_every_error_of_a_listed_file_has_its_japanese(name):
    """Guards against a new error that has no Japanese. Its entry belongs to MESSAGES of a room in cli/japanese."""

    def has_japanese(sentence: str) -> bool:
        ends = (sentence, sentence.removesuffix("{}"))  # with a name at the end, or with an empty hint
        shown = [translate(end.replace("{}", value)) for end in ends for value in ("X", "12", "2 steps", "x.weight")]
        return any(JAPANESE.search(each) and not ENGLISH.search(each) for each in shown)

    with speaking("ja"):
        assert [sentence for sentence in sorted(errors(name)) if not has_japanese(sentence)] == []
        if name == "checkpoint/recognise.py":
            assert [sentence for _, sentence in FOREIGN_FILES if not has_japanese(sentence)] == []


def test_every_entry_belongs_to_a_sentence_that_exists():
    """Guards against Japanese that nobody sees, because its English has been changed."""
    files = set().union(*(sentences(file) for file in PACKAGE.rglob("*.py") if file.parent.name != "japanese"))
    exist = {*(re.sub(r"\{\w+\}", "{}", sentence) for sentence in files), *of_argparse()}
    parts = {part for sentence in assembled() for part in parts_of(sentence)}
    errors_of_the_system = {os.strerror(number) for number in errno.errorcode}
    dead = [
        english
        for english in [*HELP, *MESSAGES]
        if normalised(english) not in exist | errors_of_the_system
        and not any(as_pattern(english).fullmatch(part) for part in parts)
    ]
    assert dead == []


def test_no_sentence_stands_in_two_rooms():
    """Guards against two entries that drift apart."""
    assert len(MESSAGES) == sum(len(room.MESSAGES) for room in ROOMS)


def test_japanese_keeps_flags_files_numbers_and_names():
    """Guards against a default or a flag that is wrong in Japanese only."""
    for english, japanese in {**HELP, **MESSAGES}.items():
        assert sorted(PLACEHOLDER.findall(english)) == sorted(PLACEHOLDER.findall(japanese)), english
        kept = [Counter(NAMES.findall(PLACEHOLDER.sub("", text))) for text in (english, japanese)]
        assert kept[0] - kept[1] == Counter(), english


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "。フォルダーは空です"),
        (["adapter_config.json"], "。PEFT アダプターです。元のモデル を指定し"),
        (["a.gguf", "b.gguf", "c.gguf", "d.gguf"], "。GGUF ファイル（a.gguf, b.gguf, c.gguf ほか 1 個）があります。"),
        (["model-00001-of-00002.safetensors"], "。2 個のシャードのうち 1 個だけで、"),
        (["x.safetensors"], "。重み（x.safetensors）があります。モデルの config.json を"),
    ],
)
def test_a_folder_is_named_for_what_it_is(tmp_path, files, sentence):
    for name in files:
        (tmp_path / name).touch()
    with speaking("ja"):
        assert translate(describe_folder(tmp_path)).startswith(sentence)


def test_windows_consoles_in_japan_show_every_character():
    for japanese in [*HELP.values(), *MESSAGES.values()]:
        japanese.encode("cp932")
        japanese.encode("euc_jp")


def test_a_sentence_inside_a_sentence_is_translated_and_names_stay():
    """Guards against a name that is translated because it is also a word, and against a lost line number."""
    with speaking("ja"):
        assert translate("a.jsonl, line 3: top_p has to be a number of at least 0 and of at most 1, not 'x'") == (
            "a.jsonl、3 行目: top_p は 0 以上 1 以下の数でなければなりません。'x' は使えません"
        )
        assert translate("model is no folder, no hub repository (owner/name) and no short name (demo)").startswith(
            "model "
        )
        assert translate("there is no config.json in /m; the folder is empty").endswith("。フォルダーは空です")
        address = describe_address("https://huggingface.co/elyza/x/tree/v2")
        assert translate(address).endswith("指定してください: elyza/x（リビジョン 'v2'）")
        theirs = "Expecting value: line 1 column 1 (char 0)"
        assert (
            translate(f"a.jsonl, line 3 is not JSON: {theirs}") == f"a.jsonl の 3 行目は JSON ではありません: {theirs}"
        )
        assert translate("t.txt, line 1: it is no UTF-8 text: byte 0 is 0xff") == (
            "t.txt、1 行目: UTF-8 ではありません: 0 バイト目が 0xff です"
        )
        assert translate("there is no layer 9; the model has layers 0 to 5").startswith("層 9 はありません")
        assert translate("x.gguf: 3,689 bytes, 57 tensors (44 Q4_0, 13 F32)") == (
            "x.gguf: 3,689 バイト、テンソル 57 個（44 Q4_0, 13 F32）"
        )
        assert translate("c.json: 1 turn saved") == "c.json: 1 往復を保存しました"
        assert translate("out: adapter after 2 steps") == "out: 2 ステップ学習したアダプター"
        assert translate("out: checkpoint after 1 step, held-out loss 2.5") == (
            "out: 1 ステップ学習したチェックポイント、検証損失 2.5"
        )
        assert translate("the adapter a, trained on b, does not fit this model: missing c").startswith(
            "アダプター a（b で学習したもの）は"
        )
        problems = "missing a.weight; misshapen b.weight in x is (2, 3) where config.json makes it (4,)"
        problems += ", c.weight in x is (1,) where config.json makes it (3,) and 3 more"
        assert translate(f"the weights in m do not fit config.json: {problems}") == (
            "m の重みは config.json に合いません: 足りないもの: a.weight。形の違うもの: x の b.weight が (2, 3)"
            "（config.json によれば (4,)）、x の c.weight が (1,)（config.json によれば (3,)） ほか 3 個"
        )
        assert translate("m/config.json: hidden_act 'gelu' is not supported; only 'silu' or 'swish' is") == (
            "m/config.json: hidden_act 'gelu' には対応していません。対応しているのは 'silu' か 'swish' だけです"
        )
        assert translate("a sentence without an entry") == "a sentence without an entry"
    assert translate("there are no prompts") == "there are no prompts"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "ja"}, "ja"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_MESSAGES": "C"}, "en"),
        ({"LANG": "C", "LC_MESSAGES": "ja_JP.eucJP"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LC_MESSAGES": "ja_JP.UTF-8", "LC_ALL": "en_US.UTF-8"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": ""}, "ja"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "ja:en"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LANGUAGE": "de:en"}, "en"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "ja"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LLAMA_JP_LANG": "en"}, "en"),
        ({"LC_ALL": "C", "LLAMA_JP_LANG": "ja"}, "ja"),
        ({"LANG": "ja_JP.UTF-8", "LLAMA_JP_LANG": "fr"}, "ja"),
    ],
)
def test_the_locale_decides_as_in_other_programs(environment, expected):
    assert language_of(environment) == expected


@pytest.mark.parametrize(
    ("words", "asked", "rest"),
    [
        ("--lang ja generate 犬", "ja", "generate 犬"),
        ("generate 犬 --lang=ja --raw", "ja", "generate 犬 --raw"),
        ("--lang ja info --lang en", "en", "info"),
        ("generate -- --lang ja", None, "generate -- --lang ja"),
        ("info --lang", "", "info"),
    ],
)
def test_the_flag_stands_before_or_after_the_command(words, asked, rest):
    assert split_language(words.split()) == (asked, rest.split())


@pytest.mark.parametrize("words", ["--lang fr info demo", "info demo --lang fr", "info demo --lang"])
def test_an_unknown_language_is_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words.split())
    assert stopped.value.code == 2 and "--lang: invalid choice: " in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_help_fits_the_terminal(command, columns, capsys, monkeypatch):
    """Guards against lines measured in characters: a Japanese one takes two columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as stopped:
        main(["--lang", "ja", *command.split(), "--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and out.startswith("使い方: llama-jp") and "\nオプション:" in out
    body = out.partition("位置引数:")[2] or out.partition("オプション:")[2]
    body = body.partition("\n例:")[0]
    assert max(map(display_width, body.splitlines())) <= columns
    assert not any(line.strip()[:1] in set(NOT_FIRST) for line in body.splitlines() if line.strip())
    if command:
        assert f"\n例:\n  llama-jp {command}" in out


def test_lines_break_between_words():
    with speaking("ja"):
        assert wrap("トークンを最大 N 個（既定値: 256）生成する", 20) == [
            "トークンを最大 N 個",
            "（既定値: 256）生成",
            "する",
        ]
        assert wrap("A" * 30 + "の型", 20) == ["A" * 30, "の型"]
    assert wrap("one two three", 8) == ["one two", "three"]


OTHERS_SAY = "Expect|[Ee]rror|Unit 'IG'"  # sentences of Python, torch, safetensors and huggingface_hub


@pytest.mark.parametrize(("line", "status", "sentence"), MISTAKES)
def test_a_mistake_is_explained_in_japanese(capsys, monkeypatch, places, tmp_path, line, status, sentence):  # noqa: F811
    """Every mistake of test_mistakes.py: one line, in Japanese, with the same status."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.chdir(tmp_path)
    words = as_words(line, places)
    if words[:1] == ["generate"] and "--model" not in words:
        words += ["--model", places["FOLDER"]]
    assert status_of(["--lang", "ja", *words]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    if not re.search(OTHERS_SAY, err):
        assert JAPANESE.search(err.replace("犬", "").replace("猫", "")), err
        assert not ENGLISH.search(err), "a part is English"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "cp932"])
def test_an_output_without_japanese_characters_has_english(encoding):
    environment = os.environ | {"LANG": "ja_JP.UTF-8", "LLAMA_JP_LANG": "", "LC_ALL": "", "PYTHONIOENCODING": encoding}
    environment |= {"LANGUAGE": "", "LC_MESSAGES": ""}
    command = [sys.executable, "-m", "llama_jp"]
    shown = subprocess.run([*command, "--help"], capture_output=True, env=environment).stdout.decode(encoding)
    failed = subprocess.run([*command, "info", "nowhere"], capture_output=True, env=environment)
    japanese = encoding in ("utf-8", "cp932")
    assert shown.startswith("使い方: " if japanese else "usage: ")
    assert failed.returncode == 1
    assert ("フォルダーはなく" if japanese else "is no folder") in failed.stderr.decode(encoding)
    assert not shows_japanese(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))


def test_commands_answer_the_same_in_both_languages(capsys):
    """Guards against a result that is translated: programs read it."""
    results = []
    for language in ("en", "ja"):
        assert main(["--lang", language, "tokenize", "吾輩は猫である。", "--json"]) == 0
        results.append(capsys.readouterr().out)
    assert results[0] == results[1]


def test_a_chat_speaks_japanese_and_its_answers_stay(folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("/help\n/rest\n/set top-p 5\n/save\n"))
    assert main(["--lang", "ja", "chat", str(folder), "--max-new-tokens", "4"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "/retry          最後のメッセージに答え直す\n" in err
    assert "「/rest」というコマンドはありません。「/reset」のことですか。/help で" in err
    assert "top_p は 0 以上 1 以下の数でなければなりません。5.0 は使えません\n" in err
    assert "/save にはファイル名が必要です\n" in err
