"""What every operation should give, in float64 from the side's own inputs, and how far rounding may carry it away.

Each formula is written once and serves twice: in float64 it is the arbiter, in the side's dtype it is the replay that
tells which operations a side really used. The bounds are those of textbook error analysis: half an ULP for every
rounding to the side's dtype, and float32 sums whose error grows with the sum of the terms' sizes.
See: Higham, "Accuracy and Stability of Numerical Algorithms", chapters 3 and 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import LlamaConfig, make_rope, repeat_heads
from .points import Operation
from .record import Call

U32 = 2.0**-24  # half an ULP of float32, in which everything is summed
SAMPLE_ABOVE = 1 << 20  # multiplications; larger operations are checked where the sides differ most


@dataclass
class Site:
    """One operation of one side in one call, with everything its formula needs."""

    op: Operation
    call: Call
    config: LlamaConfig
    weights: dict[str, Tensor] = field(default_factory=dict)  # the side's own
    other: Tensor | None = None  # what the other side has at this point

    @property
    def out(self) -> Tensor:
        return self.call.points[self.op.name]

    @property
    def inputs(self) -> list[Tensor]:
        return [self.call.points[name] for name in self.op.reads]

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
        return make_rope(self.config)(self.call.positions if positions is None else positions)

    @property
    def rotation(self) -> tuple[Tensor, Tensor]:
        """The cos and sin that this side used, or should have."""
        points = self.call.points
        if "rope.cos" in points and "rope.sin" in points:
            return points["rope.cos"], points["rope.sin"]
        cos, sin = self.rope()
        return cos.to(self.out.dtype), sin.to(self.out.dtype)


@dataclass
class Judged:
    """A side's result, the float64 result, and the distance that rounding explains; the places that were looked at."""

    out: Tensor
    exact: Tensor
    bound: Tensor

    @property
    def excess(self) -> float:
        """The largest distance in units of its bound: up to 1 is rounding."""
        if not self.out.numel():
            return 0.0
        out, distance = self.out.double(), (self.out.double() - self.exact).abs()
        distance = torch.where(out == self.exact, 0.0, distance)  # equal infinities
        ratio = torch.nan_to_num(distance / self.bound, nan=math.inf, posinf=math.inf)
        return float(ratio.max())

    @property
    def distance(self) -> float:
        """Mean distance from the float64 result, relative to its size."""
        known = self.exact.isfinite()  # hidden scores are -inf
        size = float(self.exact[known].abs().mean())
        return float((self.out.double() - self.exact)[known].abs().mean()) / size if size else 0.0


def judge(site: Site) -> Judged:
    return JUDGES[site.op.kind](site)


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


# ---- the arbiter


def judge_embedding(site: Site) -> Judged:
    ids, weight = site.call.ids, site.parameter()
    exact = weight[ids].double()
    return only_tokens(site, site.out, exact, torch.full_like(exact, site.tiny))


def judge_rope(site: Site) -> Judged:
    positions = site.call.positions
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
    keep = site.call.tokens
    x, out = x.expand(*keep.shape, -1)[keep], site.out.expand(*keep.shape, -1)[keep]  # (N, in), (N, out)
    if x.shape[0] * weight.numel() > SAMPLE_ABOVE:
        other = None if site.other is None or site.other.shape != site.out.shape else site.other[keep]
        rows, columns = where_to_look(out, other, 12, 48)
        x, out, weight = x[rows], out[rows][:, columns], weight[columns]
        bias = None if bias is None else bias[columns]
    x, weight = x.double(), weight.double()
    bias = torch.zeros(()) if bias is None else bias.double()
    exact, terms = x @ weight.T, x.abs() @ weight.abs().T
    bound = sum_bound(site, terms, x.shape[-1]) + 3 * site.u * (exact.abs() + bias.abs()) + 2 * site.tiny
    return Judged(out, exact + bias, bound)


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
    if site.call.mask is not None:
        keep = site.call.mask.bool()
        out, exact = out[keep], exact[keep]
    return Judged(out, exact.double(), torch.full(exact.shape, site.tiny, dtype=torch.float64))


def judge_scores(site: Site) -> Judged:
    q, k = site.inputs
    out, q, visible, keep = queries(site, site.out, q)
    exact = weigh(q.double(), k.double(), visible, site.scale)
    terms = weigh(q.double().abs(), k.double().abs(), visible, site.scale)
    bound = sum_bound(site, terms, q.shape[-1]) + 3 * site.u * exact.abs() + 3 * site.tiny
    hidden = ~visible.expand(out.shape)
    # a hidden score is "very low", however it is written
    out = torch.where(hidden & (out.double() < -1e4), -math.inf, out.double())
    return at_tokens(keep, out, exact, torch.where(hidden, 1.0, bound))


def judge_softmax(site: Site) -> Judged:
    (scores,) = site.inputs
    out, scores, _, keep = queries(site, site.out, scores)
    exact = scores.double().softmax(-1)
    spread = (scores.double() - scores.double().amax(-1, keepdim=True)).clamp(min=-100).abs()
    bound = exact * (2.02 * site.u + (24 + 2 * spread) * U32) + max(site.tiny, 1e-37)
    return at_tokens(keep, out, exact, bound)


def judge_attention(site: Site) -> Judged:
    """From q, k, v; or, where attention wrote its probabilities down, from those and v."""
    q, k, v = site.inputs
    at = site.op.name.removesuffix("mixed")
    written = site.call.points.get(f"{at}probabilities")
    values = repeat_heads(v, q.shape[1]).double()
    if written is not None and written.shape == (*q.shape[:3], k.shape[2]):
        out, p, _, keep = queries(site, site.out, written)
        p = p.double()
        relative = torch.full_like(p, 1.01 * site.u)
    else:
        out, q, visible, keep = queries(site, site.out, q)
        scores = weigh(q.double(), k.double(), visible, site.scale)
        terms = weigh(q.double().abs(), k.double().abs(), visible, site.scale)
        p = scores.softmax(-1)
        # an error in a score is a relative error in its probability, and through the sum in all others
        wrong = torch.where(
            visible, 3 * site.u * scores.abs() + sum_bound(site, terms, q.shape[-1]) + 3 * site.tiny, 0.0
        )
        relative = wrong + (p * wrong).sum(-1, keepdim=True) + 3 * site.u + 32 * U32
    exact = p @ values
    bound = (p * relative) @ values.abs() + sum_bound(site, p @ values.abs(), p.shape[-1]) + 2 * site.u * exact.abs()
    lost = p.shape[-1] * site.tiny * float(values.abs().max())  # probabilities too small for the dtype
    return at_tokens(keep, out, exact, bound + lost + site.tiny)


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
    "remember": judge_remember,
    "scores": judge_scores,
    "softmax": judge_softmax,
    "attention": judge_attention,
    "residual": judge_residual,
    "gated": judge_gated,
    "same": judge_same,
}


# ---- shared by them


def sum_bound(site: Site, terms: Tensor, n: int) -> Tensor:
    """How far a float32 sum of n terms may be off, however it is cut into pieces. `terms`: the sum of their sizes."""
    return terms * ((8 + math.sqrt(n)) * U32)


def only_tokens(site: Site, out: Tensor, exact: Tensor, bound: Tensor) -> Judged:
    """Leave out padding. Everything is (B, T, …) or (B, H, T, D)."""
    keep = site.call.tokens
    shape = torch.broadcast_shapes(out.shape, exact.shape)
    parts = (each.expand(shape) for each in (out, exact, bound))
    if keep.all():
        return Judged(*parts)
    parts = (each.transpose(1, 2) if each.dim() == 4 else each for each in parts)
    return Judged(*(each[keep] if len(each) == len(keep) else each for each in parts))


def queries(site: Site, out: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention's result, what it was made from, what may be seen, and which queries are tokens.

    All queries, or some where there are many: (B, H, T', …).
    """
    B, H, T, D = x.shape
    visible, keep = site.call.visible, site.call.tokens
    S = visible.shape[-1]
    if B * H * T * S * max(D, site.config.head_dim) > 4 * SAMPLE_ABOVE and T > 8:
        other = site.other if site.other is not None and site.other.shape == out.shape else None
        rows, _ = where_to_look(
            *(None if each is None else each.transpose(0, 2).flatten(1) for each in (out, other)), 8
        )
        out, x, visible = out[:, :, rows], x[:, :, rows], visible[:, :, rows]
        keep = keep[:, rows]
    return out, x, visible, keep


def at_tokens(keep: Tensor, *parts: Tensor) -> Judged:
    """Leave out padding queries of (B, H, T, …)."""
    return Judged(*(each.transpose(1, 2)[keep] for each in torch.broadcast_tensors(*parts)))


def where_to_look(out: Tensor, other: Tensor | None, rows: int, columns: int = 0) -> tuple[Tensor, Tensor]:
    """Rows and columns of (N, F): half of them where the sides differ most, half spread evenly."""
    apart = torch.zeros_like(out, dtype=torch.float32) if other is None else (out.float() - other.float()).abs()
    return spread(apart.amax(1), rows), spread(apart.amax(0), columns)


def spread(size: Tensor, most: int) -> Tensor:
    if len(size) <= most or not most:
        return torch.arange(len(size))
    evenly = torch.linspace(0, len(size) - 1, most - most // 2).long()
    return torch.cat((torch.nan_to_num(size, nan=math.inf).topk(most // 2).indices, evenly)).unique()
