"""Random checkpoints of a given shape, for when nothing can be downloaded: bits do not care what a model knows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from ..model import Llama, LlamaConfig

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
    # Every size another one, and heads in groups: what is exchanged by mistake does not fit or does not pass unseen.
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


def random_config(shape: str, layers: int | None = None, **changes) -> LlamaConfig:
    if shape not in SHAPES:
        raise ValueError(f"there is no shape {shape!r}; known are {', '.join(SHAPES)}")
    config = dataclasses.replace(SHAPES[shape], **changes)
    return dataclasses.replace(config, num_hidden_layers=layers or config.num_hidden_layers)


def write_random(folder: Path, config: LlamaConfig, dtype: torch.dtype = torch.float16, seed: int = 0) -> Path:
    """Save a checkpoint with random weights, of sizes at which every layer has something to say."""
    generator = torch.Generator().manual_seed(seed)
    model = Llama(config).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                drawn = 1 + 0.1 * drawn
            else:
                drawn *= 0.02 if parameter.dim() == 1 or name.startswith("embed") else parameter.shape[1] ** -0.5
            parameter.copy_(drawn)
    model.save_pretrained(folder)
    return folder


def random_ids(config: LlamaConfig, rows: int, tokens: int, seed: int = 0) -> torch.Tensor:
    """Ids to run on: BOS first, then anything."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, config.vocab_size, (rows, tokens), generator=generator)
    if config.bos_token_id is not None:
        ids[:, 0] = config.bos_token_id
    return ids
