"""Quantised checkpoints to test with, and changes to their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch import Tensor

from llama_jp.quantization.certificate import Result

INT4 = {"bits": 4, "group_size": 32}
# Grouped heads, and all sizes different multiples of 32, so that int4 groups of 32 fit.
SHAPE = {
    "vocab_size": 80,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
}
NO_TOKENIZER = pytest.mark.filterwarnings("ignore:there is no tokenizer")


def certified_result(folder: Path) -> Result:
    """The measured numbers in the certificate of a quantised checkpoint."""
    return json.loads((folder / "certificate.json").read_text())["result"]


def rewrite_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change the tensors of a checkpoint in one file."""
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def rewrite_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
