"""The distance of a result from float64, and the largest distance that rounding explains.

The bounds are those of textbook error analysis: half an ULP for each rounding to the result's dtype, and for a float32
sum an error that grows with the sum of its terms' absolute values.
See: Higham, "Accuracy and Stability of Numerical Algorithms", chapters 3 and 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...numerics import non_finite
from .context import OperationContext

U32 = 2.0**-24  # the unit roundoff of float32, in which every sum is computed


@dataclass
class Judged:
    """The result of a model, the float64 result, and the bound of their distance, at the judged elements."""

    out: Tensor
    exact: Tensor
    bound: Tensor

    @cached_property
    def excess(self) -> float:
        """The largest distance in units of its bound. Rounding explains an excess of up to 1."""
        return self.excesses(1)[0]

    def excesses(self, models: int) -> list[float]:
        """The excess of each of the models that were judged as one batch."""
        if not self.out.numel():
            return [0.0] * models
        out = self.out.double()
        same = out == self.exact  # equal infinities have no distance
        if not out.isfinite().all():  # NaN of NaN, and the infinity of a number beyond the dtype, are right
            same |= non_finite(self.out) & non_finite(self.exact.to(self.out.dtype))
        distance = torch.where(same, 0.0, (out - self.exact).abs_() / self.bound)
        return distance.nan_to_num_(nan=math.inf, posinf=math.inf).reshape(models, -1).amax(1).tolist()

    @property
    def distance(self) -> float:
        """The mean distance from the float64 result, relative to its mean absolute value."""
        out, exact = self.out.double(), self.exact
        known = out.isfinite() & exact.isfinite()
        if not known.all():  # masked scores are -inf
            out, exact = out[known], exact[known]
        size = float(exact.abs().mean())
        return float((out - exact).abs_().mean()) / size if size else 0.0


def sum_bound(terms: Tensor, n: int) -> Tensor:
    """The error of a float32 sum of n terms, in any order of summation. `terms`: the sum of their absolute values."""
    return terms * ((8 + math.sqrt(n)) * U32)


def judged_tokens(context: OperationContext, exact: Tensor, bound: Tensor) -> Judged:
    """The context's result against `exact`, without padding. All tensors are (B, T, …) or (B, H, T, D)."""
    keep = context.tokens
    parts = torch.broadcast_tensors(context.out, exact, bound)
    if keep.all():
        return Judged(*parts)
    by_token = (x.transpose(1, 2) if x.dim() == 4 else x for x in parts)
    return Judged(*(x[keep] if len(x) == len(keep) else x for x in by_token))


def judged_queries(context: OperationContext, out: Tensor, exact: Tensor, bound: Tensor) -> Judged:
    """`out` against `exact`, without the queries of padding. All tensors are (B, H, T, …)."""
    return Judged(*(x.transpose(1, 2)[context.tokens] for x in torch.broadcast_tensors(out, exact, bound)))


def without_padding(context: OperationContext, x: Tensor) -> Tensor:
    """(B or 1, T, C) -> (N, C)."""
    keep = context.tokens
    x = x.expand(*keep.shape, -1)
    return x.flatten(0, 1) if keep.all() else x[keep]
