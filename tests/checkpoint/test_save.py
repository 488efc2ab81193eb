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
from helpers.tokenizer_files import llama_folder, llama_model, write

import llama_jp
from llama_jp.checkpoint import save
from llama_jp.checkpoint.config import parse_config
from llama_jp.checkpoint.load import load_model
from llama_jp.text.tokenizer import Tokenizer


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


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "llama3", "yarn", "longrope"])
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


STALE = [
    "generation_config.json",
    "certificate.json",
    "pytorch_model-00001-of-00002.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/rag.jinja",
    "tekken.json",
    "vocab.json",
]
OF_A_TOKENIZER = STALE[3:]


def old_folder(folder: Path) -> Path:
    """A folder with the files of another model, and with files that belong to nobody."""
    for name in [*STALE, "README.md", "additional_chat_templates/notes.txt", "modeling.py"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    return folder


def present(folder: Path, names: list[str]) -> list[str]:
    return [name for name in names if (folder / name).is_file()]


def test_the_files_of_another_model_do_not_stay(small, tmp_path):
    """Guards against a folder with one model's weights and the chat template, or the sampling, of another."""
    source = write(shutil.copytree(small, tmp_path / "in"), tokenizer_model=llama_model())
    (source / "generation_config.json").unlink(missing_ok=True)
    out = old_folder(tmp_path / "out")
    model, tokenizer = load_model(source), Tokenizer.from_pretrained(source)
    model.generation_config = {}
    model.save_pretrained(out)
    assert present(out, STALE) == [] and (out / "tokenizer.model").is_file()
    assert len(present(out, ["README.md", "additional_chat_templates/notes.txt", "modeling.py"])) == 3
    assert Tokenizer.from_pretrained(out).chat_templates == {}

    other = old_folder(tmp_path / "tokenizer")
    tokenizer.save_pretrained(other)
    assert present(other, STALE) == [name for name in STALE if name not in OF_A_TOKENIZER]


def test_a_model_without_a_tokenizer_leaves_the_one_that_is_there(small, tmp_path):
    """Guards against the loss of a tokenizer that was saved before its model."""
    out = old_folder(tmp_path / "out")
    load_model(small).save_pretrained(out)
    assert present(out, STALE) == [*present(out, ["generation_config.json"]), *OF_A_TOKENIZER]


def test_a_copy_does_not_write_through_a_link(small, tmp_path):
    """Guards against a changed hub cache, to which the files of a folder can be links."""
    source = write(tmp_path / "in", tokenizer_model=llama_model(), tokenizer_config_json={"legacy": True})
    original = write(tmp_path / "cache", tokenizer_config_json={"legacy": False}) / "tokenizer_config.json"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer_config.json").symlink_to(original)
    Tokenizer.from_pretrained(source).save_pretrained(tmp_path / "out")
    assert "false" in original.read_text() and "true" in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_a_folder_with_an_adapter_is_refused(small, tmp_path):
    """Guards against a folder that transformers opens as its adapter's base model."""
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\), and .*; choose another folder"):
        load_model(small).save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["adapter_config.json"]


def test_two_parameters_that_are_one_are_both_saved(small, tmp_path):
    """Guards against the error of safetensors for tensors that share memory."""
    model = load_model(small, dtype="float32", device="cpu")
    model.layers[1].mlp.up_proj.weight = model.layers[0].mlp.up_proj.weight
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(logits(tmp_path / "out"), model(IDS))
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert len(modes) == 1, "the weights can be read by whoever can read config.json"


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
