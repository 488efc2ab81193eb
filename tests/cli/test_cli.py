"""The command line as a person meets it.

Results on standard output, all else on standard error, one line for what fails.
"""

from __future__ import annotations

import io
import json
import os
import shlex
import subprocess
import sys

import pytest
import torch
from helpers.reference import publish, save_random
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.cli import COMMANDS, main, make_parser


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that calls itself instruction-tuned."""
    folder = llama_folder(tmp_path_factory.mktemp("tiny") / "tiny-instruct")
    vocabulary = llama_jp.Tokenizer.from_pretrained(folder).vocab_size
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return save_random(folder, 21, vocab_size=vocabulary, rms_norm_eps=1e-6, max_position_embeddings=512, **shape)


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run a command with this model; returns exit status, standard output and standard error."""

    def run(*words: str, stdin: str = "", model=folder) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        model_option = ["--model", str(model)] if words[0] != "convert" else []
        status = main([*words, *model_option])
        return (status, *capsys.readouterr())

    return run


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


def test_a_sampling_option_means_sampling_and_tells_its_seed(run):
    status, out, err = run("generate", "犬は", "--max-new-tokens", "5", "--temperature", "2.0")
    seed = err.strip().rpartition("seed ")[2]
    assert run("generate", "犬は", "--max-new-tokens", "5", "--temperature", "2.0", "--seed", seed)[1] == out


def test_the_prompt_may_come_from_standard_input(run):
    typed = run("generate", "犬は\n水", "--max-new-tokens", "4")[1]
    assert run("generate", "--max-new-tokens", "4", stdin="犬は\n水\n")[1] == typed


def test_a_system_prompt_of_your_own(run):
    words = ("--json", "--max-new-tokens", "1")
    _, default, _ = run("generate", "犬は", *words)
    _, other, _ = run("generate", "犬は", "--system", "短く", *words)
    assert json.loads(default)["prompt_ids"] != json.loads(other)["prompt_ids"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["generate", ""], "the prompt is empty"),
        (["generate", "犬", "--greedy", "--seed", "1"], "--greedy draws nothing"),
        (["generate", "犬", "--raw", "--system", "x"], "--system is part of the instruction template"),
        (["generate", "犬", "--temperature", "0"], "temperature has to be a number above 0, not 0.0; for greedy"),
        (["generate", "犬", "--max-new-tokens", "600"], "but the context holds 512; ask for at most"),
        (["generate", "犬" * 600], "tokens, but the context holds 512"),
        (["generate", "犬", "--device", "cuda:7"], "the device 'cuda:7' cannot be used: "),
        (["generate", "犬", "--device", "moon"], "the device 'moon' cannot be used: "),
    ],
)
def test_what_is_refused_takes_one_line(run, words, sentence):
    import re

    status, out, err = run(*words)
    assert status == 1 and out == ""
    assert err.startswith("llama-jp: ") and err.count("\n") == 1 and re.search(sentence, err), err


def test_a_model_that_is_not_there(run):
    status, out, err = run("generate", "犬", model="nowhere")
    assert (status, out) == (1, "") and err.startswith("llama-jp: nowhere is no folder") and err.count("\n") == 1


@pytest.mark.parametrize("words", [[], ["fly"], ["generate", "犬", "--max-new-tokens", "0"], ["convert", "a"]])
def test_wrong_usage_is_status_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2 and "usage: llama-jp" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and f"example:\n  llama-jp {command}" in out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_can_be_parsed(command):
    import importlib

    example = importlib.import_module(f"llama_jp.cli.{command}").EXAMPLE
    assert make_parser().parse_args(shlex.split(example)[1:]).run


def test_interrupted_is_status_130(run, monkeypatch):
    monkeypatch.setattr("llama_jp.cli.generate.open_model", lambda args: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("generate", "犬")[0] == 130


def test_a_reader_that_leaves_early(folder):
    """`llama-jp … | head -c 1` ends quietly."""
    words = [sys.executable, "-m", "llama_jp", "tokenize", "--model", str(folder), "--file", __file__, "--json"]
    command, utf8 = shlex.join(words) + " | head -c 1", os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=utf8)
    assert done.stdout == "{" and done.stderr == ""


# ---- chat


def test_chat_keeps_the_conversation(run, folder):
    lines = "犬\n猫\n/system 短く\n/system\n猫\n/fly\n/reset\n/help\n/exit\n犬\n"
    status, out, err = run("chat", "--max-new-tokens", "6", "--dtype", "float32", stdin=lines)
    answers = out.splitlines()
    assert status == 0
    model, tokenizer = llama_jp.load(folder, dtype="float32")

    def expected(message, **options):
        prompt = llama_jp.instruct_prompt(tokenizer, message, **options)
        return "".join(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=6))

    first = expected("犬")
    assert out == f"{first}\n{expected('猫', history=[('犬', first)])}\n{expected('猫', system='短く')}\n"
    for said in ("conversation forgotten", "短く", "there is no command /fly", "/reset          forget"):
        assert said in err
    assert answers and "warning" not in err


def test_chat_reads_only_what_is_new(folder, monkeypatch, capsys):
    """A second turn costs its own tokens, not the conversation's."""
    seen = []

    def watched(args):
        model, tokenizer = llama_jp.load(folder, dtype="float32")
        model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
        return model, tokenizer

    monkeypatch.setattr("llama_jp.cli.chat.open_model", watched)
    monkeypatch.setattr(sys, "stdin", io.StringIO("犬は坂を下りてきます\n犬\n"))
    main(["chat", "--max-new-tokens", "3", "--model", str(folder)])
    first, second = [length for length in seen if length > 1]
    assert second < first / 2


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(folder, monkeypatch, capsys):
    calls = []

    def interrupting(args):
        model, tokenizer = llama_jp.load(folder, dtype="float32")

        def hook(*_):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt

        model.layers[1].register_forward_hook(hook)
        return model, tokenizer

    monkeypatch.setattr("llama_jp.cli.chat.open_model", interrupting)
    monkeypatch.setattr(sys, "stdin", io.StringIO("犬\n猫\n"))
    assert main(["chat", "--max-new-tokens", "8", "--model", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "3 new (interrupted)" in err and "8 new (length)" in err
    cut, second = out.splitlines()
    model, tokenizer = llama_jp.load(folder, dtype="float32")
    prompt = llama_jp.instruct_prompt(tokenizer, "猫", history=[("犬", cut)])
    assert "".join(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=8)) == second


def test_a_message_too_long_does_not_end_the_chat(run):
    status, out, err = run("chat", "--max-new-tokens", "4", stdin="犬" * 600 + "\n犬\n")
    assert status == 0 and "the context holds 512" in err and "/reset begins anew" in err and out.count("\n") == 1


def test_a_base_model_is_warned_about(run, folder, tmp_path):
    import shutil

    base = shutil.copytree(folder, tmp_path / "base")
    status, _, err = run("chat", stdin="/exit\n", model=base)
    assert status == 0 and "warning: this looks like a base model" in err


# ---- info and convert


def test_info_reads_no_weights(run, folder, monkeypatch):
    monkeypatch.setattr("llama_jp.checkpoint.tensors.read_group", lambda *_: pytest.fail("weights were read"))
    status, out, _ = run("info", "--json")
    content = json.loads(out)
    parameters = sum(parameter.numel() for parameter in load_model_unpatched(folder).parameters())
    assert status == 0 and content["parameters"] == content["weights"]["parameters_stored"] == parameters
    assert content["cache_bytes_per_token"]["float32"] == 2 * 2 * 4 * 8 * 4
    assert content["tokenizer"]["kind"] == "sentencepiece" and content["tokenizer"]["bos_id"] == 1
    table = run("info")[1]
    assert f"parameters             {parameters:,}" in table and "stored as float16" in table


def load_model_unpatched(folder):
    with torch.device("meta"):
        return llama_jp.Llama(llama_jp.checkpoint.config.read_config(folder))


def test_info_without_the_weights(run, folder, tmp_path):
    """Of a hub repository only the small files are fetched; what they say is shown all the same."""
    published = publish(folder, tmp_path / "published")
    for file in published.glob("*.bin"):
        file.unlink()
    status, out, _ = run("info", model=published)
    assert status == 0 and "names pytorch_model-00001-of-00002.bin, which is not in" in out and "parameters  " in out


def test_info_counts_as_the_cards_do():
    from llama_jp.cli.info import count

    assert count(6_738_415_616).startswith("6,738,415,616 (6.27B as")
    assert count(6_845_263_872).startswith("6,845,263,872 (6.37B as")
    assert count(143_168) == "143,168"


def test_convert_makes_safetensors_of_bin(run, folder, tmp_path):
    published = publish(folder, tmp_path / "published")
    llama_folder(published)
    status, _, err = run("convert", str(published), str(tmp_path / "out"))
    assert status == 0, err
    assert "1 safetensors file" in err and "float16" in err
    assert {"tokenizer.model", "tokenizer.json", "model.safetensors"} <= {f.name for f in (tmp_path / "out").iterdir()}
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out", dtype="stored")(ids), load_model(folder, dtype="stored")(ids))
    status, _, err = run("convert", str(published), str(tmp_path / "out"))
    assert status == 1 and "is not an empty folder" in err
    assert run("convert", str(published), str(tmp_path / "half"), "--dtype", "float32")[0] == 0
    assert load_model(tmp_path / "half", dtype="stored").lm_head.weight.dtype == torch.float32
    assert run("convert", str(tmp_path / "absent"), str(tmp_path / "no"))[0] == 1
    assert not (tmp_path / "no").exists()
    assert run("convert", str(published), str(tmp_path / "no"), "--max-shard-size", "big")[0] == 1
    assert not (tmp_path / "no").exists()
