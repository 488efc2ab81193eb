"""llama-jp info."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys

import pytest
import torch
from helpers.changed_models import Gated, no_rope
from helpers.checkpoint_files import ELYZA, edit_config
from helpers.reference import publish, random_config

import llama_jp
from llama_jp.checkpoint.config import read_config
from llama_jp.cli.info import count, count_parameters
from llama_jp.config import LlamaConfig
from llama_jp.model import Llama


def test_info_loads_no_weights(run, folder, monkeypatch):
    monkeypatch.setattr("llama_jp.checkpoint.tensors.read_group", lambda *_: pytest.fail("weights were loaded"))
    status, out, _ = run("info", "--json")
    content = json.loads(out)
    parameters = sum(parameter.numel() for parameter in meta_model(folder).parameters())
    assert status == 0 and content["parameters"] == content["weights"]["parameters_stored"] == parameters
    assert content["cache_bytes_per_token"]["float32"] == 2 * 2 * 4 * 8 * 4
    assert content["tokenizer"]["kind"] == "sentencepiece" and content["tokenizer"]["bos_id"] == 1
    table = run("info")[1]
    assert re.search(rf"parameters +{parameters:,}\n", table) and "stored as float16" in table


def meta_model(folder):
    with torch.device("meta"):
        return llama_jp.Llama(read_config(folder))


def test_info_without_the_weights(run, folder, tmp_path):
    """Only the small files of a hub repository are fetched, and they are enough for the report."""
    published = publish(folder, tmp_path / "published")
    for file in published.glob("*.bin"):
        file.unlink()
    status, out, _ = run("info", model=published)
    assert status == 0 and "names pytorch_model-00001-of-00002.bin, which is not in" in out and "parameters  " in out


def test_info_counts_parameters_as_the_model_cards():
    assert count(6_738_415_616).startswith("6,738,415,616 (6.27B as")
    assert count(6_845_263_872).startswith("6,845,263,872 (6.37B as")
    assert count(143_168) == "143,168"


@pytest.mark.parametrize(
    ("change", "context"),
    [
        ({}, "4,096 tokens: max_position_embeddings$"),
        (
            {"max_position_embeddings": 32768, "rope_scaling": {"type": "linear", "factor": 8.0}},
            "262,144 tokens: max_position_embeddings 32,768 times factor 8 of linear rope_scaling; 32,768 if",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}},
            "8,192 tokens: original_max_position_embeddings 2,048 times factor 4 of yarn rope_scaling; 4,096 if",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}},
            "4,096 tokens: max_position_embeddings; original_max_position_embeddings 2,048 times .* is not more$",
        ),
    ],
)
def test_info_says_where_the_context_comes_from(run, tmp_path, change, context):
    """Guards against a surprising number without its reason."""
    (tmp_path / "config.json").write_text(json.dumps(ELYZA | change))
    status, out, _ = run("info", model=tmp_path)
    assert status == 0 and re.search(f"^context +{context}", out, re.MULTILINE)
    assert json.loads(run("info", "--json", model=tmp_path)[1])["context_origin"] in out


def test_info_shows_a_tokenizer_of_another_model(run, folder, tmp_path):
    """Guards against a report that looks right for 560 pieces beside 500 rows, and for a pad token without a row."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    edit_config(tmp_path, vocab_size=500)
    status, out, _ = run("info", model=tmp_path)
    assert status == 0 and "MISMATCH" in out and "the tokenizer has 560 pieces, and the model only 500 rows" in out
    edit_config(tmp_path, vocab_size=560)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    out = run("info", model=tmp_path)[1]
    assert "MISMATCH" not in out and "[PAD] = 560 (not in the model)" in out
    edit_config(tmp_path, vocab_size=640)
    assert "561 pieces, and 79 more rows in the embedding" in run("info", model=tmp_path)[1]


def test_info_refuses_a_revision_of_a_folder(run):
    """Guards against a report of another revision than the one named."""
    status, out, err = run("info", "--revision", "refs/pr/2")
    assert status == 1 and not out and err.count("\n") == 1 and "only hub repositories have revisions" in err


def test_info_names_a_folder_that_is_no_model(run, tmp_path):
    """Guards against "there is no config.json" alone."""
    (tmp_path / "adapter_config.json").write_text("{}")
    status, _, err = run("info", model=tmp_path)
    assert status == 1 and err.count("\n") == 1 and "it is a PEFT adapter" in err


def test_parameters_are_counted_without_a_model():
    """Guards against a wrong term of the sum: biases, tied matrices, grouped heads, a head size of its own."""
    for seed in range(30):
        fields = LlamaConfig.__dataclass_fields__
        raw = random_config(random.Random(seed)) | {"rope_scaling": None}
        config = LlamaConfig(**{key: value for key, value in raw.items() if key in fields})
        with torch.device("meta"):
            assert count_parameters(config) == sum(parameter.numel() for parameter in Llama(config).parameters())


def test_the_parts_of_a_changed_model_are_named_and_not_imported(run, folder, tmp_path):
    """Guards against a refusal of what `info` can show, and against code that runs without trust."""
    Llama.from_pretrained(folder, rope=no_rope).save_pretrained(tmp_path / "rope")
    Gated.from_pretrained(folder, missing="initialise").save_pretrained(tmp_path / "class")
    for name in ("rope", "class"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["parts"] = {role: f"not_there:{role}" for role in config["parts"]}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    status, out, _ = run("info", model=tmp_path / "rope")
    assert status == 0 and re.search(r"^changed part +rope not_there:rope$", out, re.MULTILINE)
    content = json.loads(run("info", "--json", model=tmp_path / "class")[1])
    assert content["parts"] == {"class": "not_there:class"} and "not_there" not in sys.modules
    assert content["parameters"] == content["weights"]["parameters_stored"] > count_parameters(read_config(folder))
    (tmp_path / "class" / "model.safetensors").unlink()
    out = run("info", model=tmp_path / "class")[1]
    assert "unknown without the weights: the class not_there:class is not imported" in out
    assert "memory for weights" not in out


def test_info_of_a_function(run):
    """Guards against facts of another model than the one that the function returns."""
    status, out, _ = run("info", "--json", model="helpers.changed_models:make")
    content, model = json.loads(out), Llama.from_pretrained("helpers.changed_models:make")
    assert status == 0 and content["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert content["weights_missing"] == "in memory, made by helpers.changed_models:make"
    assert content["tokenizer"]["vocab_size"] == model.config.vocab_size
