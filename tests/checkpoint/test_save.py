"""A model to a folder: transformers loads it, nothing is lost, and an interrupted save leaves nothing."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.checkpoint_files import ELYZA, IDS, logits
from helpers.reference import random_config, save_random, theirs
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint import save
from llama_jp.checkpoint.config import parse_config
from llama_jp.checkpoint.load import load_model


def test_transformers_loads_a_saved_model_without_a_warning(small, tmp_path):
    """Guards against tensors or keys that transformers does not know, and against a lost tokenizer."""
    folder = shutil.copytree(small, tmp_path / "with-tokenizer")
    llama_folder(folder)
    model, _ = llama_jp.load(folder, dtype="bfloat16")
    model.save_pretrained(tmp_path / "out", max_shard_size="9KB")
    script = (
        "import sys, torch, transformers\n"
        "load = transformers.AutoModelForCausalLM.from_pretrained\n"
        "model, report = load(sys.argv[1], dtype='auto', output_loading_info=True)\n"
        "assert not any(report.values()), report\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "torch.save(model(torch.arange(2, 32).view(2, 15)).logits, sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out", tmp_path / "logits"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    assert said == []
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits"), model(IDS))
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {
        "config.json",
        "generation_config.json",
        "tokenizer.model",
    }


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "llama3", "yarn"])
def test_saving_keeps_the_rope(tmp_path, rope_type):
    """Guards against a config.json without rope_scaling, which changes the logits of long texts."""
    config = random_config(random.Random(4), rope_type)
    folder = save_random(tmp_path / "in", seed=10, **config)
    model = load_model(folder, dtype="float32")
    model.save_pretrained(tmp_path / "out")
    ids = torch.randint(0, config["vocab_size"], (1, 60))
    with torch.no_grad():
        expected = theirs(folder, torch.float32)(ids).logits
        assert torch.equal(theirs(tmp_path / "out", torch.float32)(ids).logits, expected)
        assert torch.equal(load_model(tmp_path / "out", dtype="float32")(ids), expected)


def test_saving_into_the_models_own_folder_replaces_the_weights(copy):
    """Guards against overwriting files that the model is mapped from, and against shards that an earlier save left."""
    model = load_model(copy, dtype="stored", device="cpu")
    expected = logits(copy)
    model.save_pretrained(copy, max_shard_size="9KB")  # the weights are mapped from files that are replaced
    assert torch.equal(logits(copy), expected)
    load_model(copy, dtype="stored").save_pretrained(copy)
    assert [file.name for file in copy.glob("model*")] == ["model.safetensors"], "no shard of the earlier save is left"
    assert torch.equal(logits(copy), expected)


def test_the_files_of_the_tokenizer_are_carried_on(small, tmp_path):
    """Guards against a lost chat template, without which a model is prompted in another form."""
    folder = llama_folder(shutil.copytree(small, tmp_path / "in"))
    template = b"{% for message in messages %}{{ message.content }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_bytes(template)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    model, tokenizer = llama_jp.load(folder)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for out in (tmp_path / "model", tmp_path / "tokenizer"):
        for name in ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"):
            assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_a_model_under_fsdp2_is_gathered(small, tmp_path):
    """Guards against "invalid python storage", and against processes that leave before the files are there."""
    worker = Path(__file__).resolve().parents[1] / "helpers" / "fsdp_worker.py"
    search = os.pathsep.join([str(worker.parents[2]), str(worker.parents[1])])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, worker, small, tmp_path / "out"],
        env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    again = load_model(tmp_path / "out", dtype="float32", device="cpu")
    with torch.no_grad():
        assert torch.equal(again(IDS), torch.load(tmp_path / "out" / "logits.pt"))
    assert not torch.equal(again.lm_head.weight, load_model(small, dtype="float32", device="cpu").lm_head.weight)


def test_an_interrupted_save_leaves_nothing(small, tmp_path, monkeypatch):
    """Guards against half a checkpoint in the target, and against a temporary folder beside it."""

    def fail(*_, **__):
        raise KeyboardInterrupt

    model = load_model(small, dtype="stored")
    monkeypatch.setattr(save, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_a_file_and_a_model_without_weights_are_refused(small, tmp_path):
    """Guards against errors from inside the libraries."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        load_model(small).save_pretrained(tmp_path / "file")
    with torch.device("meta"):
        empty = llama_jp.Llama(parse_config(ELYZA))
    with pytest.raises(ValueError, match="meta device"):
        empty.save_pretrained(tmp_path / "out")
