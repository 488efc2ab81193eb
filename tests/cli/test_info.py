"""llama-jp info."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.reference import publish

import llama_jp
from llama_jp.checkpoint.config import read_config
from llama_jp.cli.info import count


def test_info_loads_no_weights(run, folder, monkeypatch):
    monkeypatch.setattr("llama_jp.checkpoint.tensors.read_group", lambda *_: pytest.fail("weights were loaded"))
    status, out, _ = run("info", "--json")
    content = json.loads(out)
    parameters = sum(parameter.numel() for parameter in meta_model(folder).parameters())
    assert status == 0 and content["parameters"] == content["weights"]["parameters_stored"] == parameters
    assert content["cache_bytes_per_token"]["float32"] == 2 * 2 * 4 * 8 * 4
    assert content["tokenizer"]["kind"] == "sentencepiece" and content["tokenizer"]["bos_id"] == 1
    table = run("info")[1]
    assert f"parameters             {parameters:,}" in table and "stored as float16" in table


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
