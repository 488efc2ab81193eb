"""Edits of checkpoint files, and the published config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from llama_jp.checkpoint.load import load_model

IDS = torch.arange(2, 32).view(2, 15)

# config.json of ELYZA-japanese-Llama-2-7b-fast
ELYZA = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.30.2",
    "use_cache": True,
    "vocab_size": 45043,
}


def logits(folder: Path, dtype: str | torch.dtype = "float32") -> Tensor:
    """The logits of IDS from the checkpoint in a folder, on the CPU."""
    with torch.no_grad():
        return load_model(folder, dtype=dtype, device="cpu")(IDS)


def edit_config(folder: Path, **values: object) -> None:
    """Change keys of a folder's config.json."""
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | values))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Write a folder's model.safetensors again after a function has changed its tensors."""
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
