"""Random checkpoints in the file format of ELYZA's published checkpoints."""

from __future__ import annotations

import json

import torch

from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.published_form import write_published
from llama_jp.checkpoint.random_checkpoint import SHAPES, random_ids


def test_a_random_checkpoint_has_the_published_form_and_loads(tmp_path):
    """Guards against a file format that differs from ELYZA's, and against weights that stay zero."""
    config = SHAPES["tiny"]
    write_published(tmp_path, config, seed=1)
    index = json.loads((tmp_path / "pytorch_model.bin.index.json").read_text())
    files = {file.name: torch.load(file, weights_only=True) for file in tmp_path.glob("*.bin")}
    assert sorted(files) == ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    assert index["weight_map"] == {name: file for file, tensors in files.items() for name in tensors}
    assert sum("inv_freq" in name for name in index["weight_map"]) == config.num_hidden_layers
    dtypes = {tensor.dtype for tensors in files.values() for name, tensor in tensors.items() if "inv_freq" not in name}
    assert dtypes == {torch.float16}
    model = load_model(tmp_path, dtype="float32", device="cpu")
    for name, parameter in model.named_parameters():
        assert parameter.float().std() > 0.01, name
    with torch.no_grad():
        assert model(random_ids(config, 1, 8)).isfinite().all()
