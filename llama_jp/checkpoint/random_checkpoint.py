"""Checkpoints with random weights, for tests and benchmarks without a download.

Bit equality and speed do not depend on what a model has learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..model import Llama, LlamaConfig
from .build import build_without_weights
from .parts import Parts

ELYZA = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    rms_norm_eps=1e-06,
    max_position_embeddings=4096,
    pad_token_id=0,
)

SHAPES = {
    "7b": ELYZA,
    "7b-fast": dataclasses.replace(ELYZA, vocab_size=45043),
    "13b": dataclasses.replace(ELYZA, hidden_size=5120, intermediate_size=13824, num_hidden_layers=40,
                               num_attention_heads=40, num_key_value_heads=40, head_dim=128),
    # All sizes differ and heads are grouped, so that two exchanged sizes give an error or other numbers.
    "tiny": LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=112,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-06,
        max_position_embeddings=256,
    ),
}  # fmt: skip


def random_config(shape: str, layers: int | None = None, **changes: Any) -> LlamaConfig:
    """The configuration of a key of SHAPES, with another number of layers or other `LlamaConfig` fields if given."""
    if shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}; known are {', '.join(SHAPES)}")
    config = dataclasses.replace(SHAPES[shape], **changes)
    return dataclasses.replace(config, num_hidden_layers=layers or config.num_hidden_layers)


def write_random(folder: Path, config: LlamaConfig, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """Save a checkpoint with normally distributed weights, and return its folder."""
    generator = torch.Generator().manual_seed(seed)
    model = build_without_weights(config, None, Parts(Llama))  # a 7B model in float32 would take 27 GB
    values = {}
    for name, parameter in model.named_parameters():
        mean, std = mean_and_std(name, parameter.shape)
        values[name] = (torch.randn(parameter.shape, generator=generator) * std + mean).to(dtype)
    model.load_state_dict(values, strict=False, assign=True)  # all but a tied head
    if config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.save_pretrained(folder)
    return folder


def mean_and_std(name: str, shape: Sequence[int]) -> tuple[float, float]:
    """Mean and standard deviation of a random parameter, such that every layer changes the logits visibly."""
    if name.endswith("norm.weight"):
        return 1.0, 0.1
    if len(shape) == 1 or name.endswith("embed_tokens.weight"):
        return 0.0, 0.02
    return 0.0, shape[1] ** -0.5


def random_ids(config: LlamaConfig, rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Random token ids (rows, tokens) int64; each row begins with BOS if the configuration has one."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=generator)
    if config.bos_token_id is not None:
        ids[:, 0] = config.bos_token_id
    return ids
