"""The operations of a Llama in the order of computation, with their inputs and weights.

The names are points of `tracing`. They are the same for every model that can be compared.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import LlamaConfig


class Operation(NamedTuple):
    """One operation. Its name is the point of its result."""

    name: str
    kind: str  # a key of DESCRIPTIONS
    inputs: tuple[str, ...] = ()  # the names of earlier operations
    weight: str | None = None  # the module that holds its parameters
    layer: int | None = None


def operations_of(config: LlamaConfig) -> list[Operation]:
    """Every operation between the ids and the logits, first to last."""
    steps = [
        Operation("embed_tokens", "embedding", weight="embed_tokens"),
        Operation("rope.cos", "rope"),
        Operation("rope.sin", "rope"),
    ]
    residual = "embed_tokens"
    for i in range(config.num_hidden_layers):
        steps += layer_operations(i, residual)
        residual = f"layers.{i}"
    steps.append(Operation("norm", "norm", (residual,), "norm"))
    steps.append(Operation("lm_head", "linear", ("norm",), "lm_head"))
    steps.append(Operation("logits", "same", ("lm_head",)))
    return steps


def layer_operations(i: int, residual: str) -> list[Operation]:
    """The operations of layer i. Its input is the residual stream at the point `residual`, its output `layers.i`."""
    layer, attn, mlp = f"layers.{i}", f"layers.{i}.self_attn", f"layers.{i}.mlp"
    first_norm, second_norm = f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"

    def linear(module: str, input_name: str) -> Operation:
        return Operation(module, "linear", (input_name,), module, i)

    return [
        Operation(first_norm, "norm", (residual,), first_norm, i),
        linear(f"{attn}.q_proj", first_norm),
        linear(f"{attn}.k_proj", first_norm),
        linear(f"{attn}.v_proj", first_norm),
        Operation(f"{attn}.q_rot", "rotate", (f"{attn}.q_proj",), layer=i),
        Operation(f"{attn}.k_rot", "rotate", (f"{attn}.k_proj",), layer=i),
        Operation(f"{attn}.keys", "cache", (f"{attn}.k_rot",), layer=i),
        Operation(f"{attn}.values", "cache", (f"{attn}.v_proj",), layer=i),
        Operation(f"{attn}.scores", "scores", (f"{attn}.q_rot", f"{attn}.keys"), layer=i),
        Operation(f"{attn}.probabilities", "softmax", (f"{attn}.scores",), layer=i),
        Operation(f"{attn}.attn_output", "attention", (f"{attn}.q_rot", f"{attn}.keys", f"{attn}.values"), layer=i),
        linear(f"{attn}.o_proj", f"{attn}.attn_output"),
        Operation(f"{layer}.after_attention", "residual", (residual, f"{attn}.o_proj"), layer=i),
        Operation(second_norm, "norm", (f"{layer}.after_attention",), second_norm, i),
        linear(f"{mlp}.gate_proj", second_norm),
        linear(f"{mlp}.up_proj", second_norm),
        Operation(f"{mlp}.mlp_act", "mlp_act", (f"{mlp}.gate_proj", f"{mlp}.up_proj"), layer=i),
        linear(f"{mlp}.down_proj", f"{mlp}.mlp_act"),
        Operation(layer, "residual", (f"{layer}.after_attention", f"{mlp}.down_proj"), layer=i),
    ]


# Every kind of operation, in words for reports. The last five are no operations of a model.
DESCRIPTIONS = {
    "embedding": "token embedding",
    "rope": "cos and sin of the positions",
    "norm": "RMSNorm",
    "linear": "linear layer",
    "rotate": "rotary position embedding",
    "cache": "KV cache: cached and new",
    "scores": "scaled and masked attention scores",
    "softmax": "softmax of the scores",
    "attention": "attention output",
    "residual": "residual addition",
    "mlp_act": "silu(gate) * up",
    "same": "output of the model",
    "gradient": "gradient",
    "metadata": "metadata of the GGUF file",
    "size": "size in the metadata of the GGUF file",
    "weights": "weights of the GGUF file",
    "choice": "choice of the next token",
}
