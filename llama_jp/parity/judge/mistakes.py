"""Known mistakes: each recomputes one operation from the side's own inputs, wrongly in one particular way.

A mistake that gives what the side gave, where the right formula does not, is the likely cause: to the bit, or at least
far more nearly than the right formula does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import attend_sdpa, positions_and_mask, repeat_heads
from ...rope import cos_sin, inverse_frequencies, plain_rope
from .formulas import Site, flat, heads_of, norm, turn, written_probabilities

Mistake = tuple[str, Callable[[], Tensor]]

LOW = (torch.bfloat16, torch.float16)


def mistakes(site: Site) -> Iterator[Mistake]:
    """(what went wrong, a function that does the same wrong), likeliest first."""
    yield from TABLE.get(site.op.kind, lambda site: ())(site)


def right(site: Site) -> Iterator[Tensor]:
    """The formula as this project has it, in the side's dtype: what a clean side gives, to the bit where the kernel is
    the same. Attention has two such forms; products have none."""
    kind = site.op.kind
    if kind == "embedding":
        yield site.parameter()[site.ids]
    elif kind == "rope":
        yield rope_part(site, *site.rope())
    elif kind == "norm":
        yield norm(site.inputs[0], site.parameter(), site.config.rms_norm_eps)
    elif kind == "rotate":
        yield turn(heads_of(site.inputs[0], site.config.head_dim), *site.rotation)
    elif kind == "softmax":
        yield site.inputs[0].softmax(-1, dtype=torch.float32).to(site.out.dtype)
    elif kind == "mlp_act":
        yield F.silu(site.inputs[0]) * site.inputs[1]
    elif kind == "residual":
        yield site.inputs[0] + site.inputs[1]
    elif kind == "attention":
        q, k, v = site.inputs
        if (written := written_probabilities(site)) is not None:
            yield written.to(q.dtype) @ repeat_heads(v, q.shape[1])
        elif site.sample is None:
            yield attend_sdpa(q, k, v, positions_and_mask(site.call.mask, q.shape[2], k.shape[2], q.device)[1])
            yield attend(site)


def embedding_mistakes(site: Site) -> Iterator[Mistake]:
    ids, weight = site.ids, site.parameter()
    bos = site.config.bos_token_id
    if bos is not None:
        shifted = torch.cat((torch.full_like(ids[:, :1], bos), ids[:, :-1]), 1)
        yield "double BOS: the ids begin with one BOS more", lambda: weight[shifted]
    yield "the ids are one place early", lambda: weight[ids.roll(-1, 1)]
    yield "the ids are one place late", lambda: weight[ids.roll(1, 1)]
    yield "embeddings multiplied by the square root of the hidden size", lambda: weight[ids] * weight.shape[1] ** 0.5
    for step in (1, -1):
        yield f"every id is off by {step}", lambda step=step: weight[(ids + step) % len(weight)]


def rope_part(site: Site, cos: Tensor, sin: Tensor) -> Tensor:
    return (sin if site.op.name == "rope.sin" else cos).to(site.out.dtype)


def rope_mistakes(site: Site) -> Iterator[Mistake]:
    theta, D, positions = site.config.rope_theta, site.config.head_dim, site.positions

    def with_frequencies(change: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        return lambda: rope_part(site, *cos_sin(positions, change(inverse_frequencies(theta, D))))

    def with_theta(other: float) -> Callable[[], Tensor]:
        return lambda: rope_part(site, *plain_rope(dataclasses.replace(site.config, rope_theta=other))(positions))

    for low in LOW:
        name = str(low).removeprefix("torch.")
        yield (
            f"rotary frequencies (inv_freq) rounded to {name}, as by casting the model after loading",
            with_frequencies(lambda f, low=low: f.to(low).float()),
        )
        yield (
            f"angles, and so cos and sin, computed in {name}",
            lambda low=low: rope_part(site, *low_angles(positions, inverse_frequencies(theta, D), low)),
        )
        yield (
            f"cos and sin rounded to {name}",
            lambda low=low: rope_part(site, *(part.to(low) for part in site.rope())),
        )
        yield (
            f"positions rounded to {name}",
            lambda low=low: rope_part(site, *site.rope(positions.to(low).float())),
        )
    for step in (1, -1, site.ids.shape[1], -site.ids.shape[1]):
        yield f"position offset: every position is off by {step:+d}", lambda step=step: moved(site, positions + step)
    T, S = positions.shape[1], site.call.length
    if S > T:
        yield (
            "position offset: counted from zero in every call, past tokens forgotten",
            lambda: moved(site, torch.arange(T)[None]),
        )
    if site.call.mask is not None:
        yield "position offset: padding counted as tokens", lambda: moved(site, torch.arange(S - T, S)[None])
    known = (1e4, 5e5, 1e6, theta * 2, theta / 2, theta * 10, theta / 10, theta * 100, theta / 100, theta * 1.1, 1e3)
    for other in known if T > 1 or bool((positions > 0).any()) else ():
        if other != theta:
            yield f"rope_theta {other:g} where config.json has {theta:g}", with_theta(other)
    if site.config.rope_scaling:
        yield "rope_scaling ignored", lambda: rope_part(site, *plain_rope(site.config)(positions))
    for factor in (2, 4, 8, 0.5):
        yield f"positions divided by {factor:g}", with_frequencies(lambda f, factor=factor: f / factor)
    yield (
        "pair layout: angles repeated for neighbours (i, i + 1), not for halves (i, i + D/2)",
        lambda: rope_part(site, *neighbour_angles(positions, inverse_frequencies(theta, D))),
    )
    yield "frequencies in reverse order", with_frequencies(lambda f: f.flip(0))
    yield (
        "exponents i / D, not 2i / D",
        lambda: rope_part(site, *cos_sin(positions, 1 / theta ** (torch.arange(D // 2).float() / D))),
    )
    yield (
        "exponents 2i / (D - 2)",
        lambda: rope_part(site, *cos_sin(positions, 1 / theta ** (torch.arange(0, D, 2).float() / (D - 2)))),
    )
    yield "cos and sin exchanged", lambda: rope_part(site, *site.rope()[::-1])
    yield "sin with the wrong sign", lambda: rope_part(site, site.rope()[0], -site.rope()[1])
    yield "no rotation", lambda: rope_part(site, *(part for part in site.rope(torch.zeros_like(positions))))


def low_angles(positions: Tensor, frequencies: Tensor, low: torch.dtype) -> tuple[Tensor, Tensor]:
    angles = positions[..., None].to(low) * frequencies.to(low)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def neighbour_angles(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    angles = (positions[..., None].float() * frequencies).repeat_interleave(2, -1)
    return angles.cos(), angles.sin()


def moved(site: Site, positions: Tensor) -> Tensor:
    return rope_part(site, *site.rope(positions.clamp(min=0)))


def norm_mistakes(site: Site) -> Iterator[Mistake]:
    (x,), weight, eps = site.inputs, site.parameter(), site.config.rms_norm_eps
    usual = (eps * 10, eps / 10, 1e-5, 1e-6, 1e-8, 0.0, eps * 100, eps * 1000, 1e-12, eps * 2)
    for other in dict.fromkeys((*usual, solved_eps(site))):
        if other != eps:
            yield f"eps {other:g} where config.json has {eps:g}", lambda other=other: norm(x, weight, other)
    yield (
        "norm cast order: the weight is multiplied before the cast back, not after",
        lambda: norm(x, weight, eps, late=True),
    )
    if x.dtype != torch.float32:
        yield (
            f"computed in {str(x.dtype).removeprefix('torch.')}, not in float32",
            lambda: norm(x, weight, eps, x.dtype),
        )
    yield "the weight is left out", lambda: norm(x, torch.ones_like(weight), eps)
    yield "the weight is 1 + weight", lambda: norm(x, 1 + weight, eps)
    yield (
        "eps added after the root",
        lambda: weight * (x / (x.float().pow(2).mean(-1, keepdim=True).sqrt() + eps)).to(x.dtype),
    )
    yield (
        "LayerNorm: the mean is subtracted",
        lambda: F.layer_norm(x.float(), x.shape[-1:], None, None, eps).to(x.dtype) * weight,
    )
    yield "L2 norm: a sum where the mean should be", lambda: norm(x, weight, eps) * x.shape[-1] ** -0.5
    yield "no norm at all", lambda: x
    for name in site.like_input():
        yield f"it reads {name}, not {site.op.inputs[0]}", lambda name=name: norm(site.at(name), weight, eps)
    for name, tensor in site.weights.items():
        if tensor.shape == weight.shape and name != f"{site.op.weight}.weight" and not torch.equal(tensor, weight):
            yield f"it uses {name}", lambda tensor=tensor: norm(x, tensor, eps)


def solved_eps(site: Site) -> float:
    """The eps with which this output would be right, to two digits."""
    x, y = site.inputs[0].double(), site.out.double()
    scaled = x * site.parameter().double()
    factor = (y * scaled).sum(-1) / scaled.square().sum(-1)
    return max(0.0, float(f"{float((factor**-2 - x.square().mean(-1)).median()):.2g}"))


def linear_mistakes(site: Site) -> Iterator[Mistake]:
    weight, bias = site.parameter(), site.parameter("bias")
    x = site.inputs[0]
    if bias is not None:
        yield "the bias is left out", lambda: F.linear(flat(x), weight)
    if x.dim() == 4:
        all_tokens = site.call.points[site.op.inputs[0]]
        yield (
            "heads not moved back behind the tokens before they are joined",
            lambda: F.linear(site.cut(all_tokens.reshape(len(all_tokens), all_tokens.shape[2], -1), 1), weight, bias),
        )
        yield "heads joined in reverse order", lambda: F.linear(flat(x.flip(1)), weight, bias)
        yield (
            "heads and their elements joined in the wrong order",
            lambda: F.linear(x.permute(0, 2, 3, 1).flatten(2), weight, bias),
        )
    if weight.shape[0] == weight.shape[1]:
        yield "transposed weight", lambda: F.linear(flat(x), weight.T, bias)
    for name, tensor in site.weights.items():
        if tensor.shape == weight.shape and name != f"{site.op.weight}.weight" and name.endswith("weight"):
            yield f"it uses {name}", lambda tensor=tensor: F.linear(flat(x), tensor, bias)
    for name in site.like_input():
        yield f"it reads {name}, not {site.op.inputs[0]}", lambda name=name: F.linear(flat(site.at(name)), weight, bias)


def rotate_mistakes(site: Site) -> Iterator[Mistake]:
    x, (cos, sin) = heads_of(site.inputs[0], site.config.head_dim), site.rotation
    yield "pair layout: neighbours (i, i + 1) are turned, not halves (i, i + D/2)", lambda: turn_neighbours(x, cos, sin)
    yield "pair layout: neighbours turned by the angles of halves", lambda: x * cos[:, None] + swapped(x) * sin[:, None]
    if x.dtype != torch.float32:
        for pair in (site.rotation, site.rope()):
            wide = [each.float() for each in (x, *pair)]
            yield "computed in float32 and rounded once", lambda wide=wide: turn(*wide).to(x.dtype)
    yield "not rotated", lambda: x
    yield "turned the other way", lambda: turn(x, cos, -sin)
    yield (
        "the halves are exchanged without the minus sign",
        lambda: x * cos[:, None] + torch.cat(x.chunk(2, -1)[::-1], -1) * sin[:, None],
    )
    yield "cos and sin exchanged", lambda: turn(x, sin, cos)
    yield "rotated twice", lambda: turn(turn(x, cos, sin), cos, sin)
    for step in (1, -1):
        yield (
            f"position offset: every position is off by {step:+d}",
            lambda step=step: turn(x, *(part.to(x.dtype) for part in site.rope((site.positions + step).clamp(min=0)))),
        )
    T = site.ids.shape[1]
    yield (
        "position offset: counted from zero in every call",
        lambda: turn(x, *(part.to(x.dtype) for part in site.rope(torch.arange(T)[None]))),
    )
    for other in (5e5, 1e6, site.config.rope_theta * 2, site.config.rope_theta / 2, site.config.rope_theta * 10):
        rope = plain_rope(dataclasses.replace(site.config, rope_theta=other))
        yield (
            f"rope_theta {other:g} where config.json has {site.config.rope_theta:g}",
            lambda rope=rope: turn(x, *(part.to(x.dtype) for part in rope(site.positions))),
        )
    for low in LOW:
        yield (
            f"cos and sin of this layer rounded to {str(low).removeprefix('torch.')}",
            lambda low=low: turn(x, cos.to(low).to(x.dtype), sin.to(low).to(x.dtype)),
        )
    yield "heads in reverse order", lambda: turn(x, cos, sin).flip(1)
    B, H, T, D = x.shape
    yield "(tokens, heads) viewed as (heads, tokens)", lambda: turn(x.transpose(1, 2).reshape(B, H, T, D), cos, sin)
    yield "scaled already, before the scores are", lambda: turn(x, cos, sin) * site.scale


def swapped(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., 0::2]), -1).flatten(-2)


def turn_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    cos, sin = (part[..., :half].repeat_interleave(2, -1) for part in (cos, sin))
    return x * cos[:, None] + swapped(x) * sin[:, None]


def remember_mistakes(site: Site) -> Iterator[Mistake]:
    new = site.inputs[0]
    new = new if new.dim() == 4 else heads_of(new, site.config.head_dim)
    past = new[:, :, :0] if site.past is None else site.past
    S, T, out, every = past.shape[2], new.shape[2], site.out, torch.cat((past, new), 2)
    yield "heads in reverse order", lambda: every.flip(1)
    yield "the first row's for all rows", lambda: every[:1].expand_as(every)
    yield "the first row's for all rows, of the new ones", lambda: torch.cat((past, new[:1].expand_as(new)), 2)
    for low in LOW:
        name = str(low).removeprefix("torch.")
        yield f"rounded to {name} in the cache", lambda low=low: every.to(low).to(every.dtype)
    yield "rotated like queries and keys", lambda: turn(new, *site.rotation)
    yield "rolled: the oldest entry is lost", lambda: every.roll(-1, 2)
    yield "one token late", lambda: every.roll(1, 2)
    yield "the new entries come before the old ones", lambda: torch.cat((new, past), 2)
    if S:
        yield "cache off by one: new entries overwrite the last old one", lambda: shifted_cache(past, new, out)
        yield "the old entries are forgotten", lambda: torch.cat((torch.zeros_like(past), new), 2)
    if out.shape[2] == S + T:
        same = (out[:, :, :S] == past).flatten(3).all(-1).all(1).all(0)
        if not bool(same.all()):
            wrong = (~same).nonzero().flatten().tolist()
            patched = torch.cat((torch.where(same[None, None, :, None], past, out[:, :, :S]), new), 2)
            yield f"stale cache: entry {', '.join(map(str, wrong[:6]))} is not what was written there", lambda: patched
        fresh = (out[:, :, S:] == new).flatten(3).all(-1).all(1).all(0)
        if bool(same.all()) and not bool(fresh.all()) and S + int(fresh.sum()):  # some are right
            wrong = (S + (~fresh).nonzero().flatten()).tolist()
            yield f"stale cache: entry {', '.join(map(str, wrong[:6]))} was not written in this call", lambda: out


def shifted_cache(past: Tensor, new: Tensor, out: Tensor) -> Tensor:
    S, T = past.shape[2], new.shape[2]
    wrong = out.clone()
    wrong[:, :, :S], wrong[:, :, S - 1 : S - 1 + T] = past, new
    return wrong


def score_mistakes(site: Site) -> Iterator[Mistake]:
    """Of the scores: compared through their softmax's input, so hidden entries count as well."""
    q, k = site.inputs
    lowest = torch.finfo(q.dtype).min

    def scores(scale=site.scale, visible=None, heads=None):
        visible = site.visible if visible is None else visible
        keys = repeat_heads(k, q.shape[1]) if heads is None else heads(k)
        found = q @ keys.transpose(2, 3) * scale
        return found + torch.where(visible, torch.zeros((), dtype=q.dtype), lowest)

    yield from (
        (text, lambda change=change: scores(**change)) for text, change in attention_changes(site, q, k).items()
    )


def attention_changes(site: Site, q: Tensor, k: Tensor) -> dict[str, dict]:
    """What people get wrong between q, k and the scores: cause -> arguments that do the same."""
    H, D, C = q.shape[1], q.shape[3], site.config.hidden_size
    T, S = q.shape[2], k.shape[2]
    visible, causal = site.visible, torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None]
    changes: dict[str, dict] = {
        "the scale 1 / sqrt(D) is missing": {"scale": 1.0},
        "scaled twice": {"scale": D**-1.0},
        "scaled by the hidden size, not the head size": {"scale": C**-0.5},
        "scaled by 1 / D / 2": {"scale": (D // 2) ** -0.5},
        "multiplied by sqrt(D) where it should be divided": {"scale": D**0.5},
        "mask offset: each query sees one token of the future": {
            "visible": visible | visible.roll(1, -1).tril(S - T + 1)
        },
        "mask offset: no query sees itself": {"visible": visible & causal.new_ones(T, S).tril(S - T - 1)},
        "no mask: the future is seen": {"visible": torch.ones_like(visible)},
    }
    if site.call.mask is not None:
        changes["the padding mask is ignored"] = {"visible": causal}
    if S > T:
        changes["mask aligned to the first key, not the last: past tokens are hidden"] = {
            "visible": torch.ones(T, S, dtype=torch.bool).tril()[None, None]
        }
        changes["the causal mask covers only the new tokens: past tokens are hidden"] = {
            "visible": causal & (torch.arange(S) >= S - T)
        }
        changes["mask offset: the oldest token is hidden"] = {"visible": causal & (torch.arange(S) >= 1)}
    if k.shape[1] not in (1, H):
        tiled = "kv-head order: heads tiled (0 1 0 1), not repeated (0 0 1 1)"
        changes[tiled] = {"heads": lambda x: x.repeat(1, H // x.shape[1], 1, 1)}
    moved = {
        "kv-head order: reversed": lambda x: x.flip(1),
        "kv-head order: moved by one": lambda x: x.roll(1, 1),
        "kv-head order: the first for all": lambda x: x[:, :1].expand_as(x),
        "keys and values are one token late": lambda x: x.roll(1, 2),
        "keys and values are one token early": lambda x: x.roll(-1, 2),
        "every row looks at the first row": lambda x: x[:1].expand_as(x),
    }
    for text, move in moved.items():
        changes[text] = {"heads": lambda x, move=move: repeat_heads(move(x), H)}
    return changes


def softmax_mistakes(site: Site) -> Iterator[Mistake]:
    (scores,) = site.inputs
    for low in LOW:
        name = str(low).removeprefix("torch.")
        yield f"softmax not upcast: computed in {name}", lambda low=low: by_hand(scores.to(low)).to(site.out.dtype)
        yield f"softmax of scores rounded to {name}", lambda low=low: scores.to(low).softmax(-1).to(site.out.dtype)
    yield "softmax over the queries, not the keys", lambda: scores.softmax(-2)
    yield "softmax in base 2", lambda: (scores.float() * math.log(2)).softmax(-1)
    yield "a temperature of two", lambda: (scores.float() / 2).softmax(-1)
    yield "softmax with one more in the denominator", lambda: F.pad(scores.float(), (1, 0)).softmax(-1)[..., 1:]


def by_hand(scores: Tensor) -> Tensor:
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


def attend(
    site: Site,
    scale: float | None = None,
    visible: Tensor | None = None,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    softmax: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Attention written out, in the side's dtype, with parts exchanged."""
    q, k, v = site.inputs
    H = q.shape[1]
    keys = repeat_heads(k, H) if keys is None else keys
    values = repeat_heads(v, H) if values is None else values
    visible = site.visible if visible is None else visible
    hide = torch.where(visible, torch.zeros((), dtype=q.dtype), torch.finfo(q.dtype).min)
    scores = q @ keys.transpose(2, 3) * (site.scale if scale is None else scale) + hide
    softmax = softmax or (lambda scores: scores.softmax(-1, dtype=torch.float32).to(q.dtype))
    return softmax(scores) @ values


def attention_mistakes(site: Site) -> Iterator[Mistake]:
    q, k, v = site.inputs
    H = q.shape[1]
    if (written := written_probabilities(site)) is not None and q.dtype != torch.float32:
        yield (
            "probabilities not cast back: multiplied with the values in float32",
            lambda: (written.float() @ repeat_heads(v, H).float()).to(q.dtype),
        )
    for text, change in attention_changes(site, q, k).items():
        if heads := change.get("heads"):
            yield text, lambda heads=heads: attend(site, keys=heads(k), values=heads(v))
            yield f"{text}, of the keys only", lambda heads=heads: attend(site, keys=heads(k))
            yield f"{text}, of the values only", lambda heads=heads: attend(site, values=heads(v))
        else:
            yield text, lambda change=change: attend(site, **change)
    if q.dtype != torch.float32:
        yield (
            f"softmax not upcast: computed in {str(q.dtype).removeprefix('torch.')}",
            lambda: attend(site, softmax=by_hand),
        )
    for low in LOW:
        name = str(low).removeprefix("torch.")
        if low != q.dtype:
            yield (
                f"softmax computed in {name}",
                lambda low=low: attend(site, softmax=lambda s: s.to(low).softmax(-1).to(q.dtype)),
            )
            yield (
                f"softmax not upcast: computed in {name}",
                lambda low=low: attend(site, softmax=lambda s: by_hand(s.to(low)).to(q.dtype)),
            )
            yield (
                f"probabilities rounded to {name}",
                lambda low=low: attend(site, softmax=lambda s: s.softmax(-1, dtype=torch.float32).to(low).to(q.dtype)),
            )
    yield "softmax over the queries, not the keys", lambda: attend(site, softmax=lambda s: s.softmax(-2))
    yield "the values are the keys", lambda: attend(site, values=repeat_heads(k, H))
    yield "heads in reverse order", lambda: attend(site).flip(1)


def residual_mistakes(site: Site) -> Iterator[Mistake]:
    x, y = site.inputs
    yield "the residual is left out", lambda: y
    yield "what the block computed is left out", lambda: x
    yield "added twice", lambda: x + y + y
    yield "subtracted", lambda: x - y
    yield "halved", lambda: (x + y) * 0.5
    for name in site.like_input():
        yield f"it adds to {name}, not to {site.op.inputs[0]}", lambda name=name: site.at(name) + y


def gated_mistakes(site: Site) -> Iterator[Mistake]:
    gate, up = site.inputs
    yield "activation: gelu, not silu", lambda: F.gelu(gate) * up
    yield "activation: gelu (tanh), not silu", lambda: F.gelu(gate, approximate="tanh") * up
    yield "gate and up exchanged", lambda: F.silu(up) * gate
    yield "activation: relu, not silu", lambda: F.relu(gate) * up
    yield "activation: sigmoid, not silu", lambda: gate.sigmoid() * up
    yield "activation: quick gelu, not silu", lambda: gate * (1.702 * gate).sigmoid() * up
    yield "activation: tanh, not silu", lambda: gate.tanh() * up
    yield "activation left out", lambda: gate * up
    yield "up left out", lambda: F.silu(gate)
    yield "activation on both", lambda: F.silu(gate) * F.silu(up)
    yield "activation after the product", lambda: F.silu(gate * up)
    yield "activation: silu squared relu", lambda: F.relu(gate).square() * up
    yield "added, not multiplied", lambda: F.silu(gate) + up


def same_mistakes(site: Site) -> Iterator[Mistake]:
    x = site.inputs[0]
    yield "logits shifted by one token", lambda: x.roll(1, 1)
    yield "logits shifted by one token, the other way", lambda: x.roll(-1, 1)
    yield "logits of the last token for all", lambda: x[:, -1:].expand_as(x)
    yield "log-probabilities, not logits", lambda: x.log_softmax(-1)
    for cap in (30, 50, 20, 15):
        yield f"logits capped softly at {cap}", lambda cap=cap: cap * torch.tanh(x / cap)


TABLE: dict[str, Callable[[Site], Iterator[Mistake]]] = {
    "embedding": embedding_mistakes,
    "rope": rope_mistakes,
    "norm": norm_mistakes,
    "linear": linear_mistakes,
    "rotate": rotate_mistakes,
    "cache": remember_mistakes,
    "scores": score_mistakes,
    "softmax": softmax_mistakes,
    "attention": attention_mistakes,
    "residual": residual_mistakes,
    "mlp_act": gated_mistakes,
    "same": same_mistakes,
}
