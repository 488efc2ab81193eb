"""Load a model together with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from .checkpoint.load import load_model
from .checkpoint.parts import is_function_name
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
    trust_parts: bool = False,
    missing: str = "refuse",
) -> tuple[Llama, Tokenizer]:
    """Load a model and its tokenizer. The arguments and errors are those of `checkpoint.load.load_model`.

    The tokenizer comes first: a missing or damaged tokenizer is reported before gigabytes of weights are loaded. The
    tokenizer of "module:function" is the one in the folder of the model that the function returns.
    """
    changes = attention, rope, norm, trust_parts, missing
    if is_function_name(source):
        model = load_model(source, dtype, device, revision, *changes)
        if model.folder is None:
            raise ValueError(f"the model of {source} has no tokenizer; set its `folder` to a checkpoint that has one")
        return model, Tokenizer.from_pretrained(model.folder)
    tokenizer = Tokenizer.from_pretrained(source, revision)
    return load_model(source, dtype, device, revision, *changes), tokenizer
