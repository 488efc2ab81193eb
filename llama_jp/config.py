"""The configuration of a model: its sizes, and the settings that change its numbers.

This module does not import torch, which takes seconds, so `llama-jp info` starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class LlamaConfig:
    """The shape of a model. Every field is a key of config.json with the same meaning."""

    vocab_size: int  # V
    hidden_size: int  # C
    intermediate_size: int  # F
    num_hidden_layers: int
    num_attention_heads: int  # H
    rms_norm_eps: float  # no default: ELYZA has 1e-06, Meta 1e-05, and a wrong value gives no error
    num_key_value_heads: int = 0  # K; 0: as many as query heads
    head_dim: int = 0  # D; 0: hidden_size / num_attention_heads
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None  # longer contexts: see rope.py
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02  # standard deviation of new weights, see training.initialise
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None
    torch_dtype: str | None = None  # the dtype of the stored weights

    def __post_init__(self) -> None:
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        if not self.head_dim:
            if self.hidden_size % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {self.hidden_size} is not a multiple of "
                    f"num_attention_heads {self.num_attention_heads}"
                )
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd, but rotary embeddings rotate pairs of numbers")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )

    @property
    def context_length(self) -> int:
        """The number of positions a model is made for: the trained positions times the scaling factor."""
        scaling = self.rope_scaling or {}
        trained = scaling.get("original_max_position_embeddings", self.max_position_embeddings)
        return max(self.max_position_embeddings, int(trained * (scaling.get("factor") or 1)))
