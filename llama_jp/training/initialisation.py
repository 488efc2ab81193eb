"""Random weights for a model that is trained from the beginning."""

from __future__ import annotations

import torch
from torch import nn

from ..model import Llama


@torch.no_grad()
def initialise(model: Llama, seed: int) -> None:
    """Give a model new weights: matrices normal with `config.initializer_range`, norms 1, biases and padding 0.

    A float32 model on the CPU gets exactly the weights of transformers' `LlamaForCausalLM(config)` after
    `torch.manual_seed(seed)`; another dtype or device gets other numbers of the same distribution. torch's own random
    state is left as it was.

    Raises ValueError for a model without memory for weights, and for a quantised one, whose weights are not trained.

    Reference: `PreTrainedModel._init_weights` (transformers `modeling_utils.py`).
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the model is on the meta device, so it has no weights; model.to_empty(device=…) makes some")
    if getattr(model, "quantization", None) is not None:
        raise ValueError("the model is quantised, and its weights are not trained; initialise the original")
    matrices = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Embedding)]
    blocks, head = [module for module in matrices if module is not model.lm_head], [model.lm_head]
    tied = model.lm_head.weight is model.embed_tokens.weight  # the embedding's numbers count
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for modules in (blocks, [] if tied else head):  # the reference initialises the head after the rest
            for module in modules:
                skip_default_numbers(module)
            for module in modules:
                module.weight.normal_(std=model.config.initializer_range)
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(0 if name.endswith("bias") else 1)


def skip_default_numbers(module: nn.Linear | nn.Embedding) -> None:
    """Draw the numbers that PyTorch's constructor of a module draws: the reference draws its own after these."""
    if isinstance(module, nn.Embedding):
        torch.empty_like(module.weight).normal_()
        return
    torch.empty_like(module.weight).uniform_()
    if module.bias is not None:
        torch.empty_like(module.bias).uniform_()
