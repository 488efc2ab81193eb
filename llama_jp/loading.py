"""Load a model together with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint.hub import find_checkpoint
from .checkpoint.load import load_model
from .model import Attention, Llama
from .text.tokenizer import Tokenizer


def load(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    attention: str | Attention = "sdpa",
) -> tuple[Llama, Tokenizer]:
    """A model and its tokenizer, ready to generate. For the arguments see `load_model`."""
    folder = find_checkpoint(source, revision)
    return load_model(folder, dtype, device, attention=attention), Tokenizer.from_pretrained(folder)
