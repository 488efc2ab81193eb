"""Biases that all elements of a result share, each too small for the bound of a single element.

In bfloat16 the bound of a matrix product is 3 roundings, 1.2 %. A factor of 1.005 stays within it at every element.
But roundings have no common sign: over many elements they cancel, and a factor or an offset remains.

The error e = out - right is projected on a direction g: the right result itself (a factor), ones (an offset), or the
derivative of a parameter. A bias is a finding if it is both of these:

large         the coefficient c = <e, g> / <g, g> is at least LEAST unit roundoffs
significant   the projections of n independent blocks follow the direction far better than chance allows. The squared
              correlation r² of y, the projections, with x, what a bias gives, is (Σ x y)² / (Σ x² Σ y²). For roundings
              alone it has the distribution Beta(1/2, (n - 1) / 2), whose tail beyond r² is at most (1 - r²) to the
              power (n - 1) / 2.

The blocks are single elements where each element has a rounding of its own. They are whole vectors where one rounding
reaches all of a vector: the probability of a key, or the scale of a row in float32. A vector's x and y are in units of
its rounding, so that a vector without effect, such as attention to a single key, adds no noise.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .bounds import U32, Judged
from .causes import at_tokens, replayed
from .context import OperationContext, unit_roundoff
from .registry import KINDS

LEAST = 0.5  # unit roundoffs, in 16 bits: 0.2 % in bfloat16. Clean pairs reach it only with few elements
LEAST_IN_FLOAT32 = 4.0  # other libraries' exp and rsqrt differ by an ULP everywhere
CHANCE = 1e-7  # of a false alarm for one projection
FEWEST_BLOCKS = 12


class Errors(NamedTuple):
    """A result and the right one, (…, vectors, elements) float64, at the elements that are numbers in both."""

    out: Tensor
    right: Tensor
    by_vector: bool  # the blocks are vectors, not elements
    unit: float  # the least coefficient that is a bias

    def of_head(self, head: int) -> Errors:
        """The errors of one head, for tensors (…, H, D)."""
        return self._replace(out=self.out[..., head, :], right=self.right[..., head, :])


def bias_cause(context: OperationContext, judged: Judged) -> str | None:
    """The bias that all elements of a result, or all of one head, share, in words."""
    if context.has_reconstructed_input:  # the model may have rounded that input at other places
        return None
    kind = KINDS[context.operation.kind]
    out, right = judged.out, judged.exact.to(context.out.dtype)
    part = replayed(context)
    if kind.bitwise:  # the same roundings as the model's, so that they cancel
        same = [result for result in kind.right_results(part) if result.shape == part.out.shape]
        if same:
            pairs = [at_tokens(part, part.out, result.to(part.out.dtype)) for result in same]
            out, right = min(pairs, key=lambda pair: float((pair[0].double() - pair[1].double()).abs().nansum()))
    errors = errors_of(out, right, context.coarsest, kind.shared_roundings)
    if errors is None:
        return None
    whole = factor_or_offset(errors)
    if kind.has_heads:  # (…, H, D)
        of_heads = [factor_or_offset(errors.of_head(head)) for head in range(right.shape[-2])]
        biased = [head for head, cause in enumerate(of_heads) if cause is not None]
        if biased and (whole is None or len(biased) < len(of_heads)):
            return f"all elements of head {', '.join(map(str, biased))} share a bias: {of_heads[biased[0]]}"
    if whole is not None:
        return f"all elements share a bias: {whole}"
    for cause, compute in kind.derivatives:
        direction = at_tokens(part, part.out, compute(part))[1].double()
        fits = direction.numel() == errors.out.numel()
        if fits and (c := coefficient(errors, direction.reshape(errors.out.shape))) is not None:
            return cause.format(1 + c)
    return None


def has_bias(out: Tensor, exact: Tensor) -> bool:
    """Whether all elements of a result without shared roundings have a common factor or offset."""
    right = exact.to(out.dtype)
    unit = LEAST * unit_roundoff(out.dtype)
    if float((out - right).norm()) < unit * float(right.norm()):  # too small for any factor or offset
        return False
    errors = errors_of(out, right, out.dtype, shared_roundings=False)
    return errors is not None and factor_or_offset(errors) is not None


def errors_of(out: Tensor, right: Tensor, dtype: torch.dtype, shared_roundings: bool) -> Errors | None:
    """The errors of an operation that computes in `dtype`. None: there is no error."""
    if torch.equal(out.to(right.dtype), right):
        return None
    in_float32 = dtype.itemsize > 2
    unit = LEAST_IN_FLOAT32 * U32 if in_float32 else LEAST * unit_roundoff(dtype)  # `right` has float32 at most
    known = out.isfinite() & right.isfinite()
    x, y = (torch.where(known, each, 0).double() for each in (out, right))
    return Errors(x, y, shared_roundings or in_float32, unit)


def factor_or_offset(errors: Errors) -> str | None:
    """The factor or the offset that all elements share, in words."""
    if (c := coefficient(errors, errors.right)) is not None:
        return f"{1 + c:.4g} times the right result"
    size = errors.right.square().mean().sqrt()  # so that the coefficient is relative to the result
    if (c := coefficient(errors, size.expand_as(errors.right))) is not None:
        return f"the right result {c * float(size):+.2g}"
    return None


def coefficient(errors: Errors, direction: Tensor) -> float | None:
    """The coefficient of the error in a direction, if it is large and significant."""
    projected, sizes = (errors.out - errors.right) * direction, direction.square()
    total = float(sizes.sum())
    if not total or abs(c := float(projected.sum()) / total) < errors.unit:
        return None
    if errors.by_vector:
        length, rounding = direction.norm(dim=-1), errors.right.norm(dim=-1)
        affected = (length > 0) & (rounding > 0)
        x = (length / rounding)[affected]
        y = (projected.sum(-1) / (length * rounding))[affected]
    else:
        y = projected[sizes > 0]
        x = torch.ones_like(y)
    n = len(y)
    if n < FEWEST_BLOCKS or not y.any():
        return None
    r2 = float(x @ y) ** 2 / (float(x @ x) * float(y @ y))
    return c if (n - 1) / 2 * math.log1p(-min(r2, 1 - 1e-12)) < math.log(CHANCE) else None
