"""Another MLP: down(relu(up(x))²), without a gate. See: "Primer", arXiv:2109.08668.

Two matrices in place of three. `intermediate_size` 3/2 as large has as many parameters as SwiGLU. For GELU, return
`self.down_proj(F.gelu(self.up_proj(x)))`.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from llama_jp import Llama, LlamaConfig


class SquaredReLU(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.relu(self.up_proj(x)).square())  # (B, T, F) inside


class SquaredReLULlama(Llama):
    def __init__(self, config: LlamaConfig, **functions: Any):
        super().__init__(config, **functions)
        for layer in self.layers:
            layer.mlp = SquaredReLU(config)


def make() -> Llama:
    """The demo with this MLP, whose matrices start as the demo's `up_proj` and `down_proj`."""
    plain = Llama.from_pretrained("demo", dtype="float32")
    model = SquaredReLULlama(plain.config)
    model.load_state_dict(plain.state_dict(), strict=False)  # not strict: there is no gate_proj
    model.folder, model.generation_config = plain.folder, plain.generation_config
    return model
