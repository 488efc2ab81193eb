"""Mistakes to make on purpose, one at a time, each with the place where it has to be found."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import llama_jp.model
from llama_jp.cache import LayerCache
from llama_jp.model import Llama, repeat_heads
from llama_jp.rope import cos_sin, inverse_frequencies, plain_rope


@dataclasses.dataclass
class Fault:
    """`make(model)` breaks a model, or returns another one in its place."""

    name: str
    operation: str  # where the bug is, as parity names it
    cause: str  # a part of the cause that has to be named; "" where none is known
    make: Callable[[Llama], nn.Module | None]
    mode: str = "whole"
    dtypes: tuple[str, ...] = ("float32", "bfloat16")

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


FAULTS: list[Fault] = []


def fault(name: str, operation: str, cause: str = "", **more):
    def add(make: Callable[[Llama], nn.Module | None]):
        FAULTS.append(Fault(name, operation, cause, make, **more))
        return make

    return add


def rewritten(old: str, new: str) -> Callable[[Llama], nn.Module]:
    """A copy of model.py with one thing changed, over the same weights."""

    def make(model: Llama) -> nn.Module:
        source = Path(llama_jp.model.__file__).read_text(encoding="utf-8")
        assert source.count(old) == 1, old
        copy = types.ModuleType("llama_jp.changed")
        copy.__package__ = "llama_jp"
        import sys

        sys.modules[copy.__name__] = copy  # dataclasses look their module up
        exec(compile(source.replace(old, new), "changed.py", "exec"), copy.__dict__)
        other = copy.Llama.from_pretrained(model.folder, dtype=model.embed_tokens.weight.dtype, device="cpu")
        return other

    return make


def with_attention(layer: int, attention: Callable) -> Callable[[Llama], None]:
    def make(model: Llama) -> None:
        model.layers[layer].self_attn.attend = attention

    return make


def weights(change: Callable[[Llama], None]) -> Callable[[Llama], None]:
    def make(model: Llama) -> None:
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # they are mapped from the file
        with torch.no_grad():
            change(model)

    return make


# ---- weights

L = "layers.{}.{}".format


@fault("transposed o_proj", "layers.1.self_attn.o_proj", "transposed")
@weights
def _(model):
    weight = model.layers[1].self_attn.o_proj.weight
    weight.copy_(weight.T.clone())


@fault("layers exchanged", "layers.1.input_layernorm", "holds layers.2")
@weights
def _(model):
    model.layers[1], model.layers[2] = model.layers[2], model.layers[1]


@fault("tied head", "lm_head", "tied head")
@weights
def _(model):
    model.lm_head.weight = model.embed_tokens.weight


@fault("gate and up weights exchanged", "layers.2.mlp.gate_proj", "holds layers.2.mlp.up_proj")
@weights
def _(model):
    mlp = model.layers[2].mlp
    mlp.gate_proj, mlp.up_proj = mlp.up_proj, mlp.gate_proj


@fault("q rows in Meta's order", "layers.1.self_attn.q_proj", "row order")
@weights
def _(model):
    weight = model.layers[1].self_attn.q_proj.weight
    weight.copy_(weight.view(4, 2, 8, 64).transpose(1, 2).reshape(64, 64))


@fault("one number of one weight", "layers.3.mlp.down_proj", "other values")
@weights
def _(model):
    model.layers[3].mlp.down_proj.weight[5, 7] *= 1.5


@fault("one norm weight left at one", "layers.2.post_attention_layernorm", "all one")
@weights
def _(model):
    model.layers[2].post_attention_layernorm.weight.fill_(1)


@fault("eight bits", "layers.1.mlp.up_proj", "quantised")
@weights
def _(model):
    weight = model.layers[1].mlp.up_proj.weight
    step = weight.abs().amax(1, keepdim=True) / 7
    weight.copy_((weight / step).round() * step)


@fault("one layer rounded to bfloat16", "layers.2.mlp.gate_proj", "rounded to bfloat16", dtypes=("float32", "float16"))
@weights
def _(model):
    weight = model.layers[2].mlp.gate_proj.weight
    weight.copy_(weight.bfloat16())


@fault("norms of a layer exchanged", "layers.1.input_layernorm", "holds layers.1.post_attention_layernorm")
@weights
def _(model):
    layer = model.layers[1]
    layer.input_layernorm, layer.post_attention_layernorm = layer.post_attention_layernorm, layer.input_layernorm


@fault("one down_proj in two layers", "layers.2.mlp.down_proj", "holds layers.1.mlp.down_proj")
@weights
def _(model):
    model.layers[2].mlp.down_proj = model.layers[1].mlp.down_proj


# ---- norms


@fault("eps of one layer", "layers.2.input_layernorm", "eps 1e-05", dtypes=("float32",))
def _(model):
    model.layers[2].input_layernorm.eps *= 10


@fault("eps of the last norm", "norm", "eps 0.001", dtypes=("float32", "bfloat16"))
def _(model):
    model.norm.eps *= 1000


@fault("no mean of squares but a sum", "layers.1.post_attention_layernorm", "sum")
def _(model):
    model.layers[1].post_attention_layernorm.norm = lambda x, w, eps: (
        llama_jp.model.rms_norm(x, w, eps) * x.shape[-1] ** -0.5
    )


@fault("norm weight before the cast", "layers.0.input_layernorm", "cast order", dtypes=("bfloat16", "float16"))
def _(model):
    return rewritten("return weight * y.to(x.dtype)", "return (weight * y).to(x.dtype)")(model)


@fault("norm not in float32", "layers.0.input_layernorm", "computed in bfloat16", dtypes=("bfloat16",))
def _(model):
    return rewritten("y = x.to(torch.float32)", "y = x")(model)


@fault("mean subtracted", "layers.0.input_layernorm", "mean is subtracted")
def _(model):
    return rewritten("y = x.to(torch.float32)", "y = x.to(torch.float32) - x.float().mean(-1, keepdim=True)")(model)


# ---- rotation


@fault("theta", "rope.cos", "rope_theta 500000")
def _(model):
    model.rope = plain_rope(dataclasses.replace(model.config, rope_theta=5e5))


@fault("theta twice as large", "rope.cos", "rope_theta 20000")
def _(model):
    model.rope = plain_rope(dataclasses.replace(model.config, rope_theta=2e4))


@fault("frequencies in bfloat16", "rope.cos", "rounded to bfloat16")
def _(model):
    rounded = inverse_frequencies(model.config.rope_theta, model.config.head_dim).bfloat16().float()
    model.rope = lambda positions: cos_sin(positions, rounded)


@fault("cos and sin in bfloat16", "rope.cos", "bfloat16", dtypes=("float32",))
def _(model):
    rope = model.rope
    model.rope = lambda positions: tuple(part.bfloat16() for part in rope(positions))


@fault("positions from one", "rope.cos", "position offset")
def _(model):
    rope = model.rope
    model.rope = lambda positions: rope(positions + 1)


@fault("an off-by-one in the second chunk", "rope.cos", "position offset", mode="chunks")
def _(model):
    rope = model.rope
    model.rope = lambda positions: rope(positions - 1 if positions[0, 0] else positions)


@fault("neighbours turned, not halves", "layers.0.self_attn.q_rot", "pair layout")
def _(model):
    return rewritten(
        "torch.cat((-second, first), dim=-1)", "torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)"
    )(model)


@fault("turned the other way", "layers.0.self_attn.q_rot", "other way")
def _(model):
    return rewritten("torch.cat((-second, first), dim=-1)", "torch.cat((second, -first), dim=-1)")(model)


@fault("keys not rotated", "layers.0.self_attn.k_rot", "not rotated")
def _(model):
    return rewritten("q, k = rotate(q, *rotation), rotate(k, *rotation)", "q = rotate(q, *rotation)")(model)


@fault("angles in bfloat16", "rope.cos", "angles, and so cos and sin, computed in bfloat16")
def _(model):
    frequencies = inverse_frequencies(model.config.rope_theta, model.config.head_dim).bfloat16()

    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[..., None].bfloat16() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    model.rope = rope


@fault("padding counted", "rope.cos", "padding counted", mode="ragged")
def _(model):
    return rewritten("(tokens.cumsum(-1) - 1).clamp(min=0)", "index[None].expand(len(tokens), -1)")(model)


@fault("rotated in float32", "layers.0.self_attn.q_rot", "computed in float32", dtypes=("bfloat16", "float16"))
def _(model):
    return rewritten(
        "return x * cos + torch.cat((-second, first), dim=-1) * sin",
        "return (x.float() * cos + torch.cat((-second, first), dim=-1).float() * sin).to(x.dtype)",
    )(model)


@fault("keys rotated twice", "layers.0.self_attn.k_rot", "rotated twice")
def _(model):
    return rewritten("rotate(k, *rotation)", "rotate(rotate(k, *rotation), *rotation)")(model)


@fault("another theta in one layer", "layers.2.self_attn.q_rot", "rope_theta 1e+06")
def _(model):
    other = plain_rope(dataclasses.replace(model.config, rope_theta=1e6))

    def local(module, args):
        positions = torch.arange(args[0].shape[1])[None]
        return args[0], tuple(part.to(args[0].dtype) for part in other(positions)), *args[2:]

    model.layers[2].self_attn.register_forward_pre_hook(local)


@fault("values rotated too", "layers.0.self_attn.values")
def _(model):
    return rewritten(
        "q, k = rotate(q, *rotation), rotate(k, *rotation)", "q, k, v = (rotate(x, *rotation) for x in (q, k, v))"
    )(model)


# ---- attention


def changed(scale=None, tiled=False, shift=0, softmax=None):
    def attend(q, k, v, mask):
        H, T, S = q.shape[1], q.shape[2], k.shape[2]
        visible = torch.ones(T, S, dtype=torch.bool).tril(S - T + shift) if mask is None or shift else mask
        spread = (lambda x: x.repeat(1, H // x.shape[1], 1, 1)) if tiled else (lambda x: repeat_heads(x, H))
        scores = q @ spread(k).transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale)
        scores = scores.masked_fill(~visible, torch.finfo(q.dtype).min)
        done = softmax(scores) if softmax else scores.softmax(-1, dtype=torch.float32)
        return done.to(q.dtype) @ spread(v)

    return attend


def softmax_by_hand(scores):
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


@fault("attention past its seam, scaled wrongly", "layers.0.self_attn.mixed", mode="steps")
def _(model):
    return rewritten("mixed = self.attend(q, k, v, visible)", "mixed = attend_sdpa(q * 1.5, k, v, visible)")(model)


fault("scale dropped", "layers.1.self_attn.scores", "scale")(with_attention(1, changed(scale=1.0)))
fault("kv heads tiled", "layers.2.self_attn.scores", "kv-head order")(with_attention(2, changed(tiled=True)))
fault("mask shifted by one", "layers.0.self_attn.scores", "mask offset")(with_attention(0, changed(shift=1)))
fault("no query sees itself", "layers.3.self_attn.scores", "mask offset")(with_attention(3, changed(shift=-1)))
fault("softmax not upcast", "layers.1.self_attn.mixed", "softmax not upcast", dtypes=("bfloat16", "float16"))(
    with_attention(1, changed(softmax=softmax_by_hand))
)
fault("a fused kernel without the scale", "layers.1.self_attn.mixed", "scale")(
    with_attention(1, lambda q, k, v, mask: llama_jp.model.attend_sdpa(q * q.shape[3] ** 0.5, k, v, mask))
)


@fault("padding seen", "layers.0.self_attn.mixed", "padding mask is ignored", mode="ragged")
def _(model):
    return rewritten("visible = (visible & tokens[:, None, None, :]) | itself  # (B, 1, T, S)", "pass")(model)


@fault("mask aligned to the first key", "layers.0.self_attn.mixed", "aligned to the first key", mode="chunks")
def _(model):
    return rewritten(
        "visible = (index <= index[S - T :, None])[None, None]", "visible = (index <= index[:T, None])[None, None]"
    )(model)


@fault("heads not moved back", "layers.0.self_attn.o_proj", "heads not moved back")
def _(model):
    return rewritten("mixed.transpose(1, 2).flatten(2)", "mixed.reshape(mixed.shape[0], mixed.shape[2], -1)")(model)


def with_moved(move) -> Callable:
    """Keys and values moved inside attention, where only its result shows it."""
    return lambda q, k, v, mask: changed()(q, *move(k, v), mask)


fault("keys late", "layers.1.self_attn.scores", "one token late")(
    with_attention(1, with_moved(lambda k, v: (k.roll(1, 2), v)))
)
fault("values late", "layers.1.self_attn.mixed", "one token late, of the values only")(
    with_attention(1, with_moved(lambda k, v: (k, v.roll(1, 2))))
)
fault("rows look at the first row", "layers.2.self_attn.scores", "first row")(
    with_attention(2, with_moved(lambda k, v: (k[:1].expand_as(k), v[:1].expand_as(v))))
)
fault("softmax over the queries", "layers.1.self_attn.probabilities", "over the queries")(
    with_attention(1, changed(softmax=lambda scores: scores.softmax(-2, dtype=torch.float32)))
)


@fault("a window in one layer", "layers.1.self_attn.scores", mode="chunks")
def _(model):
    def attend(q, k, v, mask):
        T, S = q.shape[2], k.shape[2]
        near = torch.ones(T, S, dtype=torch.bool).tril(S - T).triu(S - T - 3)
        return llama_jp.model.attend_eager(q, k, v, near)

    model.layers[1].self_attn.attend = attend


# ---- cache


@fault("stale cache entry", "layers.2.self_attn.keys", "stale cache", mode="steps")
def _(model):
    def stale(module, args):
        cache = args[3]
        if cache.start > 2:
            cache.keys[:, :, 2] = cache.keys[:, :, 1]

    model.layers[2].register_forward_pre_hook(stale)


@fault("cached keys of another row", "layers.1.self_attn.keys", "stale cache", mode="steps")
def _(model):
    def exchanged(module, args):
        cache = args[3]
        cache.keys[:, :, : cache.start] = cache.keys[:, :, : cache.start].flip(0)

    model.layers[1].register_forward_pre_hook(exchanged)


@fault("two layers share a cache", "layers.1.self_attn.keys", "stale cache", mode="steps")
def _(model):
    new_cache = model.new_cache

    def shared(*args, **more):
        cache = new_cache(*args, **more)
        cache.keys[2] = cache.keys[1]
        return cache

    model.new_cache = shared


def with_cache(layer: int, append: Callable) -> Callable[[Llama], None]:
    """Another way of writing one layer's keys and values down."""

    def make(model: Llama) -> None:
        class Changed(LayerCache):
            def append(self, k, v):
                return append(self, k, v)

        def changed(module, args):
            return (*args[:3], None if args[3] is None else Changed(*args[3]))

        model.layers[layer].self_attn.register_forward_pre_hook(changed)

    return make


def last_missing(cache, k, v):
    all_keys, all_values = LayerCache(*cache).append(k, v)
    all_keys[:, :, -1] = 0
    return all_keys, all_values


def rounded(cache, k, v):
    return LayerCache(*cache).append(k.bfloat16().to(k.dtype), v)


fault("the newest key is not written", "layers.1.self_attn.keys", "was not written", mode="steps")(
    with_cache(1, last_missing)
)
fault("keys rounded in the cache", "layers.2.self_attn.keys", "rounded to bfloat16", mode="steps", dtypes=("float32",))(
    with_cache(2, rounded)
)
fault("one row's keys for all", "layers.0.self_attn.keys", "first row", mode="chunks")(
    with_cache(0, lambda cache, k, v: LayerCache(*cache).append(k[:1].expand_as(k), v))
)


# ---- MLP and residual stream


@fault("gelu", "layers.0.mlp.mlp_act", "gelu")
def _(model):
    return rewritten("F.silu(self.gate_proj(x))", "F.gelu(self.gate_proj(x))")(model)


@fault("gate and up exchanged", "layers.0.mlp.mlp_act", "gate and up exchanged")
def _(model):
    return rewritten("F.silu(self.gate_proj(x)) * self.up_proj(x)", "F.silu(self.up_proj(x)) * self.gate_proj(x)")(
        model
    )


@fault("a gate of sigmoid", "layers.0.mlp.mlp_act", "sigmoid")
def _(model):
    return rewritten("F.silu(self.gate_proj(x))", "self.gate_proj(x).sigmoid()")(model)


@fault("residual of the MLP from its norm", "layers.0", "it adds to layers.0.post_attention_layernorm")
def _(model):
    return rewritten(
        "return x + self.mlp(self.post_attention_layernorm(x))",
        "x = self.post_attention_layernorm(x)\n        return x + self.mlp(x)",
    )(model)


@fault("one norm for attention and MLP", "layers.0.post_attention_layernorm", "not run")
def _(model):
    return rewritten(
        "x = x + self.self_attn(self.input_layernorm(x), rotation, visible, cache)\n"
        "        return x + self.mlp(self.post_attention_layernorm(x))",
        "h = self.input_layernorm(x)\n        return x + self.self_attn(h, rotation, visible, cache) + self.mlp(h)",
    )(model)


@fault("rows exchanged behind a layer", "layers.1")
def _(model):
    model.layers[1].register_forward_hook(lambda module, args, out: out.flip(0))


@fault("the stream in float32", "layers.0.after_attention", "kept in float32", dtypes=("bfloat16", "float16"))
def _(model):
    source = "return weight * y.to(x.dtype)"
    other = rewritten(source, "return weight * y.to(weight.dtype)")(model)
    other.layers[0].register_forward_pre_hook(lambda module, args: (args[0].float(), *args[1:]))
    return other


@fault("residual around attention left out", "layers.0.after_attention", "residual is left out")
def _(model):
    return rewritten("x = x + self.self_attn(", "x = self.self_attn(")(model)


@fault("MLP reads the stream without its norm", "layers.0.mlp.gate_proj", "its input is layers.0.after_attention")
def _(model):
    return rewritten(
        "x + self.mlp(self.post_attention_layernorm(x))", "x + self.mlp((self.post_attention_layernorm(x), x)[1])"
    )(model)


@fault("layers in another order", "layers.1.input_layernorm", "its input is layers.2")
def _(model):
    return rewritten(
        "for i, layer in enumerate(self.layers):", "for i, layer in ((n, self.layers[n]) for n in (0, 2, 1, 3)):"
    )(model)


@fault("a layer run twice", "layers.1", "run 2 times")
def _(model):
    return rewritten(
        "for i, layer in enumerate(self.layers):", "for i, layer in ((n, self.layers[n]) for n in (0, 1, 1, 2, 3)):"
    )(model)


@fault("the first norm used twice", "layers.0.post_attention_layernorm", "not run")
def _(model):
    return rewritten("self.mlp(self.post_attention_layernorm(x))", "self.mlp(self.input_layernorm(x))")(model)


@fault("a layer left out", "layers.2", "not run")
def _(model):
    return rewritten("for i, layer in enumerate(self.layers):", "for i, layer in enumerate(self.layers[:2]):")(model)


@fault("embeddings scaled", "embed_tokens", "square root")
def _(model):
    model.embed_tokens.register_forward_hook(lambda module, args, out: out * out.shape[-1] ** 0.5)


@fault("double BOS", "embed_tokens", "double BOS")
def _(model):
    bos = model.config.bos_token_id
    model.register_forward_pre_hook(
        lambda module, args: (torch.cat((torch.full_like(args[0][:, :1], bos), args[0][:, :-1]), 1), *args[1:])
    )


@fault("last norm left out", "norm", "no norm")
def _(model):
    model.norm.norm = lambda x, weight, eps: x


@fault("logits one token late", "logits", "shifted")
def _(model):
    model.register_forward_hook(lambda module, args, out: out.roll(1, 1))


@fault("logits capped", "logits", "capped softly at 30")
def _(model):
    model.register_forward_hook(lambda module, args, out: 30 * torch.tanh(out / 30))


@fault("a norm too large", "layers.2.input_layernorm", "1.1 times")
def _(model):
    model.layers[2].input_layernorm.register_forward_hook(lambda module, args, out: out * 1.1)
