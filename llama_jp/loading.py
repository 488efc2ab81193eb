"""Load a model together with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint.load import load_model
from .model import Attention, Llama, Norm
from .rope import Rope
from .text.tokenizer import Tokenizer


def load(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
) -> tuple[Llama, Tokenizer]:
    """Load a model and its tokenizer. The arguments and errors are those of `checkpoint.load.load_model`.

    The tokenizer comes first: a missing or damaged tokenizer is reported before gigabytes of weights are loaded.
    """
    tokenizer = Tokenizer.from_pretrained(source, revision)
    return load_model(source, dtype, device, revision, attention, rope, norm), tokenizer
