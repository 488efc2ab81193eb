"""llama-jp evaluate: keys of --json, the report, references, and tasks that continue after an interruption."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil

import pytest

import llama_jp
from llama_jp.cli import main
from llama_jp.cli.evaluate import why_not_comparable
from llama_jp.evaluation.tasks import read_tasks, write_tasks

TEXT = "クマが海辺に行きました。犬は森へ行きました。\n" * 4
TASKS = "input,output,eval_aspect\n犬,例,観点\n猫は,例,観点\n鳥,例,観点\n"
MEASURES = {"loss", "perplexity", "bits_per_byte", "bits_per_character", "tokens"}


@pytest.fixture
def measure(run, tmp_path):
    """Evaluate on TEXT with the tiny model; returns the exit status, standard output and standard error."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    return lambda *flags, **options: run(
        "evaluate", "--text", str(tmp_path / "text.txt"), "--dtype", "float32", *flags, **options
    )


def test_json_has_the_numbers_of_evaluate(measure, folder):
    status, out, err = measure("--json", "--window", "32", "--stride", "20")
    found = json.loads(out)
    model, tokenizer = llama_jp.load(folder, dtype="float32")
    expected = llama_jp.evaluate(model, tokenizer, TEXT, window=32, stride=20)
    assert status == 0 and err == ""
    assert {name: found[name] for name in MEASURES} == expected.as_dict()
    assert (found["convention"], found["window"], found["stride"]) == ("transformers", 32, 20)
    assert found.keys() == MEASURES | {"model", "text", "convention", "window", "stride"}


def test_references_have_keys_of_their_own(measure, folder, base_folder):
    """The first reference also stands at the top. A reference with another vocabulary has no KL divergence."""
    status, out, _ = measure("--json", "--against", str(folder), "--against", "demo")
    found = json.loads(out)
    assert status == 0 and (found["kl"], found["top1"], found["first_difference"]) == (0, 1, None)
    same, other = found["against"]
    assert same["model"] == str(folder) and same["kl"] == 0 and same["loss"] == found["loss"]
    assert (other["kl"], other["top1"]) == (None, None) and other["bits_per_byte"] > 0
    assert "no KL divergence: it has 3,072 ids" in other["reason"]
    found = json.loads(measure("--json", "--against", "demo")[1])
    assert found["kl"] is None and (found["window"], found["against"][0]["window"]) == (512, 1024)
    report = measure("--against", str(base_folder), "--against", "demo")[1]
    assert "\nagainst demo, windows of 1024 tokens\n" in report
    assert "KL divergence        " in report and "first difference     token " in report
    assert "only bits per byte and per character compare" in report


def test_other_pieces_for_the_same_ids_have_no_kl_divergence(folder):
    """Two vocabularies may have the same size."""
    model, tokenizer = llama_jp.load(folder)
    other = copy.copy(tokenizer)
    other.vocabulary = dataclasses.replace(tokenizer.vocabulary, pieces=tokenizer.vocabulary.pieces | {9: "犬犬"})
    assert why_not_comparable(model, tokenizer, model, tokenizer) is None
    assert "no KL divergence: id 9 is '犬犬' in its tokenizer" in why_not_comparable(model, tokenizer, model, other)


def test_the_report_for_people(measure, folder):
    status, out, _ = measure("--convention", "lm-eval", "--window", "16")
    assert status == 0 and "convention  lm-eval, windows of 16 tokens\n" in out
    for name in ("loss (nats per token)", "perplexity", "word perplexity", "bits per byte", "bits per character"):
        assert f"\n{name} " in out
    assert f"text        text.txt: {len(TEXT.encode())} bytes, {len(TEXT)} characters\n" in out


def test_standard_input_and_bundled_texts(run, folder):
    status, out, _ = run("evaluate", "--text", "-", "--json", stdin="犬")
    assert status == 0 and math.isfinite(json.loads(out)["loss"])
    status, _, err = run("evaluate", "--text", "prose.ja.txt")
    assert status == 0 and "several documents; --convention documents measures each for itself" in err


@pytest.mark.parametrize(
    ("flags", "status", "sentence"),
    [
        (("--window", "9", "--stride", "10"), 1, "a stride of 10 skips tokens between windows of 9"),
        (("--window", "600"), 1, "a window of 600 tokens does not fit into the model's context of 512"),
        (("--convention", "llama.cpp", "--stride", "4"), 1, "do not overlap, so it takes no stride"),
        (("--out", "x.csv"), 2, "--out has no effect with --text"),
        (("--seed", "0"), 2, "--seed has no effect with --text"),
        (("--tasks", "x.csv"), 2, "not allowed with argument --text"),
    ],
)
def test_mistakes_take_one_line(measure, capsys, flags, status, sentence):
    if status == 2:
        with pytest.raises(SystemExit) as error:
            measure(*flags)
        assert error.value.code == 2
        err = capsys.readouterr().err
    else:
        found, out, err = measure(*flags)
        assert found == 1 and out == ""
    assert sentence in err and err.count("\n") == 1


def test_nothing_to_evaluate_on_is_wrong_usage(run, capsys):
    with pytest.raises(SystemExit) as error:
        run("evaluate")
    assert error.value.code == 2 and "name a file with --text, --tasks or --published" in capsys.readouterr().err


def test_a_text_that_is_not_utf8_or_not_there(run, tmp_path):
    (tmp_path / "sjis.txt").write_bytes("猫".encode("shift_jis"))
    status, _, err = run("evaluate", "--text", str(tmp_path / "sjis.txt"))
    assert status == 1 and "is not UTF-8: byte 0 is 0x94" in err
    status, _, err = run("evaluate", "--text", str(tmp_path / "nothing.txt"))
    assert status == 1 and "there is no file" in err
    (tmp_path / "empty.txt").touch()
    assert "the text is empty" in run("evaluate", "--text", str(tmp_path / "empty.txt"))[2]


def test_a_function_as_model(run):
    """The functions are in tests/helpers; the second model has half the layers."""
    words = ("evaluate", "--text", "-", "--json", "--against", "helpers.changed_models:make_half")
    status, out, _ = run(*words, stdin=TEXT, model="helpers.changed_models:make")
    assert status == 0 and json.loads(out)["kl"] > 0.01


def test_several_models_make_a_table(tmp_path, quantized_demo, capsys):
    """Sizes, and the numbers of `evaluate`, for a folder, int8 and int4 weights, and a function."""
    int8, int4 = map(str, (quantized_demo["int8"], quantized_demo["rtn"]))
    words = ["evaluate", "--against", "demo", int8, "demo", int4, "helpers.changed_models:make_half"]
    assert main([*words, "--dtype", "float32", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["convention"], found["window"]) == ("held-out.ja.txt", "documents", 512)
    first, same, second, damaged = found["versions"]
    assert (same["kl"], same["top1"], same["first_difference"], same["bytes"]) == (
        0,
        1,
        None,
        found["original"]["bytes"],
    )
    assert (
        0 < first["kl"] < second["kl"] < 0.001 < damaged["kl"] and first["bits_per_weight"] > second["bits_per_weight"]
    )
    assert damaged["bytes"] is None and damaged["perplexity"] > same["perplexity"] == found["original"]["perplexity"]
    certificate = json.loads((quantized_demo["rtn"] / "certificate.json").read_text())["result"]
    assert second["kl"] == pytest.approx(certificate["kl_divergence"], rel=0.01)
    assert main([*words, "--dtype", "float32"]) == 0
    head, *rows = capsys.readouterr().out.split("\n")[4:-1]
    assert head.split()[:3] == ["bytes", "bits/weight", "KL"] and len(rows) == 5
    assert rows[0].endswith("original") and rows[2].endswith("none") and " for " in rows[4]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("demo", "demo"), "2 models make a table of what each loses; name their original with --against"),
        (("demo", "demo", "--against", "demo", "--adapter", "x"), "--adapter belongs to one model, and 2 are named"),
        (("demo", "demo", "--against", "demo", "--tasks", "x"), "--tasks takes one model, and 2 are named"),
        (("demo", "demo", "--model", "demo"), "--model: not allowed with argument MODEL"),
    ],
)
def test_flags_of_one_model_have_no_table(words, sentence, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", *words])
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_a_wrong_name_is_told_before_the_first_measurement(capsys):
    """Guards against minutes of measurements that a misspelt name throws away."""
    assert main(["evaluate", "--against", "demo", "demo", "demo-int9"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("llama-jp: demo-int9 is no folder") and err.count("\n") == 1


def test_another_vocabulary_is_no_version(folder, base_folder, quantized_demo, tmp_path, capsys):
    """The name of the model stands in the sentence; a version without a tokenizer is read with the original's."""
    assert main(["evaluate", "--against", "demo", "demo", str(folder)]) == 1
    err = capsys.readouterr().err
    assert f"{folder} is no version of demo: id " in err and "compare bits per character" in err
    bare = shutil.copytree(quantized_demo["int8"], tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert main(["evaluate", "--against", "demo", "demo", str(bare)]) == 0
    assert f"{bare} was measured with the original's tokenizer: " in capsys.readouterr().out


@pytest.fixture
def answer(run, tmp_path):
    (tmp_path / "tasks.csv").write_text(TASKS, encoding="utf-8")
    words = ("--tasks", str(tmp_path / "tasks.csv"), "--out", str(tmp_path / "out.csv"), "--max-new-tokens", "6")
    return lambda *flags: run("evaluate", *words, "--dtype", "float32", *flags, model="demo")


def test_tasks_are_answered_and_continued(answer, run, tmp_path):
    status, out, err = answer()
    complete = (tmp_path / "out.csv").read_bytes()
    assert (status, out) == (0, "") and "3 answers, 3 of them new" in err
    assert complete.decode().startswith("input,output,eval_aspect,demo\n犬,例,観点,")
    rows = read_tasks(tmp_path / "out.csv")
    single = run("generate", "猫は", "--json", "--dtype", "float32", "--max-new-tokens", "6", model="demo")[1]
    assert rows[1]["demo"] == json.loads(single)["text"]

    assert "all 3 tasks are answered already" in answer()[2]
    (tmp_path / "out.csv").write_text(write_tasks(rows[:1]), encoding="utf-8", newline="")
    assert "3 answers, 2 of them new" in answer("--batch", "2")[2]
    assert (tmp_path / "out.csv").read_bytes() == complete


@pytest.fixture
def compare(run, tmp_path):
    words = ("evaluate", "--published", str(tmp_path / "out.csv"), "--dtype", "float32", "--max-new-tokens", "6")
    return lambda *flags: run(*words, *flags, model="demo")


def test_published_answers(answer, compare, tmp_path):
    answer()
    status, out, _ = compare()
    assert status == 0 and out.endswith("\n3 of 3 answers of demo equal\n")
    rows = read_tasks(tmp_path / "out.csv")
    rows[2]["demo"] = "龘"
    (tmp_path / "out.csv").write_text(write_tasks(rows), encoding="utf-8")
    found = json.loads(compare("--json")[1])
    assert found["equal"] == 2 and [each["task"] for each in found["tasks"]] == [1, 2, 3]
    assert found["tasks"][2]["first_difference"]["position"] == 0 and found["tasks"][0]["first_difference"] is None
    assert "\ntask   3  token 0: " in compare()[1]


def test_a_seed_without_sampling_and_a_task_beyond_the_context(answer, tmp_path):
    status, _, err = answer("--seed", "0")
    assert status == 1 and "--seed has no effect: generation_config.json of this checkpoint does not sample" in err
    with (tmp_path / "tasks.csv").open("a", encoding="utf-8") as file:
        file.write("犬" * 1100 + ",例,観点\n")
    status, _, err = answer()
    assert status == 1 and "tasks.csv: task 4 has " in err and "but the context holds" in err
    assert not (tmp_path / "out.csv").exists(), "a task too long is named before the first answer"


def test_other_files_are_not_overwritten(answer, run, tmp_path):
    (tmp_path / "out.csv").write_text("input,model\n犬,x\n", encoding="utf-8")
    status, _, err = answer()
    assert status == 1 and "has no answers of" in err
    assert (tmp_path / "out.csv").read_text(encoding="utf-8") == "input,model\n犬,x\n"
    status, _, err = run("evaluate", "--published", str(tmp_path / "tasks.csv"))
    assert status == 1 and "its last column is eval_aspect" in err
