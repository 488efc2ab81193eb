"""Faults for tests of parity: a model is broken on purpose, at one place, and the judge must find that place.

A decorated function breaks the model that it gets, or returns another model. Its name is the name of the fault.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import llama_jp.model
from llama_jp.cache import LayerCache
from llama_jp.model import Attention, Llama, attend_eager, attend_sdpa, repeat_heads, rms_norm
from llama_jp.rope import cos_sin, inverse_frequencies, plain_rope

Break = Callable[[Llama], "nn.Module | None"]
Append = Callable[[LayerCache, Tensor, Tensor], "tuple[Tensor, Tensor]"]

BOTH = ("float32", "bfloat16")
LOW_PRECISION = ("bfloat16", "float16")


@dataclasses.dataclass
class Fault:
    """One fault, and the finding that it must give."""

    name: str
    operation: str  # the operation that has the bug
    cause: str  # a part of the cause; "": the cause is not known
    make: Break
    mode: str
    dtypes: tuple[str, ...]  # where the fault changes the numbers, and is no other fault

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


FAULTS: list[Fault] = []


def fault(
    operation: str, cause: str = "", *, mode: str = "whole", dtypes: tuple[str, ...] = BOTH
) -> Callable[[Break], Break]:
    """Add a fault to the list."""

    def add(make: Break) -> Break:
        FAULTS.append(Fault(make.__name__.replace("_", " "), operation, cause, make, mode, dtypes))
        return make

    return add


# Ways to break a model


def rewritten(model: Llama, old: str, new: str) -> nn.Module:
    """A model from a copy of model.py with one change, and with the same weights."""
    source = Path(llama_jp.model.__file__).read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in model.py; adapt the fault"
    copy = types.ModuleType("llama_jp.changed_model")
    copy.__package__ = "llama_jp"
    sys.modules[copy.__name__] = copy  # dataclasses need the module of their class
    try:
        exec(compile(source.replace(old, new), "changed_model.py", "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy.Llama.from_pretrained(model.folder, dtype=model.embed_tokens.weight.dtype, device="cpu")


def in_own_weights(change: Break) -> Break:
    """A decorator: the change gets weights of its own. Loaded weights are memory-mapped from the file."""

    def make(model: Llama) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        with torch.no_grad():
            change(model)

    make.__name__ = change.__name__
    return make


def eager_with(
    scale: float | None = None,
    tiled: bool = False,
    shift: int = 0,
    softmax: Callable[[Tensor], Tensor] | None = None,
) -> Attention:
    """`attend_eager` with another scale, order of heads, offset of the mask, or softmax."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        H, T, S = q.shape[1], q.shape[2], k.shape[2]
        visible = torch.ones(T, S, dtype=torch.bool).tril(S - T + shift) if mask is None or shift else mask
        if tiled:
            k, v = (x.repeat(1, H // x.shape[1], 1, 1) for x in (k, v))
        else:
            k, v = repeat_heads(k, H), repeat_heads(v, H)
        scores = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
        scores = scores.masked_fill(~visible, torch.finfo(q.dtype).min)
        probabilities = softmax(scores) if softmax else scores.softmax(-1, dtype=torch.float32)
        return probabilities.to(q.dtype) @ v

    return attend


def set_attention(model: Llama, layer: int, attention: Attention) -> None:
    model.layers[layer].self_attn.attend = attention


def set_append(model: Llama, layer: int, append: Append) -> None:
    """Replace the function that writes one layer's keys and values into the cache."""

    class ChangedCache(LayerCache):
        def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return append(LayerCache(*self), k, v)

    def with_changed_cache(module: nn.Module, args: tuple) -> tuple:
        return (*args[:3], None if args[3] is None else ChangedCache(*args[3]))

    model.layers[layer].self_attn.register_forward_pre_hook(with_changed_cache)


# Weights


@fault("layers.1.self_attn.o_proj", "transposed")
@in_own_weights
def transposed_o_proj(model):
    weight = model.layers[1].self_attn.o_proj.weight
    weight.copy_(weight.T.clone())


@fault("layers.1.input_layernorm", "holds layers.2")
@in_own_weights
def layers_exchanged(model):
    model.layers[1], model.layers[2] = model.layers[2], model.layers[1]


@fault("lm_head", "tied head")
@in_own_weights
def tied_head(model):
    model.lm_head.weight = model.embed_tokens.weight


@fault("layers.2.mlp.gate_proj", "holds layers.2.mlp.up_proj")
@in_own_weights
def gate_and_up_weights_exchanged(model):
    mlp = model.layers[2].mlp
    mlp.gate_proj, mlp.up_proj = mlp.up_proj, mlp.gate_proj


@fault("layers.1.self_attn.q_proj", "row order")
@in_own_weights
def q_rows_in_metas_order(model):
    weight = model.layers[1].self_attn.q_proj.weight
    weight.copy_(weight.view(4, 2, 8, 64).transpose(1, 2).reshape(64, 64))


@fault("layers.3.mlp.down_proj", "other values")
@in_own_weights
def one_number_of_one_weight(model):
    model.layers[3].mlp.down_proj.weight[5, 7] *= 1.5


@fault("layers.2.post_attention_layernorm", "all one")
@in_own_weights
def one_norm_weight_left_at_one(model):
    model.layers[2].post_attention_layernorm.weight.fill_(1)


@fault("layers.1.mlp.up_proj", "quantised")
@in_own_weights
def four_bits(model):
    weight = model.layers[1].mlp.up_proj.weight
    step = weight.abs().amax(1, keepdim=True) / 7
    weight.copy_((weight / step).round() * step)


@fault("layers.2.mlp.gate_proj", "rounded to bfloat16", dtypes=("float32", "float16"))
@in_own_weights
def one_weight_rounded_to_bfloat16(model):
    weight = model.layers[2].mlp.gate_proj.weight
    weight.copy_(weight.bfloat16())


@fault("layers.1.input_layernorm", "holds layers.1.post_attention_layernorm")
@in_own_weights
def norms_of_a_layer_exchanged(model):
    layer = model.layers[1]
    layer.input_layernorm, layer.post_attention_layernorm = layer.post_attention_layernorm, layer.input_layernorm


@fault("layers.2.mlp.down_proj", "holds layers.1.mlp.down_proj")
@in_own_weights
def one_down_proj_in_two_layers(model):
    model.layers[2].mlp.down_proj = model.layers[1].mlp.down_proj


# Norms


@fault("layers.2.input_layernorm", "eps 1e-05", dtypes=("float32",))
def eps_of_one_layer(model):
    model.layers[2].input_layernorm.eps *= 10


@fault("norm", "eps 0.001")
def eps_of_the_last_norm(model):
    model.norm.eps *= 1000


@fault("layers.1.post_attention_layernorm", "sum")
def sum_of_squares_not_mean(model):
    def l2_norm(x, weight, eps):
        return rms_norm(x, weight, eps) * x.shape[-1] ** -0.5

    model.layers[1].post_attention_layernorm.norm = l2_norm


@fault("layers.0.input_layernorm", "cast order", dtypes=LOW_PRECISION)
def norm_weight_before_the_cast(model):
    return rewritten(model, "return weight * y.to(x.dtype)", "return (weight * y).to(x.dtype)")


@fault("layers.0.input_layernorm", "computed in bfloat16", dtypes=("bfloat16",))
def norm_not_in_float32(model):
    return rewritten(model, "y = x.to(torch.float32)", "y = x")


@fault("layers.0.input_layernorm", "mean is subtracted")
def mean_subtracted(model):
    old = "y = x.to(torch.float32)"
    return rewritten(model, old, f"{old} - x.float().mean(-1, keepdim=True)")


@fault("layers.2.input_layernorm", "1.1 times")
def norm_too_large(model):
    model.layers[2].input_layernorm.register_forward_hook(lambda module, args, out: out * 1.1)


# Rotation


@fault("rope.cos", "rope_theta 500000")
def theta_of_another_model(model):
    model.rope = plain_rope(dataclasses.replace(model.config, rope_theta=5e5))


@fault("rope.cos", "rope_theta 20000")
def theta_twice_as_large(model):
    model.rope = plain_rope(dataclasses.replace(model.config, rope_theta=2e4))


@fault("rope.cos", "rounded to bfloat16")
def frequencies_in_bfloat16(model):
    rounded = inverse_frequencies(model.config.rope_theta, model.config.head_dim).bfloat16().float()
    model.rope = lambda positions: cos_sin(positions, rounded)


@fault("rope.cos", "bfloat16", dtypes=("float32",))
def cos_and_sin_in_bfloat16(model):
    rope = model.rope
    model.rope = lambda positions: tuple(part.bfloat16() for part in rope(positions))


@fault("rope.cos", "angles, and so cos and sin, computed in bfloat16")
def angles_in_bfloat16(model):
    frequencies = inverse_frequencies(model.config.rope_theta, model.config.head_dim).bfloat16()

    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].bfloat16() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    model.rope = rope


@fault("rope.cos", "position offset")
def positions_from_one(model):
    rope = model.rope
    model.rope = lambda positions: rope(positions + 1)


@fault("rope.cos", "position offset", mode="chunks")
def positions_off_by_one_after_the_first_chunk(model):
    rope = model.rope
    model.rope = lambda positions: rope(positions - 1 if positions[0, 0] else positions)


@fault("rope.cos", "padding counted", mode="ragged")
def padding_counted(model):
    return rewritten(model, "(visible.sum(-1) - 1).clamp(min=0)", "queries[None].expand(len(mask), -1)")


@fault("layers.0.self_attn.q_rot", "pair layout")
def neighbours_rotated_not_halves(model):
    neighbours = "torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)"
    return rewritten(model, "torch.cat((-second, first), dim=-1)", neighbours)


@fault("layers.0.self_attn.q_rot", "other way")
def rotated_the_other_way(model):
    return rewritten(model, "torch.cat((-second, first), dim=-1)", "torch.cat((second, -first), dim=-1)")


@fault("layers.0.self_attn.q_rot", "computed in float32", dtypes=LOW_PRECISION)
def rotated_in_float32(model):
    return rewritten(
        model,
        "return rotated + torch.cat((-second, first), dim=-1) * sin",
        "return (x.float() * cos + torch.cat((-second, first), dim=-1).float() * sin).to(x.dtype)",
    )


@fault("layers.0.self_attn.k_rot", "not rotated")
def keys_not_rotated(model):
    return rewritten(model, "q, k = rotate(q, *rotation), rotate(k, *rotation)", "q = rotate(q, *rotation)")


@fault("layers.0.self_attn.k_rot", "rotated twice")
def keys_rotated_twice(model):
    return rewritten(model, "rotate(k, *rotation)", "rotate(rotate(k, *rotation), *rotation)")


@fault("layers.0.self_attn.values")
def values_rotated_too(model):
    return rewritten(
        model,
        "q, k = rotate(q, *rotation), rotate(k, *rotation)",
        "q, k, v = (rotate(x, *rotation) for x in (q, k, v))",
    )


@fault("layers.2.self_attn.q_rot", "rope_theta 1e+06")
def theta_of_one_layer(model):
    rope = plain_rope(dataclasses.replace(model.config, rope_theta=1e6))

    def with_other_rotation(module, args):
        x, positions = args[0], torch.arange(args[0].shape[1])[None]
        return x, tuple(part.to(x.dtype) for part in rope(positions)), *args[2:]

    model.layers[2].self_attn.register_forward_pre_hook(with_other_rotation)


# Attention


@fault("layers.0.self_attn.attn_output", mode="steps")
def scaled_wrongly_without_the_attention_function(model):
    return rewritten(model, "self.attend(q, k, v, visible, *positions)", "attend_sdpa(q * 1.5, k, v, visible)")


@fault("layers.1.self_attn.scores", "scale")
def scale_left_out(model):
    set_attention(model, 1, eager_with(scale=1.0))


@fault("layers.2.self_attn.scores", "kv-head order")
def kv_heads_tiled(model):
    set_attention(model, 2, eager_with(tiled=True))


@fault("layers.0.self_attn.scores", "mask offset")
def mask_shifted_by_one(model):
    set_attention(model, 0, eager_with(shift=1))


@fault("layers.3.self_attn.scores", "mask offset")
def no_query_sees_itself(model):
    set_attention(model, 3, eager_with(shift=-1))


def softmax_in_the_dtype_of_the_scores(scores: Tensor) -> Tensor:
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


@fault("layers.1.self_attn.attn_output", "softmax not upcast", dtypes=LOW_PRECISION)
def softmax_not_upcast(model):
    set_attention(model, 1, eager_with(softmax=softmax_in_the_dtype_of_the_scores))


@fault("layers.1.self_attn.attn_output", "scale")
def fused_kernel_without_the_scale(model):
    set_attention(model, 1, lambda q, k, v, mask: attend_sdpa(q * q.shape[3] ** 0.5, k, v, mask))


@fault("layers.0.self_attn.attn_output", "padding mask is ignored", mode="ragged")
def padding_visible(model):
    return rewritten(
        model,
        "(visible | (index == queries[:, None]))[:, None]",
        "(index <= queries[:, None]).expand(len(mask), 1, -1, -1)",
    )


@fault("layers.0.self_attn.attn_output", "aligned to the first key", mode="chunks")
def mask_aligned_to_the_first_key(model):
    return rewritten(
        model,
        "visible = index <= queries[:, None]",
        "visible = index <= index[:T, None]",
    )


@fault("layers.0.self_attn.o_proj", "heads not moved back")
def heads_not_moved_back(model):
    return rewritten(model, "mixed.transpose(1, 2).flatten(2)", "mixed.reshape(mixed.shape[0], mixed.shape[2], -1)")


# Keys and values are moved inside attention, so only its result shows the fault.


@fault("layers.1.self_attn.scores", "one token late")
def keys_late(model):
    set_attention(model, 1, lambda q, k, v, mask: eager_with()(q, k.roll(1, 2), v, mask))


@fault("layers.1.self_attn.attn_output", "one token late, of the values only")
def values_late(model):
    set_attention(model, 1, lambda q, k, v, mask: eager_with()(q, k, v.roll(1, 2), mask))


@fault("layers.2.self_attn.scores", "first row")
def first_row_for_all_rows(model):
    set_attention(model, 2, lambda q, k, v, mask: eager_with()(q, k[:1].expand_as(k), v[:1].expand_as(v), mask))


@fault("layers.1.self_attn.probabilities", "over the queries")
def softmax_over_the_queries(model):
    set_attention(model, 1, eager_with(softmax=lambda scores: scores.softmax(-2, dtype=torch.float32)))


@fault("layers.1.self_attn.scores", mode="chunks")
def window_in_one_layer(model):
    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        T, S = q.shape[2], k.shape[2]
        window = torch.ones(T, S, dtype=torch.bool).tril(S - T).triu(S - T - 3)
        return attend_eager(q, k, v, window)

    set_attention(model, 1, attend)


# KV cache


@fault("layers.2.self_attn.keys", "stale cache", mode="steps")
def stale_cache_entry(model):
    def overwrite_an_entry(module, args):
        cache = args[3]
        if cache.start > 2:
            cache.keys[:, :, 2] = cache.keys[:, :, 1]

    model.layers[2].register_forward_pre_hook(overwrite_an_entry)


@fault("layers.1.self_attn.keys", "stale cache", mode="steps")
def cached_keys_of_another_row(model):
    def exchange_rows(module, args):
        cache = args[3]
        cache.keys[:, :, : cache.start] = cache.keys[:, :, : cache.start].flip(0)

    model.layers[1].register_forward_pre_hook(exchange_rows)


@fault("layers.1.self_attn.keys", "stale cache", mode="steps")
def two_layers_share_a_cache(model):
    new_cache = model.new_cache

    def new_shared_cache(*args, **more):
        cache = new_cache(*args, **more)
        cache.keys[2] = cache.keys[1]
        return cache

    model.new_cache = new_shared_cache


@fault("layers.1.self_attn.keys", "was not written", mode="steps")
def newest_key_not_written(model):
    def append(cache, k, v):
        all_keys, all_values = cache.append(k, v)
        all_keys[:, :, -1] = 0
        return all_keys, all_values

    set_append(model, 1, append)


@fault("layers.2.self_attn.keys", "rounded to bfloat16", mode="steps", dtypes=("float32",))
def keys_rounded_in_the_cache(model):
    set_append(model, 2, lambda cache, k, v: cache.append(k.bfloat16().to(k.dtype), v))


@fault("layers.0.self_attn.keys", "first row", mode="chunks")
def keys_of_one_row_for_all(model):
    set_append(model, 0, lambda cache, k, v: cache.append(k[:1].expand_as(k), v))


# MLP and residual stream


@fault("layers.0.mlp.mlp_act", "gelu")
def gelu(model):
    return rewritten(model, "F.silu(self.gate_proj(x))", "F.gelu(self.gate_proj(x))")


@fault("layers.0.mlp.mlp_act", "gate and up exchanged")
def gate_and_up_exchanged(model):
    old, new = "F.silu(self.gate_proj(x)) * self.up_proj(x)", "F.silu(self.up_proj(x)) * self.gate_proj(x)"
    return rewritten(model, old, new)


@fault("layers.0.mlp.mlp_act", "sigmoid")
def sigmoid(model):
    return rewritten(model, "F.silu(self.gate_proj(x))", "self.gate_proj(x).sigmoid()")


@fault("layers.0", "it adds to layers.0.post_attention_layernorm")
def residual_of_the_mlp_from_its_norm(model):
    return rewritten(
        model,
        "return x + self.mlp(self.post_attention_layernorm(x))",
        "x = self.post_attention_layernorm(x)\n        return x + self.mlp(x)",
    )


@fault("layers.0.after_attention", "residual is left out")
def residual_around_attention_left_out(model):
    return rewritten(model, "x = x + self.self_attn(", "x = self.self_attn(")


@fault("layers.0.post_attention_layernorm", "not run")
def one_norm_for_attention_and_mlp(model):
    return rewritten(
        model,
        "x = x + self.self_attn(self.input_layernorm(x), rotation, visible, cache, *positions, packed=packed)\n"
        "        return x + self.mlp(self.post_attention_layernorm(x))",
        "h = self.input_layernorm(x)\n        return x + self.self_attn(h, rotation, visible, cache) + self.mlp(h)",
    )


@fault("layers.0.post_attention_layernorm", "not run")
def first_norm_used_twice(model):
    return rewritten(model, "self.mlp(self.post_attention_layernorm(x))", "self.mlp(self.input_layernorm(x))")


@fault("layers.0.mlp.gate_proj", "its input is layers.0.after_attention")
def mlp_without_its_norm(model):
    old, new = "self.mlp(self.post_attention_layernorm(x))", "self.mlp((self.post_attention_layernorm(x), x)[1])"
    return rewritten(model, old, new)


@fault("layers.1")
def rows_exchanged_after_a_layer(model):
    model.layers[1].register_forward_hook(lambda module, args, out: out.flip(0))


@fault("layers.0.after_attention", "kept in float32", dtypes=LOW_PRECISION)
def residual_stream_in_float32(model):
    other = rewritten(model, "return weight * y.to(x.dtype)", "return weight * y.to(weight.dtype)")
    other.layers[0].register_forward_pre_hook(lambda module, args: (args[0].float(), *args[1:]))
    return other


# Layers, embeddings and logits


def with_layers(model: Llama, order: tuple[int, ...]) -> nn.Module:
    """A model that runs its layers in this order."""
    old, new = "enumerate(self.layers)", f"((n, self.layers[n]) for n in {order})"
    return rewritten(model, f"for i, layer in {old}:", f"for i, layer in {new}:")


@fault("layers.1.input_layernorm", "its input is layers.2")
def layers_in_another_order(model):
    return with_layers(model, (0, 2, 1, 3))


@fault("layers.1", "run 2 times")
def layer_run_twice(model):
    return with_layers(model, (0, 1, 1, 2, 3))


@fault("layers.2", "not run")
def last_layers_left_out(model):
    return with_layers(model, (0, 1))


@fault("embed_tokens", "square root")
def embeddings_scaled(model):
    model.embed_tokens.register_forward_hook(lambda module, args, out: out * out.shape[-1] ** 0.5)


@fault("embed_tokens", "double BOS")
def double_bos(model):
    def with_bos(module, args):
        ids, bos = args[0], model.config.bos_token_id
        return torch.cat((torch.full_like(ids[:, :1], bos), ids[:, :-1]), 1), *args[1:]

    model.register_forward_pre_hook(with_bos)


@fault("norm", "no norm")
def last_norm_left_out(model):
    model.norm.norm = lambda x, weight, eps: x


@fault("logits", "shifted")
def logits_one_token_late(model):
    model.register_forward_hook(lambda module, args, out: out.roll(1, 1))


@fault("logits", "capped softly at 30")
def logits_capped(model):
    model.register_forward_hook(lambda module, args, out: 30 * torch.tanh(out / 30))
