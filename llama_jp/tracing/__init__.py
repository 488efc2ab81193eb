"""Record or edit the activations of a model by name.

    with trace(model, ["layers.*.mlp", "layers.3.self_attn.q_rot"]) as activations:
        model(ids)
    activations["layers.0.mlp"]              # the tensor of the last call; activations.calls(name): one for each call

    with trace(model, edit={"layers.3.self_attn.q_proj": torch.zeros_like}):
        model(ids)                           # ablation: all queries of layer 3 are zero

    with trace(model, ["layers.3"], keep_graph=True) as activations:
        logits = model(ids)
    torch.autograd.grad(logits[0, -1, 7], activations["layers.3"])  # the gradient of one logit

    with trace(model, ["layers.3"], reduce="mean", stop_after="layers.3") as means:
        model(ids)                           # the mean hidden state; layers 4 and later are not computed

A point is the name of one activation. The path of a module, without transformers' prefix `model.`, names its output.
Other points lie between modules:

    rope.cos  rope.sin                       the rotation, which all layers share                (B or 1, T, D)
    layers.N.self_attn.q_rot  .k_rot         rotated queries and new keys, before the KV cache   (B, H or K, T, D)
    layers.N.self_attn.keys  .values         keys and values of all visible tokens               (B, K, S, D)
    layers.N.self_attn.scores                scaled and masked scores, the input of softmax      (B, H, T, S)
    layers.N.self_attn.probabilities         attention weights, the output of softmax            (B, H, T, S)
    layers.N.self_attn.attn_output           the output of attention, before o_proj              (B, H, T, D)
    layers.N.after_attention                 the residual stream between attention and MLP       (B, T, C)
    layers.N.mlp.mlp_act                     silu(gate) * up, the input of down_proj             (B, T, F)

This project's model, a changed copy of it and transformers' Llama have the same points. Other modules have only the
points that are module paths. A fused attention kernel produces no scores and no probabilities. `trace` computes them
separately, from the same q, k and mask. Recording does not change a bit of the model's output. The end of the `with`
block removes all hooks, also after an exception. Traces of one model may be nested and may end in any order.

The wrappers of torch.compile, PEFT, DDP and FSDP add no part to a name: `_orig_mod.layers.0.mlp` and
`base_model.model.layers.0.mlp` are `layers.0.mlp`. Nor does a transformers model that holds this project's Llama as
`model` or `llama`. A compiled model runs without its compiled code inside the block, because compiled code calls no
hooks; this may change the last bits.

Activation checkpointing computes a point again in the backward pass. Run the backward pass inside the block: there the
point is edited again, so that the gradients belong to the edited model, and it is not recorded or counted again.

points.py        the names of the points of a model
activations.py   the recorded tensors, or running statistics of them
recorder.py      what happens at a point: edit, record, count, stop
attention.py     the points inside attention
hooks.py         the hooks of all modules
interface.py     trace
"""

from .activations import Activations
from .interface import trace
from .points import is_compiled, is_reference, matching_points, named_modules, point_names
from .recorder import Point, paused

__all__ = [
    "Activations",
    "Point",
    "is_compiled",
    "is_reference",
    "matching_points",
    "named_modules",
    "paused",
    "point_names",
    "trace",
]
