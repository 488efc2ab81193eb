"""Whole runs: they learn, survive every kill to the same bits, and leave folders that others load."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import peft
import pytest
import torch
import transformers
from helpers.reference import SEED
from helpers.training import assert_equal_runs, read_log, save_tiny, start, weights_of, write_data

import llama_jp
from llama_jp.training import finetune, finetuning, memory
from llama_jp.training.loop import Trainer

QUIET = {"progress": False, "precision": "float32", "device": "cpu"}
KILLS = int(os.environ.get("LLAMA_JP_KILLS", 3))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("training") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data.jsonl", 60)


@pytest.fixture(scope="module")
def finished(tiny, data, tmp_path_factory) -> Path:
    """A run that teaches the small model its data."""
    out = tmp_path_factory.mktemp("finished") / "out"
    finetune(data, out, tiny, steps=60, lr=1e-2, batch=2, length=64, held_out=6, **QUIET)
    return out


def test_a_run_learns_and_leaves_a_checkpoint_with_its_log(finished, tiny):
    log = [json.loads(line) for line in (finished / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(61))
    assert log[-1]["loss"] < log[1]["loss"] / 2 and log[-1]["held_out"] < log[0]["held_out"] / 2
    assert log[1]["lr"] == 5e-3 and max(entry["lr"] for entry in log[1:]) == 1e-2 and log[-1]["lr"] < 1.1e-3
    assert (finished / "loss.svg").read_text().startswith("<svg")
    assert json.loads((finished / "training.json").read_text())["finished"]
    names = {"model.safetensors", "config.json", "generation_config.json", "tokenizer.model", "tokenizer.json"}
    names |= {"tokenizer_config.json", "special_tokens_map.json", "training.json", "training_log.jsonl", "loss.svg"}
    assert {file.name for file in finished.iterdir()} == names, "nothing is left of the run's state"


def test_the_result_loads_in_transformers_with_equal_logits(finished):
    ids = torch.arange(1, 30)[None]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(finished, dtype=torch.float32)
    model, tokenizer = llama_jp.load(finished, dtype="float32", device="cpu")
    assert torch.equal(model(ids), theirs(ids).logits)
    assert tokenizer.chat_template is not None and tokenizer.chat_template.is_elyza
    transformers.AutoTokenizer.from_pretrained(finished)


def test_the_dtype_is_that_of_the_source(data, tmp_path):
    finetune(data, tmp_path / "out", "demo", steps=1, batch=1, length=64, held_out=0, **QUIET)
    assert {weight.dtype for weight in weights_of(tmp_path / "out").values()} == {torch.float16}


def test_the_same_call_again_does_nothing(finished, tiny, data, capsys):
    before = {file: file.stat().st_mtime_ns for file in finished.glob("*.safetensors")}
    result = finetune(data, finished, tiny, steps=60, lr=1e-2, batch=2, length=64, held_out=6, **QUIET)
    assert before == {file: file.stat().st_mtime_ns for file in finished.glob("*.safetensors")}
    assert result.steps == 60 and result.held_out is not None


def test_other_settings_are_refused_by_name(finished, tiny, data, tmp_path):
    with pytest.raises(ValueError, match="other settings: lr was 0.01 and is 0.02; seed was 0 and is 1; repeat"):
        finetune(data, finished, tiny, steps=60, lr=2e-2, seed=1, batch=2, length=64, held_out=6, **QUIET)
    changed = shutil.copyfile(data, tmp_path / "data.jsonl")
    with changed.open("a", encoding="utf-8") as file:
        file.write('{"text": "クマ"}\n')
    with pytest.raises(ValueError, match=r"data was .*; data_sha256 was"):
        finetune(changed, finished, tiny, steps=60, lr=1e-2, batch=2, length=64, held_out=6, **QUIET)


def test_accumulation_equals_a_larger_batch(tiny, data, tmp_path):
    """Every token has the same weight. Against: a mean of means, by which short rows count more."""
    settings = {"steps": 3, "lr": 1e-3, "length": 64, "held_out": 0} | QUIET
    finetune(data, tmp_path / "large", tiny, batch=4, **settings)
    finetune(data, tmp_path / "small", tiny, batch=1, accumulate=4, **settings)
    for one, other in zip(read_log(tmp_path / "large"), read_log(tmp_path / "small"), strict=True):
        assert one == {key: pytest.approx(value, rel=1e-5) for key, value in other.items()}  # another order of sums
    large, small = weights_of(tmp_path / "large"), weights_of(tmp_path / "small")
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=0, atol=2e-5)  # AdamW's early steps magnify rounding


@pytest.mark.parametrize("lora", [None, 4])
def test_checkpointed_activations_give_the_same_bits(tiny, data, tmp_path, lora):
    settings = {"steps": 3, "lr": 1e-3, "batch": 2, "length": 64, "lora": lora} | QUIET
    for checkpointing in (False, True):
        finetune(data, tmp_path / str(checkpointing), tiny, checkpointing=checkpointing, **settings)
    assert_equal_runs(tmp_path / "False", tmp_path / "True")


@pytest.mark.parametrize("precision", ["autocast", "bfloat16"])
def test_precisions(tiny, data, tmp_path, precision):
    out = tmp_path / "out"
    settings = QUIET | {"precision": precision}
    finetune(data, out, tiny, steps=20, lr=1e-2, batch=2, length=64, held_out=0, **settings)
    log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.8 * log[0]["loss"]


def test_an_adapter_is_pefts(tiny, data, tmp_path):
    """For a float and for a quantised model: PEFT loads it, and `load(adapter=)` merges it."""
    out, ids = tmp_path / "out", torch.arange(1, 30)[None]
    finetune(data, out, tiny, lora=4, steps=10, lr=1e-2, batch=2, length=64, **QUIET)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    before = theirs(ids).logits
    theirs = peft.PeftModel.from_pretrained(theirs, out)
    ours, _ = llama_jp.load(tiny, dtype="float32", device="cpu", adapter=out)
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)  # merged, or beside the weights
    assert (ours(ids) - before).abs().max() > 0.01
    assert not (out / "config.json").exists()


def test_a_quantised_model_takes_an_adapter_only(tiny, data, tmp_path):
    llama_jp.quantize(tiny, tmp_path / "int8")
    with pytest.raises(ValueError, match="int8 is quantised"):
        finetune(data, tmp_path / "out", tmp_path / "int8", **QUIET)
    result = finetune(data, tmp_path / "out", tmp_path / "int8", lora=2, steps=2, batch=1, length=64, **QUIET)
    assert (result.folder / "adapter_model.safetensors").is_file()


# --- interruptions ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills copies of this process")
@pytest.mark.parametrize("lora", [None, 4], ids=["weights", "adapter"])
def test_a_run_that_is_killed_goes_on_to_the_same_bits(tiny, data, tmp_path, lora):
    """SIGKILL at random moments, during a save among them."""
    settings = {"steps": 30, "lr": 1e-2, "batch": 2, "length": 64, "save_every": 2, "lora": lora} | QUIET
    began = time.monotonic()
    finetune(data, tmp_path / "whole", tiny, **settings)
    seconds, rng = time.monotonic() - began, random.Random(f"{SEED} kill {lora}")
    for _ in range(KILLS):
        run = multiprocessing.get_context("fork").Process(
            target=finetune, args=(data, tmp_path / "killed", tiny), kwargs=settings
        )
        run.start()
        run.join(rng.uniform(0, 2 * seconds / KILLS))
        run.kill()
        run.join()
    finetune(data, tmp_path / "killed", tiny, **settings)
    assert_equal_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_failure_in_any_step_or_save_changes_nothing(tiny, data, tmp_path, monkeypatch):
    """Against a state from before a step with a log from after it. Stops a run at every place in turn."""
    settings = {"steps": 5, "lr": 1e-2, "batch": 2, "length": 64, "save_every": 2} | QUIET
    finetune(data, tmp_path / "whole", tiny, **settings)
    stops = [(Trainer, "run_step", 1), (Trainer, "run_step", 2), (torch, "save", 1), (Trainer, "run_step", 3)]
    stops += [(Trainer, "write", 1), (torch, "save", 2), (Trainer, "write", 1)]
    stops += [(finetuning, name, 1) for name in ("write_result", "replace_file", "finish_run")]
    for owner, name, count in stops:
        function, calls = getattr(owner, name), iter(range(1, 100))

        def fail(*args, function=function, calls=calls, count=count, **kwargs):
            if next(calls) == count:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, fail)
            finetune(data, tmp_path / "stopped", tiny, **settings)
    finetune(data, tmp_path / "stopped", tiny, **settings)
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")
    files = [{file.name for file in (tmp_path / run).iterdir()} for run in ("whole", "stopped")]
    assert files[0] == files[1]


def test_ctrl_c_saves_the_step_and_says_how_to_go_on(tiny, data, tmp_path):
    words = ["--model", tiny, "--steps", "4000", "--batch", "2", "--length", "64", "--precision", "float32"]
    run = start(data, tmp_path / "out", *words, "--device", "cpu")
    log = tmp_path / "out" / "training_log.jsonl"
    while not log.exists() or log.read_text().count("\n") < 5:
        assert run.poll() is None, run.stderr.read()
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130 and "of 4000; the same command goes on\n" in said and "Traceback" not in said
    step = json.loads(log.read_text().splitlines()[-1])["step"]
    assert torch.load(tmp_path / "out" / "training_state.pt", weights_only=True)["step"] == step


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, "steps is 0; at least 1"),
        ({"steps": 1, "epochs": 1}, "steps and epochs exclude each other"),
        ({"evaluation": "x.jsonl", "held_out": 3}, "evaluation and held_out exclude"),
        ({"precision": "float16"}, "precision is 'float16'; it can be auto"),
        ({"length": 512}, "length 512 is more than the model's context of 256"),
        ({"held_out": 60}, "60 of 60 examples are held out"),
        ({"lr": -1.0}, "lr is -1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(tiny, data, tmp_path, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        finetune(data, tmp_path / "out", tiny, **(QUIET | settings))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(tiny, data, tmp_path):
    with pytest.raises(ValueError, match="holds files that are no training run"):
        finetune(data, tiny, tiny, **QUIET)
    with pytest.raises(ValueError, match="is a file"):
        finetune(data, data, tiny, **QUIET)


def test_what_cannot_fit_is_refused_before_anything_is_written(tiny, data, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 1000)
    with pytest.raises(ValueError, match=r"the run needs about 0.. GiB and 0.0 GiB are free on cpu: weights"):
        finetune(data, tmp_path / "out", tiny, **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_of_another_model_is_named(data, tmp_path):
    """Against an index error in the middle of a run."""
    folder = save_tiny(tmp_path / "small", vocab_size=2000)
    with pytest.raises(ValueError, match=r"the tokenizer gives id \d+, but the model has 2000 ids; use the"):
        finetune(data, tmp_path / "out", folder, **QUIET)


def test_a_loss_that_is_not_finite_ends_the_run(tiny, data, tmp_path):
    model = llama_jp.Llama.from_pretrained(tiny, dtype="float32")
    model.lm_head.weight.data[5] = float("inf")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="logits are not finite; try a smaller learning rate"):
        finetune(data, tmp_path / "out", tmp_path / "broken", steps=2, held_out=0, **QUIET)


def test_truncation_is_said(tiny, data, tmp_path, capsys):
    """Against: an answer that a run never sees, without a word."""
    long = [{"instruction": "クマ", "output": "はい。" * 100}, {"instruction": "クマ" * 100, "output": "はい。"}]
    file = tmp_path / "data.jsonl"
    file.write_text(data.read_text() + "".join(json.dumps(line) + "\n" for line in long))
    finetune(file, tmp_path / "out", tiny, steps=1, length=100, held_out=0, **(QUIET | {"progress": True}))
    said = capsys.readouterr().err
    assert f"{file}: 1 longer than 100 tokens and truncated: line 61\n" in said
    assert f"{file}: 1 left out, without an answer in their first 100 tokens: line 62\n" in said
