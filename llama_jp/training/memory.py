"""The memory that a training run needs, and the memory that the machine has: refuse early what cannot fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..checkpoint.build import build_without_weights
from ..checkpoint.parts import Parts
from ..environment import available_memory
from ..linear.scheme import Scheme
from ..model import Llama, LlamaConfig

RUNTIME = 600 * 2**20  # Python, torch and its libraries, PEFT among them


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that a run needs at its peak, by purpose. Activations are an estimate, the rest is exact."""

    weights: int
    gradients: int
    moments: int  # AdamW's two running means of each trained number
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations + RUNTIME

    def __str__(self) -> str:
        return (
            f"weights {gib(self.weights)} + gradients {gib(self.gradients)} + AdamW's moments {gib(self.moments)} + "
            f"activations about {gib(self.activations)}"
        )


def estimate_memory(
    config: LlamaConfig, scheme: Scheme | None, precision: str, lora: int | None, tokens: int, checkpointed: bool
) -> MemoryNeed:
    """The memory for training a model.

    scheme        of a quantised model, else None
    precision     "float32", "autocast" or "bfloat16", as in `finetune`
    lora          the rank of the adapter, or None to train all weights
    tokens        in one call of the model: rows × length
    checkpointed  whether only the input of each block is kept for the backward pass
    """
    model = build_without_weights(config, scheme, Parts(Llama))
    size = 2 if precision == "bfloat16" else 4
    numbers = sum(parameter.numel() for parameter in model.parameters())
    weights = numbers * size + sum(buffer.nbytes for buffer in model.buffers())
    if precision == "autocast":
        weights += numbers * 2  # the copies that autocast multiplies by live until the backward pass has used them
    trained, trained_size = numbers, size
    if lora is not None:
        trained, trained_size = lora_numbers(config, lora), 4  # PEFT keeps 16-bit adapters in float32
        weights += trained * trained_size

    c, product = config, 4 if precision == "float32" else 2
    heads, groups = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
    norms = 2 * c.hidden_size * (8 + product)  # each keeps its input in float32, and the result before the weight
    block = norms + product * (2 * c.hidden_size + 5 * heads + 2 * groups + 4 * c.intermediate_size)
    inputs = c.hidden_size * (2 if precision == "bfloat16" else 4)
    if lora is not None and product == 2:
        block += 4 * (5 * c.hidden_size + heads + c.intermediate_size)  # PEFT casts each input to float32
    kept, at_once = (inputs, 2) if checkpointed else (inputs + block, 0)  # one block is computed again, with gradients
    blocks = c.num_hidden_layers * kept + at_once * block
    logits = c.vocab_size * (2 * product + 12)  # the logits, their float32 copy, its log-softmax, and the gradients
    return MemoryNeed(weights, trained * trained_size, 2 * trained * trained_size, tokens * (blocks + logits))


def lora_numbers(config: LlamaConfig, rank: int) -> int:
    """The size of an adapter of a rank on every linear layer of the blocks."""
    C, F = config.hidden_size, config.intermediate_size
    heads, groups = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    sides = 2 * (C + heads) + 2 * (C + groups) + 3 * (C + F)
    return config.num_hidden_layers * rank * sides


def check_memory(need: MemoryNeed, device: torch.device, lora: int | None, processes: int = 1) -> None:
    """Raise ValueError, with the arithmetic and the way out, if a run cannot fit into the memory.

    processes  share gradients and moments; each has the whole weights while it loads them
    """
    need = replace(need, gradients=need.gradients // processes, moments=need.moments // processes)
    available = available_memory(device)
    if available is not None and device.type == "cpu":
        available //= processes
    if available is None or need.total <= available:
        return
    fixed = need.weights + need.gradients + need.moments
    way_out = "take a smaller batch or length, or checkpoint the activations"
    if fixed + RUNTIME > available:
        smaller = "train an adapter (LoRA)" if lora is None else "quantise the model"
        way_out = f"{smaller}, or take the precision bfloat16"
    raise ValueError(
        f"the run needs about {gib(need.total)} and {gib(available)} are free on {device}: {need}; {way_out}"
    )


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
