"""What every operation should give, in float64 from the side's own inputs, and how far rounding may carry it away.

Each formula is written once and serves twice: in float64 it is the arbiter, in the side's dtype it is the replay that
tells which operations a side really used. An operation is judged on a sample of its tokens, and a product on a sample
of its columns: where the sides differ first, where they differ most, and some spread evenly. The bounds are those of
textbook error analysis: half an ULP for every rounding to the side's dtype, and float32 sums whose error grows with the
sum of the terms' sizes.
See: Higham, "Accuracy and Stability of Numerical Algorithms", chapters 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import LlamaConfig, repeat_heads
from ...rope import make_rope
from ..operations import Operation
from ..run.recording import CACHE_POINTS, Call

U32 = 2.0**-24  # half an ULP of float32, in which everything is summed
ROWS, TOKENS, COLUMNS = 4, 8, 48  # at most so many rows of the batch, tokens of a row, columns of a product are judged


@dataclass
class Site:
    """One operation of one side in one call, with everything its formula needs; or of some of its tokens."""

    op: Operation
    call: Call
    config: LlamaConfig
    weights: dict[str, Tensor] = field(default_factory=dict)  # the side's own
    beside: Call | None = None  # the other side's call
    sample: tuple[Tensor, Tensor] | None = None  # rows of the batch and tokens of the call; None: all

    def at(self, name: str, call: Call | None = None) -> Tensor:
        """What the side has at a point."""
        call = call or self.call
        x = call.points[name] if name in call.points else call.reconstructed[name]
        return x if self.sample is None else self.cut(x, 2 if x.dim() == 4 else 1, name.endswith(CACHE_POINTS))

    def cut(self, x: Tensor, dim: int, every: bool = False) -> Tensor:
        """The sample of x, whose tokens are numbered along `dim`; `every`: keep all tokens of the rows."""
        if self.sample is None:
            return x
        rows, tokens = self.sample
        x = x[rows] if x.shape[0] > 1 and rows.shape[0] < x.shape[0] else x
        return x if every or x.shape[dim] == tokens.shape[0] else x.index_select(dim, tokens)

    def whole(self) -> Site:
        return replace(self, sample=None)

    @cached_property
    def out(self) -> Tensor:
        return self.at(self.op.name)

    @cached_property
    def inputs(self) -> list[Tensor]:
        return [self.at(name) for name in self.op.inputs]

    def like_input(self) -> list[str]:
        """Other points where something of the first input's shape passes, that might have been read in its place."""
        first, points = self.op.inputs[0], self.call.points
        shape = flat_shape(points[first] if first in points else self.call.reconstructed[first])
        return [name for name, x in points.items() if flat_shape(x) == shape and name not in (first, self.op.name)]

    @property
    def other(self) -> Tensor | None:
        """What the other side has at this point, if that can be laid beside it."""
        there = None if self.beside is None else self.beside.points.get(self.op.name)
        if there is None or there.shape != self.call.points[self.op.name].shape:
            return None
        return self.at(self.op.name, self.beside)

    @cached_property
    def ids(self) -> Tensor:
        return self.cut(self.call.ids, 1)

    @cached_property
    def positions(self) -> Tensor:
        return self.cut(self.call.positions, 1)

    @cached_property
    def visible(self) -> Tensor:
        return self.cut(self.call.visible, 2)

    @cached_property
    def tokens(self) -> Tensor:
        return self.cut(self.call.tokens, 1)

    @cached_property
    def u(self) -> float:
        """Half an ULP, relative, of the dtype that this operation writes."""
        return torch.finfo(self.out.dtype).eps / 2

    @cached_property
    def tiny(self) -> float:
        """Half the smallest step there is near zero."""
        info = torch.finfo(self.out.dtype)
        return info.smallest_normal * info.eps

    def parameter(self, name: str = "weight") -> Tensor | None:
        return self.weights.get(f"{self.op.weight}.{name}")

    @property
    def scale(self) -> float:
        return self.config.head_dim**-0.5

    @property
    def past(self) -> Tensor | None:
        return self.call.past.get(self.op.name)

    def rope(self, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return make_rope(self.config)(self.positions if positions is None else positions)

    @property
    def rotation(self) -> tuple[Tensor, Tensor]:
        """The cos and sin that this side used, or should have."""
        points = self.call.points
        if "rope.cos" in points and "rope.sin" in points:
            return self.at("rope.cos"), self.at("rope.sin")
        cos, sin = self.rope()
        dtype = self.inputs[0].dtype
        return cos.to(dtype), sin.to(dtype)


@dataclass
class Both(Site):
    """One operation of both sides, laid one behind the other as rows of one batch: half the calls for the same sums."""

    halves: tuple[Site, ...] = ()

    def at(self, name: str, call: Call | None = None) -> Tensor:
        return self.together([half.at(name, call) for half in self.halves])

    def together(self, parts: list[Tensor]) -> Tensor:
        rows = self.halves[0].ids.shape[0]
        return torch.cat([x if x.shape[0] == rows else x.expand(rows, *x.shape[1:]) for x in parts])

    @cached_property
    def out(self) -> Tensor:
        return self.together([half.out for half in self.halves])

    @cached_property
    def inputs(self) -> list[Tensor]:
        return [self.together(parts) for parts in zip(*(half.inputs for half in self.halves), strict=True)]

    @cached_property
    def other(self) -> Tensor:
        return self.together([half.out for half in self.halves[::-1]])

    @cached_property
    def tokens(self) -> Tensor:
        return torch.cat([half.tokens for half in self.halves])


@dataclass
class Judged:
    """A side's result, the float64 result, and the distance that rounding explains; the places that were looked at."""

    out: Tensor
    exact: Tensor
    bound: Tensor

    @cached_property
    def excess(self) -> float:
        """The largest distance in units of its bound: up to 1 is rounding."""
        return self.excesses(1)[0]

    def excesses(self, sides: int) -> list[float]:
        """The same for each of the sides that were judged as one."""
        if not self.out.numel():
            return [0.0] * sides
        out = self.out.double()
        distance = torch.where(out == self.exact, 0.0, (out - self.exact).abs_())  # equal infinities
        return (distance / self.bound).nan_to_num_(nan=math.inf, posinf=math.inf).reshape(sides, -1).amax(1).tolist()

    @property
    def distance(self) -> float:
        """Mean distance from the float64 result, relative to its size."""
        out, exact, known = self.out.double(), self.exact, self.exact.isfinite()
        if not known.all():  # hidden scores are -inf
            out, exact = out[known], exact[known]
        size = float(exact.abs().mean())
        return float((out - exact).abs_().mean()) / size if size else 0.0


def judge(site: Site) -> Judged:
    judged = JUDGES[site.op.kind](site)
    if any(
        name in site.call.reconstructed for name in site.op.inputs
    ):  # rounded elsewhere, if the side computed it at all
        judged.bound = judged.bound + 16 * site.u * judged.exact.abs().amax(-1, keepdim=True)
    return judged


# ---- formulas, for any dtype


def norm(x: Tensor, weight: Tensor, eps: float, inner: torch.dtype = torch.float32, late: bool = False) -> Tensor:
    """RMSNorm in `inner` precision; `late`: the weight is multiplied before the cast back, not after."""
    y = x.to(inner)
    y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (weight.to(inner) * y).to(x.dtype) if late else weight * y.to(x.dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + D/2) of (B, H, T, D) by cos and sin (B, T, D)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


def weigh(q: Tensor, k: Tensor, visible: Tensor, scale: float) -> Tensor:
    """Scores of every query for every key; what it may not see is -inf."""
    scores = q @ repeat_heads(k, q.shape[1]).transpose(2, 3) * scale
    return scores.masked_fill(~visible, -math.inf)


def heads_of(x: Tensor, head_dim: int) -> Tensor:
    """(B, T, H * D) -> (B, H, T, D)."""
    return x.view(*x.shape[:2], -1, head_dim).transpose(1, 2)


def flat(x: Tensor) -> Tensor:
    """What a matrix product reads: (B, H, T, D) -> (B, T, H * D)."""
    return x.transpose(1, 2).flatten(2) if x.dim() == 4 else x


def flat_shape(x: Tensor) -> tuple[int, ...]:
    return (x.shape[0], x.shape[2], x.shape[1] * x.shape[3]) if x.dim() == 4 else tuple(x.shape)


# ---- the arbiter


def judge_embedding(site: Site) -> Judged:
    ids, weight = site.ids, site.parameter()
    exact = weight[ids].double()
    return only_tokens(site, site.out, exact, torch.full_like(exact, site.tiny))


def judge_rope(site: Site) -> Judged:
    positions = site.positions
    rope = make_rope(site.config)
    frequencies = rope.keywords["frequencies"] if isinstance(rope, partial) else None
    if frequencies is None:
        exact = rope(positions)[site.op.name == "rope.sin"].double()
    else:
        angles = positions[..., None].double() * frequencies.double()
        angles = torch.cat((angles, angles), -1)
        exact = (angles.sin() if site.op.name == "rope.sin" else angles.cos()) * rope.keywords.get("scale", 1.0)
    # float32 rounds an angle before its cosine is taken: an absolute error that grows with the position
    bound = site.u * 1.01 * exact.abs() + 4 * U32 * (1 + positions[..., None].double())
    return only_tokens(site, site.out, exact, bound)


def judge_norm(site: Site) -> Judged:
    (x,), weight = site.inputs, site.parameter()
    exact = norm(x.double(), weight.double(), site.config.rms_norm_eps, torch.float64)
    return only_tokens(site, site.out, exact, exact.abs() * (2.02 * site.u + 8 * U32) + 2 * site.tiny)


def judge_linear(site: Site) -> Judged:
    x, weight, bias = flat(site.inputs[0]), site.parameter(), site.parameter("bias")
    x, out = without_padding(site, x), without_padding(site, site.out)  # (N, in), (N, out)
    other = None if site.other is None else without_padding(site, site.other)
    apart = out.new_zeros(out.shape[1]) if other is None else (out - other).abs_().amax(0)
    columns = spread(apart, COLUMNS)
    out, weight = out.index_select(1, columns), weight.index_select(0, columns)
    bias = torch.zeros(()) if bias is None else bias[columns]
    # products of 16-bit numbers are exact in float32, and their sums as good as the side's own
    exactly, sums = (torch.float64, 1) if out.dtype.itemsize > 2 else (torch.float32, 2)
    x, weight, bias = (each.to(exactly) for each in (x, weight, bias))
    exact = x @ weight.T
    terms = x.abs() @ weight.abs().T
    bound = sums * sum_bound(terms, x.shape[1]) + 3 * site.u * (exact.abs() + bias.abs()) + 2 * site.tiny
    return Judged(out, (exact + bias).double(), bound.double())


def judge_rotate(site: Site) -> Judged:
    x = heads_of(site.inputs[0], site.config.head_dim)
    cos, sin = (each.double() for each in site.rotation)
    exact = turn(x.double(), cos, sin)
    halves = x.double().abs().chunk(2, -1)
    terms = x.double().abs() * cos.abs()[:, None] + torch.cat(halves[::-1], -1) * sin.abs()[:, None]
    return only_tokens(site, site.out, exact, 3 * site.u * terms + 3 * site.tiny)


def judge_remember(site: Site) -> Judged:
    """Keys and values are kept as they are: what was there before, then what is new."""
    new = site.inputs[0]
    new = new if new.dim() == 4 else heads_of(new, site.config.head_dim)
    exact = new if site.past is None else torch.cat((site.past, new), 2)
    out, exact = site.out.transpose(1, 2), exact.transpose(1, 2)  # (B, S, K, D)
    if torch.equal(out, exact):
        out, exact = out[:, -1:], exact[:, -1:]
    elif site.call.mask is not None:
        keep = site.call.mask.bool()
        out, exact = out[keep], exact[keep]
    return Judged(out, exact.double(), torch.full(exact.shape, site.tiny, dtype=torch.float64))


def judge_scores(site: Site) -> Judged:
    q, k = site.inputs
    out, visible = site.out, site.visible
    exact = weigh(q.double(), k.double(), visible, site.scale)
    terms = weigh(q.double().abs(), k.double().abs(), visible, site.scale)
    bound = sum_bound(terms, q.shape[-1]) + 3 * site.u * exact.abs() + 3 * site.tiny
    hidden = ~visible.expand(out.shape)
    # a hidden score is "very low", however it is written
    out = torch.where(hidden & (out.double() < -1e4), -math.inf, out.double())
    return at_tokens(site, out, exact, torch.where(hidden, 1.0, bound))


def judge_softmax(site: Site) -> Judged:
    (scores,) = site.inputs
    exact = scores.double().softmax(-1)
    spread = (scores.double() - scores.double().amax(-1, keepdim=True)).clamp(min=-100).abs()
    bound = exact * (2.02 * site.u + (24 + 2 * spread) * U32) + max(site.tiny, 1e-37)
    return at_tokens(site, site.out, exact, bound)


def judge_attention(site: Site) -> Judged:
    """From q, k, v; or, where attention wrote its probabilities down, from those and v."""
    q, k, v = site.inputs
    values = repeat_heads(v, q.shape[1]).double()
    if (written := written_probabilities(site)) is not None:
        p = written.double()
        relative = torch.full_like(p, 1.01 * site.u)
    else:
        visible = site.visible
        scores = weigh(q.double(), k.double(), visible, site.scale)
        terms = weigh(q.double().abs(), k.double().abs(), visible, site.scale)
        p = scores.softmax(-1)
        # an error in a score is a relative error in its probability, and through the sum in all others
        wrong = torch.where(visible, 3 * site.u * scores.abs() + sum_bound(terms, q.shape[-1]) + 3 * site.tiny, 0.0)
        relative = wrong + (p * wrong).sum(-1, keepdim=True) + 3 * site.u + 32 * U32
    exact = p @ values
    bound = (p * relative) @ values.abs() + sum_bound(p @ values.abs(), p.shape[-1]) + 2 * site.u * exact.abs()
    lost = p.shape[-1] * site.tiny * float(values.abs().max())  # probabilities too small for the dtype
    return at_tokens(site, site.out, exact, bound + lost + site.tiny)


def written_probabilities(site: Site) -> Tensor | None:
    """The probabilities that attention wrote down, if it did so in the usual shape."""
    q, k, _ = site.inputs
    name = site.op.name.replace("attn_output", "probabilities")
    written = site.at(name) if name in site.call.points else None
    return None if written is None or written.shape != (*q.shape[:3], k.shape[2]) else written


def judge_residual(site: Site) -> Judged:
    x, y = (each.double() for each in site.inputs)
    exact = x + y
    return only_tokens(site, site.out, exact, 1.01 * site.u * exact.abs() + site.tiny)


def judge_gated(site: Site) -> Judged:
    gate, up = (each.double() for each in site.inputs)
    exact = F.silu(gate) * up
    bound = exact.abs() * (2.02 * site.u + 16 * U32) + site.tiny * (1 + up.abs())
    return only_tokens(site, site.out, exact, bound)


def judge_same(site: Site) -> Judged:
    exact = site.inputs[0].double()
    return only_tokens(site, site.out, exact, site.u * exact.abs() + site.tiny)


JUDGES: dict[str, Callable[[Site], Judged]] = {
    "embedding": judge_embedding,
    "rope": judge_rope,
    "norm": judge_norm,
    "linear": judge_linear,
    "rotate": judge_rotate,
    "cache": judge_remember,
    "scores": judge_scores,
    "softmax": judge_softmax,
    "attention": judge_attention,
    "residual": judge_residual,
    "mlp_act": judge_gated,
    "same": judge_same,
}


# ---- shared by them


def sum_bound(terms: Tensor, n: int) -> Tensor:
    """How far a float32 sum of n terms may be off, however it is cut into pieces. `terms`: the sum of their sizes."""
    return terms * ((8 + math.sqrt(n)) * U32)


def only_tokens(site: Site, out: Tensor, exact: Tensor, bound: Tensor) -> Judged:
    """Leave out padding. Everything is (B, T, …) or (B, H, T, D)."""
    keep = site.tokens
    parts = torch.broadcast_tensors(out, exact, bound)
    if keep.all():
        return Judged(*parts)
    parts = (each.transpose(1, 2) if each.dim() == 4 else each for each in parts)
    return Judged(*(each[keep] if len(each) == len(keep) else each for each in parts))


def without_padding(site: Site, x: Tensor) -> Tensor:
    """(B or 1, T, C) -> (N, C)."""
    keep = site.tokens
    x = x.expand(*keep.shape, -1)
    return x.flatten(0, 1) if keep.all() else x[keep]


def at_tokens(site: Site, *parts: Tensor) -> Judged:
    """Leave out padding queries of (B, H, T, …)."""
    return Judged(*(each.transpose(1, 2)[site.tokens] for each in torch.broadcast_tensors(*parts)))


def where_to_look(apart: Tensor | None, call: Call) -> tuple[Tensor, Tensor]:
    """Rows and tokens of a call whose sides are `apart` (B, T): the first that differ, the worst, and some more."""
    apart = torch.zeros(call.ids.shape) if apart is None or apart.shape != call.ids.shape else apart
    return spread(apart.amax(1), ROWS), spread(apart.amax(0), TOKENS)


def spread(size: Tensor, most: int) -> Tensor:
    """Up to `most` indices: the first that is not zero, those where `size` is largest, and some spread evenly."""
    if len(size) <= most:
        return torch.arange(len(size))
    many = most - most // 2 - 1
    evenly = (i * (len(size) - 1) // (many - 1) for i in range(many))
    largest = size.float().topk(most // 2).indices  # NaN counts as larger than all numbers
    first = int((size != 0).int().argmax())
    return torch.tensor(sorted({first, *largest.tolist(), *evenly}))
