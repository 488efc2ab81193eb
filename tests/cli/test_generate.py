"""llama-jp generate."""

from __future__ import annotations

import json
import shutil

import pytest

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.cli import main


def test_generate_streams_the_answer(run, folder):
    status, out, err = run("generate", "犬は", "--max-new-tokens", "12", "--dtype", "float32")
    model, tokenizer = llama_jp.load(folder, dtype="float32")
    prompt = llama_jp.instruct_prompt(tokenizer, "犬は")
    assert status == 0
    assert out == "".join(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=12)) + "\n"
    assert f"{len(prompt)} prompt tokens, 12 new (length), first after " in err and "tokens/s" in err


def test_generate_raw_and_json(run, folder):
    words = ("generate", "犬は", "--raw", "--max-new-tokens", "5", "--json", "--seed", "3", "--dtype", "float32")
    status, out, err = run(*words)
    answer = json.loads(out)
    tokenizer = llama_jp.Tokenizer.from_pretrained(folder)
    assert status == 0 and answer["prompt_ids"] == tokenizer.encode("犬は")
    assert len(answer["ids"]) == len(answer["logprobs"]) == 5 and answer["finish_reason"] == "length"
    assert answer["options"] == {"do_sample": True, "max_new_tokens": 5, "seed": 3}
    model = load_model(folder, dtype="float32")
    again = llama_jp.generate(model, [answer["prompt_ids"]], **answer["options"])[0]
    assert again.ids == answer["ids"] and "seed 3" in err


def test_a_sampling_flag_implies_sampling_and_the_report_shows_the_seed(run):
    status, out, err = run("generate", "犬は", "--max-new-tokens", "5", "--temperature", "2.0")
    seed = err.strip().rpartition("seed ")[2]
    assert run("generate", "犬は", "--max-new-tokens", "5", "--temperature", "2.0", "--seed", seed)[1] == out


def test_the_prompt_can_come_from_standard_input(run):
    typed = run("generate", "犬は\n水", "--max-new-tokens", "4")[1]
    assert run("generate", "--max-new-tokens", "4", stdin="犬は\n水\n")[1] == typed


def test_the_system_prompt_can_be_set(run):
    words = ("--json", "--max-new-tokens", "1")
    _, default, _ = run("generate", "犬は", *words)
    _, other, _ = run("generate", "犬は", "--system", "短く", *words)
    assert json.loads(default)["prompt_ids"] != json.loads(other)["prompt_ids"]


@pytest.mark.parametrize("flags", [(), ("--num-beams", "2")])
def test_the_form_of_the_prompt_is_reported(run, base_folder, flags):
    """Guards against an instruct model that silently continues its instruction, and the other way round."""
    words = ("generate", "犬は", "--max-new-tokens", "2", *flags)
    own = "prompt: ELYZA's instruction template (from chat_template.jinja)\n"
    assert own in run(*words)[2] and own in run(*words, "--instruct")[2]
    assert "prompt: plain text (--raw)\n" in run(*words, "--raw")[2]
    none = "prompt: plain text (the checkpoint has no chat template; --instruct applies ELYZA's)\n"
    assert none in run(*words, model=base_folder)[2]
    fallback = "prompt: ELYZA's instruction template (from llama_jp, because the checkpoint has none)\n"
    assert fallback in run(*words, "--instruct", model=base_folder)[2]


def test_a_converted_model_keeps_its_template(run, tmp_path):
    """Guards against a copy of the demo that continues its instruction because its folder has another name."""
    words = ("generate", "こんにちは", "--max-new-tokens", "3", "--json", "--dtype", "float32")
    _, expected, _ = run(*words, model="demo")
    assert run("convert", "demo", str(tmp_path / "x"), "--dtype", "float32")[0] == 0
    _, copied, err = run(*words, model=tmp_path / "x")
    assert json.loads(copied)["ids"] == json.loads(expected)["ids"]
    assert json.loads(copied)["prompt_ids"] == json.loads(expected)["prompt_ids"]
    assert "prompt: ELYZA's instruction template (from tokenizer_config.json)\n" in err


def test_a_template_that_fails_takes_one_line(run, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "chat_template.jinja").write_text("{% if %}", encoding="utf-8")
    status, _, err = run("generate", "犬は", model=broken)
    assert status == 1 and err.count("\n") == 1 and "chat_template.jinja: the chat template is not valid Jinja" in err
    assert run("generate", "犬は", "--raw", "--max-new-tokens", "1", model=broken)[0] == 0


def print_answer(capsys, base_folder, *arguments: str) -> tuple[str, str]:
    """Continue a text; returns standard output and standard error."""
    assert main(["generate", "--model", str(base_folder), "--dtype", "float32", "--raw", *arguments]) == 0
    out = capsys.readouterr()
    return out.out, out.err


def answer_as_json(capsys, base_folder, *arguments: str) -> dict:
    return json.loads(print_answer(capsys, base_folder, "--json", *arguments)[0])


def test_flags_do_what_options_do(capsys, base_folder):
    model, tokenizer = llama_jp.load(base_folder, dtype="float32", device="cpu")
    flags = "--max-new-tokens 9 --no-repeat-ngram-size 2 --suppress-tokens 5,6 --repetition-penalty 1.2 --seed 3 "
    flags += "--typical-p 0.9 --min-new-tokens 4 --eos-token-id 7,8 --penalty-window 5 --presence-penalty 0.5"
    shown = answer_as_json(capsys, base_folder, "吾輩は", *flags.split(), "--bad-words-ids", "[[9], [10, 11]]")
    options = {
        "max_new_tokens": 9,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": [5, 6],
        "repetition_penalty": 1.2,
        "seed": 3,
        "typical_p": 0.9,
        "min_new_tokens": 4,
        "eos_token_id": [7, 8],
        "penalty_window": 5,
        "presence_penalty": 0.5,
        "bad_words_ids": [[9], [10, 11]],
        "do_sample": True,
    }
    assert shown["options"] == options
    assert shown["ids"] == llama_jp.generate(model, [tokenizer.encode("吾輩は")], **options)[0].ids


def test_beams_and_several_answers(capsys, base_folder):
    beams = (
        "猫",
        "--max-new-tokens",
        "5",
        "--num-beams",
        "3",
        "--num-return-sequences",
        "2",
        "--early-stopping",
        "never",
    )
    shown = answer_as_json(capsys, base_folder, *beams)
    assert len(shown["answers"]) == 2 and shown["options"]["early_stopping"] == "never"
    assert shown["answers"][0]["sequence_score"] >= shown["answers"][1]["sequence_score"]
    out, err = print_answer(capsys, base_folder, *beams)
    assert out.startswith("[1] ") and "\n[2] " in out and "new: 5 (length), 5 (length)" in err


def test_speculation_and_alternatives(capsys, base_folder):
    plain = answer_as_json(capsys, base_folder, "猫猫猫猫猫猫", "--max-new-tokens", "12", "--top-logprobs", "2")
    assert [len(top) for top in plain["top_logprobs"]] == [2] * 12
    fast = ("--prompt-lookup-num-tokens", "4"), ("--assistant-model", str(base_folder), "--num-assistant-tokens", "3")
    for flags in fast:
        shown = answer_as_json(capsys, base_folder, "猫猫猫猫猫猫", "--max-new-tokens", "12", *flags)
        assert shown["ids"] == plain["ids"]
    assert shown["accepted"] == shown["drafted"] > 0, "the model accepts all of its own draft tokens"


def test_a_saved_cache_is_reused(capsys, base_folder, tmp_path):
    file = tmp_path / "cache.safetensors"
    plain = answer_as_json(capsys, base_folder, "吾輩は猫である", "--max-new-tokens", "4")
    _, err = print_answer(capsys, base_folder, "吾輩は猫である", "--max-new-tokens", "4", "--cache", str(file))
    assert ": 0 prompt tokens reused, " in err
    again = answer_as_json(capsys, base_folder, "吾輩は猫である", "--max-new-tokens", "4", "--cache", str(file))
    assert again["ids"] == plain["ids"]
    _, err = print_answer(capsys, base_folder, "吾輩は猫である。名前は", "--max-new-tokens", "4", "--cache", str(file))
    assert f": {len(plain['prompt_ids'])} prompt tokens reused, " in err


def test_a_longer_context(capsys, base_folder):
    shown = answer_as_json(capsys, base_folder, "猫", "--max-new-tokens", "500", "--rope-scaling", "linear:2")
    assert len(shown["ids"]) == 500
    shown = answer_as_json(
        capsys, base_folder, "猫", "--max-new-tokens", "500", "--past-context", "shift", "--sink-tokens", "2"
    )
    assert len(shown["ids"]) == 500
    assert main(["generate", "--model", str(base_folder), "--raw", "猫", "--max-new-tokens", "500"]) == 1
    assert "the context holds 400" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--greedy", "--typical-p", "0.5"], "--greedy does not sample, so it cannot be combined with --typical-p"),
        (["--num-return-sequences", "2"], "greedy decoding has one answer"),
        (["--num-beams", "2", "--prompt-lookup-num-tokens", "2"], "not with beam search"),
        (["--sequence-bias", "[[[3], 1]]"], "pairs ids with a float"),
        (["--rope-scaling", "none:2"], "needs more than a factor"),
        (["--top-logprobs", "3"], "--top-logprobs needs --json"),
        (["--num-assistant-tokens", "3"], "--num-assistant-tokens needs --assistant-model"),
        (["--cache", "/no/such/folder/file"], "there is no folder /no/such/folder for file; create it"),
        (["--eos-token-id", "99999"], "eos_token_id has [99999], but ids are whole numbers from 0 to"),
    ],
)
def test_an_error_takes_one_line(capsys, base_folder, flags, sentence):
    assert main(["generate", "--model", str(base_folder), "--raw", "猫", "--max-new-tokens", "3", *flags]) == 1
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


@pytest.mark.parametrize("flags", [["--suppress-tokens", "a"], ["--bad-words-ids", "{"], ["--rope-scaling", "linear"]])
def test_wrong_usage_is_status_2(capsys, base_folder, flags):
    with pytest.raises(SystemExit) as exit:
        main(["generate", "--model", str(base_folder), "猫", *flags])
    assert exit.value.code == 2
