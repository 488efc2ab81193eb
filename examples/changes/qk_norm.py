"""QK-norm: an RMSNorm on each head of the queries and keys, before the rotation. See: arXiv:2302.05442; Qwen3.

The scores are bounded by the weights of the norms, so attention cannot saturate. New parameters in each layer:
`q_proj.norm.weight` and `k_proj.norm.weight`, (D,) each, 1 at the start. The other weights are those of a plain Llama.
"""

from typing import Any

from torch import Tensor, nn

from llama_jp import Llama, LlamaConfig
from llama_jp.model import RMSNorm


class NormedLinear(nn.Linear):
    """A projection to heads, each of them normalised: (B, T, C) -> (B, T, H * D)."""

    def __init__(self, plain: nn.Linear, norm: RMSNorm, head_dim: int):
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        self.norm = RMSNorm(head_dim, norm.eps, norm.norm)
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        heads = super().forward(x).unflatten(-1, (-1, self.head_dim))  # (B, T, H, D)
        return self.norm(heads).flatten(-2)  # (B, T, H * D)


class QKNormLlama(Llama):
    def __init__(self, config: LlamaConfig, **functions: Any):
        super().__init__(config, **functions)
        for layer in self.layers:
            attn, norm = layer.self_attn, layer.input_layernorm
            attn.q_proj = NormedLinear(attn.q_proj, norm, config.head_dim)
            attn.k_proj = NormedLinear(attn.k_proj, norm, config.head_dim)


def make() -> Llama:
    return QKNormLlama.from_pretrained("demo", missing="initialise")
