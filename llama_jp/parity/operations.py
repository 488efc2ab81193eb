"""The operations of a Llama in the order of computation: what each writes, what it reads, whose weights it uses.

Names are those of `trace.py`; they are the same for every model that can be compared.
"""

from __future__ import annotations

from typing import NamedTuple

from ..model import LlamaConfig


class Operation(NamedTuple):
    """One step of the computation. `name` is the point where its result can be seen."""

    name: str
    kind: str  # which formula in formulas.py
    reads: tuple[str, ...] = ()
    weight: str | None = None  # the module whose parameters it uses
    layer: int | None = None


def operations(config: LlamaConfig) -> list[Operation]:
    """Every operation between ids and logits, first to last."""
    steps = [
        Operation("embed_tokens", "embedding", weight="embed_tokens"),
        Operation("rope.cos", "rope"),
        Operation("rope.sin", "rope"),
    ]
    stream = "embed_tokens"
    for i in range(config.num_hidden_layers):
        steps += layer_operations(i, stream)
        stream = f"layers.{i}"
    steps.append(Operation("norm", "norm", (stream,), "norm"))
    steps.append(Operation("lm_head", "linear", ("norm",), "lm_head"))
    steps.append(Operation("logits", "same", ("lm_head",)))
    return steps


def layer_operations(i: int, stream: str) -> list[Operation]:
    """One layer, which reads the residual stream at the point `stream` and writes it at `layers.i`."""
    layer, attn, mlp = f"layers.{i}", f"layers.{i}.self_attn", f"layers.{i}.mlp"
    before, between = f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"

    def linear(module: str, reads: str) -> Operation:
        return Operation(module, "linear", (reads,), module, i)

    return [
        Operation(before, "norm", (stream,), before, i),
        linear(f"{attn}.q_proj", before),
        linear(f"{attn}.k_proj", before),
        linear(f"{attn}.v_proj", before),
        Operation(f"{attn}.q_rot", "rotate", (f"{attn}.q_proj",), layer=i),
        Operation(f"{attn}.k_rot", "rotate", (f"{attn}.k_proj",), layer=i),
        Operation(f"{attn}.keys", "remember", (f"{attn}.k_rot",), layer=i),
        Operation(f"{attn}.values", "remember", (f"{attn}.v_proj",), layer=i),
        Operation(f"{attn}.scores", "scores", (f"{attn}.q_rot", f"{attn}.keys"), layer=i),
        Operation(f"{attn}.probabilities", "softmax", (f"{attn}.scores",), layer=i),
        Operation(f"{attn}.attn_output", "attention", (f"{attn}.q_rot", f"{attn}.keys", f"{attn}.values"), layer=i),
        linear(f"{attn}.o_proj", f"{attn}.attn_output"),
        Operation(f"{layer}.after_attention", "residual", (stream, f"{attn}.o_proj"), layer=i),
        Operation(between, "norm", (f"{layer}.after_attention",), between, i),
        linear(f"{mlp}.gate_proj", between),
        linear(f"{mlp}.up_proj", between),
        Operation(f"{mlp}.mlp_act", "mlp_act", (f"{mlp}.gate_proj", f"{mlp}.up_proj"), layer=i),
        linear(f"{mlp}.down_proj", f"{mlp}.mlp_act"),
        Operation(layer, "residual", (f"{layer}.after_attention", f"{mlp}.down_proj"), layer=i),
    ]


DESCRIPTIONS = {
    "embedding": "look up the embeddings",
    "rope": "turn positions into cos and sin",
    "norm": "RMSNorm",
    "linear": "matrix product",
    "rotate": "rotate by position",
    "remember": "keys and values, cached and new",
    "scores": "scaled and masked scores",
    "softmax": "softmax",
    "attention": "attention",
    "residual": "add to the residual stream",
    "mlp_act": "silu(gate) * up",
    "same": "what the model returns",
    "gradient": "gradient",
    "choice": "choose the next token",
}
