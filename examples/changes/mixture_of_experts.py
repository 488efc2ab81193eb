"""Mixture of experts: EXPERTS MLPs in each layer, CHOSEN of which compute a token. See: "Mixtral", arXiv:2401.04088.

    y = Σ w_e · MLP_e(x) over the experts with the largest router logits; w = softmax of these logits

`make` copies the MLP of the demo into every expert ("Sparse Upcycling", arXiv:2212.05055): the weights sum to 1, so the
first logits are the demo's up to rounding. Long training needs a loss that balances the load as well. A token's result
does not depend on the other tokens, but products of other heights round differently.
"""

from typing import Any

import torch
from torch import Tensor, nn

from llama_jp import Llama, LlamaConfig
from llama_jp.model import SwiGLU

EXPERTS, CHOSEN = 4, 2


class MixtureOfExperts(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.router = nn.Linear(config.hidden_size, EXPERTS, bias=False)
        self.experts = nn.ModuleList(SwiGLU(config) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)  # (N, C)
        logits, chosen = self.router(tokens).topk(CHOSEN)  # (N, CHOSEN)
        weights = logits.softmax(-1, dtype=torch.float32).to(x.dtype)
        y = torch.zeros_like(tokens)
        for e, expert in enumerate(self.experts):
            token, rank = (chosen == e).nonzero(as_tuple=True)
            y = y.index_add(0, token, weights[token, rank, None] * expert(tokens[token]))
        return y.view_as(x)


class MixtureOfExpertsLlama(Llama):
    def __init__(self, config: LlamaConfig, **functions: Any):
        super().__init__(config, **functions)
        for layer in self.layers:
            layer.mlp = MixtureOfExperts(config)


def upcycle(plain: Llama) -> MixtureOfExpertsLlama:
    """A mixture whose experts are copies of the MLP of a plain model. The routers are random."""
    model = MixtureOfExpertsLlama(plain.config).to(plain.lm_head.weight)
    model.load_state_dict(plain.state_dict(), strict=False)  # not strict: the MLPs are other ones
    for layer, dense in zip(model.layers, plain.layers, strict=True):
        for expert in layer.mlp.experts:
            expert.load_state_dict(dense.mlp.state_dict())
    model.folder, model.generation_config = plain.folder, plain.generation_config
    return model


def make() -> Llama:
    return upcycle(Llama.from_pretrained("demo"))
