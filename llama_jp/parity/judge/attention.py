"""Attention, as up to three operations: the scaled and masked scores, their softmax, and the weighted sum of values.

Fused attention has only the last of them. A wrong scale, mask or order of heads changes the scores, and the result of
attention where no scores are recorded. The decorators `wrong_mask` and `wrong_heads` add such a mistake to both kinds
of operation.

Attention may compute in float32 or a wider dtype: the bounds are those of the dtype of q.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import LlamaConfig, attend_eager, attend_sdpa, positions_and_mask, repeat_heads
from .arithmetic import MASKED, masked_scores
from .bounds import U32, Judged, judged_queries, sum_bound
from .context import OperationContext, smallest_number, unit_roundoff
from .kind import LOW_PRECISION, Condition, OperationKind, always, low_precision_input

SCORES = OperationKind(
    "scores", bitwise=False, optional=True, has_masked_entries=True, has_heads=True, narrowest_dtype=torch.bfloat16
)
SOFTMAX = OperationKind("softmax", optional=True, has_heads=True, shared_roundings=True, narrowest_dtype=torch.float32)
ATTENTION = OperationKind(
    "attention", mistakes_on_sample=True, has_heads=True, shared_roundings=True, narrowest_dtype=torch.bfloat16
)

Mask = Callable[[OperationContext], Tensor]
ShareHeads = Callable[[Tensor, int], Tensor]
Softmax = Callable[[Tensor], Tensor]


# The formulas in float64


@SCORES.formula
def scores_in_float64(context: OperationContext) -> Judged:
    (q, k), visible = context.inputs, context.visible
    u, tiny = unit_roundoff(q.dtype), smallest_number(q.dtype)
    exact = masked_scores(q.double(), k.double(), visible, context.scale)
    terms = masked_scores(q.double().abs(), k.double().abs(), visible, context.scale)
    bound = sum_bound(terms, q.shape[-1]) + 3 * u * exact.abs() + 3 * tiny
    out = context.out.double()
    masked = ~visible.expand(out.shape)
    out = torch.where(masked & (out < MASKED), -math.inf, out)
    return judged_queries(context, out, exact, torch.where(masked, 1.0, bound))


@SOFTMAX.formula
def softmax_in_float64(context: OperationContext) -> Judged:
    scores = context.inputs[0].double()
    finer = min(context.inputs[0].dtype, context.out.dtype, key=unit_roundoff)
    exact = scores.softmax(-1)
    below_largest = (scores - scores.amax(-1, keepdim=True)).clamp(min=-100).abs()
    relative = 2.02 * unit_roundoff(finer) + (24 + 2 * below_largest) * U32
    bound = exact * relative + max(smallest_number(finer), 1e-37)
    return judged_queries(context, context.out, exact, bound)


@ATTENTION.formula
def attention_in_float64(context: OperationContext) -> Judged:
    """From q, k, v. Where the probabilities are recorded, from those and v."""
    q, k, v = context.inputs
    u, tiny = unit_roundoff(q.dtype), smallest_number(q.dtype)
    values = repeat_heads(v, q.shape[1]).double()
    if (recorded := recorded_probabilities(context)) is not None:
        p = recorded.double()
        relative = torch.full_like(p, 1.01 * u)
    else:
        visible = context.visible
        scores = masked_scores(q.double(), k.double(), visible, context.scale)
        terms = masked_scores(q.double().abs(), k.double().abs(), visible, context.scale)
        p = scores.softmax(-1)
        # an error of a score is a relative error of its probability and, through the sum, of all others
        error = 3 * u * scores.abs() + sum_bound(terms, q.shape[-1]) + 3 * tiny
        error = torch.where(visible, error, 0.0)
        relative = error + (p * error).sum(-1, keepdim=True) + 3 * u + 32 * U32
    exact = p @ values
    bound = (p * relative) @ values.abs() + sum_bound(p @ values.abs(), p.shape[-1]) + 2 * u * exact.abs()
    underflow = p.shape[-1] * tiny * float(values.abs().max())  # probabilities too small for the dtype
    return judged_queries(context, context.out, exact, bound + underflow + tiny)


@ATTENTION.derivative("the scores are {:.4g} times the right scores")
def derivative_of_scale(context: OperationContext) -> Tensor:
    """The derivative of attention by the logarithm of the scale, in float64."""
    q, k, v = context.inputs
    scores = masked_scores(q.double(), k.double(), context.visible, context.scale)
    p, shown = scores.softmax(-1), torch.where(context.visible, scores, 0.0)
    change = p * (shown - (p * shown).sum(-1, keepdim=True))
    return change @ repeat_heads(v, q.shape[1]).double()


def recorded_probabilities(context: OperationContext) -> Tensor | None:
    """The recorded probabilities, (B, H, T, S). None: they are missing, or have another shape."""
    q, k, _ = context.inputs
    name = context.operation.name.replace("attn_output", "probabilities")
    recorded = context.at(name) if name in context.call.points else None
    if recorded is None or recorded.shape != (*q.shape[:3], k.shape[2]):
        return None
    return recorded if context.input_rounding is None else context.input_rounding(recorded)


# The formulas in the model's dtype


@SOFTMAX.same_arithmetic
def softmax_in_float32(context: OperationContext) -> Tensor:
    return context.inputs[0].softmax(-1, dtype=torch.float32).to(context.out.dtype)


@ATTENTION.same_arithmetic
def attention_of_probabilities(context: OperationContext) -> Tensor | None:
    q, _, v = context.inputs
    recorded = recorded_probabilities(context)
    return None if recorded is None else recorded.to(q.dtype) @ repeat_heads(v, q.shape[1])


def can_replay_attention(context: OperationContext) -> bool:
    """Kernels for fewer queries may round differently, so a sample is no replay."""
    return context.sample is None and recorded_probabilities(context) is None


@ATTENTION.same_arithmetic
def fused_attention(context: OperationContext) -> Tensor | None:
    if not can_replay_attention(context):
        return None
    q, k, v = context.inputs
    _, visible = positions_and_mask(context.call.mask, q.shape[2], k.shape[2], q.device)
    return attend_sdpa(q, k, v, visible)


@ATTENTION.same_arithmetic
def eager_attention(context: OperationContext) -> Tensor | None:
    if not can_replay_attention(context):
        return None
    q, k, v = context.inputs
    return attend_eager(q, k, v, context.visible)


# The formulas with exchanged parts


def scores_with(
    context: OperationContext,
    *,
    scale: float | None = None,
    visible: Tensor | None = None,
    keys: Tensor | None = None,
) -> Tensor:
    """The scores as `attend_eager` computes them, with a part exchanged. `keys` (B, H, S, D): one for each query."""
    q, k = context.inputs[:2]
    scale = context.scale if scale is None else scale
    visible = context.visible if visible is None else visible
    keys = repeat_heads(k, q.shape[1]) if keys is None else keys
    bias = torch.where(visible, torch.zeros((), dtype=q.dtype), torch.finfo(q.dtype).min)
    return q @ keys.transpose(2, 3) * scale + bias


def attention_with(
    context: OperationContext,
    *,
    scale: float | None = None,
    visible: Tensor | None = None,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    softmax: Softmax | None = None,
) -> Tensor:
    """`attend_eager` with a part exchanged. `keys` and `values` (B, H, S, D): one for each query head."""
    q, _, v = context.inputs
    scores = scores_with(context, scale=scale, visible=visible, keys=keys)
    probabilities = scores.softmax(-1, dtype=torch.float32).to(q.dtype) if softmax is None else softmax(scores)
    return probabilities @ (repeat_heads(v, q.shape[1]) if values is None else values)


def wrong_mask(cause: str, *, when: Condition = always) -> Callable[[Mask], Mask]:
    """A mistake of scores and attention: another mask, (B or 1, 1, T, S) bool."""

    def add(mask: Mask) -> Mask:
        SCORES.mistake(cause, when=when)(lambda context: scores_with(context, visible=mask(context)))
        ATTENTION.mistake(cause, when=when)(lambda context: attention_with(context, visible=mask(context)))
        return mask

    return add


def wrong_heads(cause: str, *, when: Condition = always) -> Callable[[ShareHeads], ShareHeads]:
    """A mistake of scores and attention: other keys or values for the query heads, (B, K, S, D) -> (B, H, S, D)."""

    def add(share: ShareHeads) -> ShareHeads:
        def keys(context: OperationContext) -> Tensor:
            return share(context.inputs[1], context.inputs[0].shape[1])

        def values(context: OperationContext) -> Tensor:
            return share(context.inputs[2], context.inputs[0].shape[1])

        SCORES.mistake(cause, when=when)(lambda context: scores_with(context, keys=keys(context)))
        ATTENTION.mistake(cause, when=when)(
            lambda context: attention_with(context, keys=keys(context), values=values(context))
        )
        ATTENTION.mistake(f"{cause}, of the keys only", when=when)(
            lambda context: attention_with(context, keys=keys(context))
        )
        ATTENTION.mistake(f"{cause}, of the values only", when=when)(
            lambda context: attention_with(context, values=values(context))
        )
        return share

    return add


# Mistakes of the scale

SCALES: dict[str, Callable[[LlamaConfig], float]] = {
    "the scale 1 / sqrt(D) is missing": lambda config: 1.0,
    "scaled twice": lambda config: config.head_dim**-1.0,
    "scaled by the hidden size, not the head size": lambda config: config.hidden_size**-0.5,
    "scaled by 1 / sqrt(D / 2)": lambda config: (config.head_dim // 2) ** -0.5,
    "multiplied by sqrt(D) where it should be divided": lambda config: config.head_dim**0.5,
}


@SCORES.each(SCALES).mistake("{}")
def scores_of_other_scale(context: OperationContext, cause: str) -> Tensor:
    return scores_with(context, scale=SCALES[cause](context.config))


@ATTENTION.each(SCALES).mistake("{}")
def attention_of_other_scale(context: OperationContext, cause: str) -> Tensor:
    return attention_with(context, scale=SCALES[cause](context.config))


# Mistakes of the mask


def queries_and_keys(context: OperationContext) -> tuple[int, int]:
    """The numbers T of queries and S of keys."""
    q, k = context.inputs[:2]
    return q.shape[2], k.shape[2]


def lower_triangle(context: OperationContext, diagonal: int) -> Tensor:
    """The mask in which query i sees keys 0 … i + diagonal, (1, 1, T, S)."""
    return torch.ones(queries_and_keys(context), dtype=torch.bool).tril(diagonal)[None, None]


def causal_mask(context: OperationContext) -> Tensor:
    """The causal mask without padding."""
    T, S = queries_and_keys(context)
    return lower_triangle(context, S - T)


@wrong_mask("mask offset: each query sees one token of the future")
def one_future_token_visible(context: OperationContext) -> Tensor:
    T, S = queries_and_keys(context)
    return context.visible | context.visible.roll(1, -1).tril(S - T + 1)


@wrong_mask("mask offset: no query sees itself")
def own_token_masked(context: OperationContext) -> Tensor:
    T, S = queries_and_keys(context)
    return context.visible & lower_triangle(context, S - T - 1)


@wrong_mask("no mask: future tokens are visible")
def no_mask(context: OperationContext) -> Tensor:
    return torch.ones_like(context.visible)


@wrong_mask("the padding mask is ignored", when=OperationContext.has_padding)
def padding_visible(context: OperationContext) -> Tensor:
    return causal_mask(context)


@wrong_mask(
    "mask aligned to the first key, not the last: past tokens are masked", when=OperationContext.has_past_tokens
)
def aligned_to_first_key(context: OperationContext) -> Tensor:
    return lower_triangle(context, 0)


@wrong_mask("the causal mask covers only the new tokens: past tokens are masked", when=OperationContext.has_past_tokens)
def past_masked(context: OperationContext) -> Tensor:
    T, S = queries_and_keys(context)
    return causal_mask(context) & (torch.arange(S) >= S - T)


@wrong_mask("mask offset: the oldest token is masked", when=OperationContext.has_past_tokens)
def oldest_masked(context: OperationContext) -> Tensor:
    _, S = queries_and_keys(context)
    return causal_mask(context) & (torch.arange(S) >= 1)


# Mistakes of the order of heads, tokens and rows


def has_grouped_heads(context: OperationContext) -> bool:
    """More than one key/value head, each for several query heads."""
    q, k = context.inputs[:2]
    return k.shape[1] not in (1, q.shape[1])


@wrong_heads("kv-head order: heads tiled (0 1 0 1), not repeated (0 0 1 1)", when=has_grouped_heads)
def heads_tiled(x: Tensor, heads: int) -> Tensor:
    return x.repeat(1, heads // x.shape[1], 1, 1)


@wrong_heads("kv-head order: reversed")
def kv_heads_reversed(x: Tensor, heads: int) -> Tensor:
    return repeat_heads(x.flip(1), heads)


@wrong_heads("kv-head order: moved by one")
def kv_heads_moved(x: Tensor, heads: int) -> Tensor:
    return repeat_heads(x.roll(1, 1), heads)


@wrong_heads("kv-head order: the first for all")
def first_kv_head_for_all(x: Tensor, heads: int) -> Tensor:
    return repeat_heads(x[:, :1].expand_as(x), heads)


@wrong_heads("keys and values are one token late")
def one_token_late(x: Tensor, heads: int) -> Tensor:
    return repeat_heads(x.roll(1, 2), heads)


@wrong_heads("keys and values are one token early")
def one_token_early(x: Tensor, heads: int) -> Tensor:
    return repeat_heads(x.roll(-1, 2), heads)


@wrong_heads("every row attends to the first row")
def first_row_for_all(x: Tensor, heads: int) -> Tensor:
    return repeat_heads(x[:1].expand_as(x), heads)


# Mistakes of the softmax


def softmax_without_upcast(scores: Tensor) -> Tensor:
    """The softmax with every step in the dtype of the scores. PyTorch's own sums in float32."""
    e = (scores - scores.amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


low_precision_softmax = SOFTMAX.each(LOW_PRECISION)


@low_precision_softmax.mistake("softmax not upcast: computed in {}")
def softmax_not_upcast(context: OperationContext, low: torch.dtype) -> Tensor:
    return softmax_without_upcast(context.inputs[0].to(low)).to(context.out.dtype)


@low_precision_softmax.mistake("softmax of scores rounded to {}")
def softmax_of_rounded_scores(context: OperationContext, low: torch.dtype) -> Tensor:
    return context.inputs[0].to(low).softmax(-1).to(context.out.dtype)


@SOFTMAX.mistake("softmax over the queries, not the keys")
def softmax_over_queries(context: OperationContext) -> Tensor:
    return context.inputs[0].softmax(-2)


@SOFTMAX.mistake("softmax in base 2")
def softmax_in_base_2(context: OperationContext) -> Tensor:
    return (context.inputs[0].float() * math.log(2)).softmax(-1)


@SOFTMAX.mistake("a temperature of two")
def temperature_of_two(context: OperationContext) -> Tensor:
    return (context.inputs[0].float() / 2).softmax(-1)


@SOFTMAX.mistake("softmax with one more in the denominator")
def softmax_plus_one(context: OperationContext) -> Tensor:
    return F.pad(context.inputs[0].float(), (1, 0)).softmax(-1)[..., 1:]


# The same inside attention


@ATTENTION.each(low_precision_input).mistake("softmax not upcast: computed in {}")
def attention_not_upcast(context: OperationContext, dtype: torch.dtype) -> Tensor:
    return attention_with(context, softmax=softmax_without_upcast)


def other_low_precision(context: OperationContext) -> list[torch.dtype]:
    return [low for low in LOW_PRECISION if low != context.inputs[0].dtype]


low_precision_attention = ATTENTION.each(other_low_precision)


@low_precision_attention.mistake("softmax computed in {}")
def attention_softmax_of_rounded_scores(context: OperationContext, low: torch.dtype) -> Tensor:
    dtype = context.inputs[0].dtype
    return attention_with(context, softmax=lambda scores: scores.to(low).softmax(-1).to(dtype))


@low_precision_attention.mistake("softmax not upcast: computed in {}")
def attention_softmax_in_low_precision(context: OperationContext, low: torch.dtype) -> Tensor:
    dtype = context.inputs[0].dtype
    return attention_with(context, softmax=lambda scores: softmax_without_upcast(scores.to(low)).to(dtype))


@low_precision_attention.mistake("probabilities rounded to {}")
def attention_of_rounded_probabilities(context: OperationContext, low: torch.dtype) -> Tensor:
    dtype = context.inputs[0].dtype
    return attention_with(context, softmax=lambda s: s.softmax(-1, dtype=torch.float32).to(low).to(dtype))


@ATTENTION.mistake("softmax over the queries, not the keys")
def attention_softmax_over_queries(context: OperationContext) -> Tensor:
    return attention_with(context, softmax=lambda scores: scores.softmax(-2))


# Mistakes of the result


@ATTENTION.mistake("the values are the keys")
def keys_as_values(context: OperationContext) -> Tensor:
    q, k, _ = context.inputs
    return attention_with(context, values=repeat_heads(k, q.shape[1]))


@ATTENTION.mistake("heads in reverse order")
def heads_reversed(context: OperationContext) -> Tensor:
    return attention_with(context).flip(1)
