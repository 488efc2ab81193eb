"""Load a model together with its tokenizer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint.parts import is_function_name
from .config import LlamaConfig
from .text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch

    from .model import Attention, Llama, Norm
    from .rope import Rope


def load(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
    adapter: str | Path | None = None,
    trust_parts: bool = False,
    missing: str = "refuse",
    tokenizer: str | Path | None = None,
) -> tuple[Llama, Tokenizer]:
    """Load a model and its tokenizer. The other arguments and the errors are those of `checkpoint.load.load_model`.

    tokenizer  a source of the tokenizer, for a model without one of its own, or for a GGUF file that has lost a part of
               it; None is the model's

    The tokenizer comes first: a missing or damaged tokenizer is reported before gigabytes of weights are loaded. A
    warning says if the two do not belong together. The tokenizer of "module:function" is the one in the folder of the
    model that the function returns.
    """
    from .checkpoint.load import load_model  # late, because it imports torch, which `llama-jp info` does without

    changes = attention, rope, norm, adapter, trust_parts, missing
    if is_function_name(source):
        model = load_model(source, dtype, device, revision, *changes)
        return model, Tokenizer.from_pretrained(tokenizer or tokenizer_folder(model, source))
    chosen = Tokenizer.from_pretrained(source, revision) if tokenizer is None else Tokenizer.from_pretrained(tokenizer)
    model = load_model(source, dtype, device, revision, *changes)
    if problem := find_mismatch(chosen, model.config):
        warnings.warn(f"{model.folder}: {problem}", stacklevel=2)
    return model, chosen


def load_tokenizer(source: str | Path = "demo", revision: str | None = None) -> Tokenizer:
    """The tokenizer that belongs to a source of `load`. Of "module:function", the function is called."""
    if not is_function_name(source):
        return Tokenizer.from_pretrained(source, revision)
    from .checkpoint.load import load_model

    return Tokenizer.from_pretrained(tokenizer_folder(load_model(source, revision=revision), source))


def tokenizer_folder(model: Llama, source: str | Path) -> Path:
    """The folder of the model that a function returns. Raises ValueError if it has none."""
    if model.folder is None:
        raise ValueError(f"the model of {source} has no tokenizer; set its `folder` to a checkpoint that has one")
    return model.folder


def find_mismatch(tokenizer: Tokenizer, config: LlamaConfig) -> str | None:
    """Why a tokenizer and a model do not belong together, as a sentence; None if they may.

    A model may have more rows than its tokenizer has ids, because embeddings are padded to round sizes. An added token
    without a row is no mismatch: fine-tunes name a pad token and never use it.
    """
    rows = config.vocab_size
    text_ids = tokenizer.vocabulary.pieces.keys() - tokenizer.vocabulary.added
    if (largest := max(text_ids, default=0)) >= rows:
        return (
            f"tokenizer and model do not belong together: the tokenizer has {largest + 1:,} pieces, and the model only "
            f"{rows:,} rows in its embedding; use the tokenizer files of this model"
        )
    if tokenizer.bos_id is not None and tokenizer.bos_id >= rows:
        return (
            f"the tokenizer begins each text with the id {tokenizer.bos_id}, and the model has only {rows:,} rows in "
            "its embedding; name another bos_token, or use the tokenizer files of this model"
        )
    return None
