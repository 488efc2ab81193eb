"""Whether two models have the same weights, and how a wrong weight comes from a right one."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...checkpoint.config import dtype_name
from ...numerics import non_finite, same_bits
from .kind import LOW_PRECISION

HEAD_COUNTS = (1, 2, 4, 8, 16, 32, 40, 64)  # tried for weights whose rows are permuted within heads


def same_weights(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal, or the same numbers rounded to two dtypes."""
    if a.shape != b.shape:
        return False
    if same_bits(a, b):
        return True
    if a.dtype == b.dtype:
        return torch.equal(a, b)
    infos = torch.finfo(a.dtype), torch.finfo(b.dtype)
    relative = sum(info.eps / 2 for info in infos)
    absolute = sum(info.smallest_normal * info.eps for info in infos)  # below it, a number is rounded to 0
    x, y = a.float(), b.float()
    rounded = (x - y).abs() <= 1.01 * relative * torch.maximum(x.abs(), y.abs()) + absolute
    return bool((rounded | (x == y) | (x.isnan() & y.isnan())).all())


def differing_parameters(
    module: str, first: dict[str, Tensor], second: dict[str, Tensor], rows: Tensor | None = None
) -> str | None:
    """The name of the module's first parameter that differs between two models, or None.

    `rows`: compare only these rows. A module without a weight in one model is not compared: it has other parameters.
    """
    for name in (f"{module}.weight", f"{module}.bias"):
        a, b = first.get(name), second.get(name)
        if a is None and b is None:
            continue
        if a is None or b is None:
            return name if name.endswith("bias") else None
        if rows is not None and a.shape == b.shape:
            a, b = a[rows], b[rows]
        if not same_weights(a, b):
            return name
    return None


def weight_cause(name: str, wrong: dict[str, Tensor], right: dict[str, Tensor]) -> str:
    """The relation of the parameter `name` of one model to the parameters of the other, in words."""
    if name not in wrong or name not in right:
        return f"{name} is missing in one model"
    here, there = wrong[name], right[name]
    for text, expected in changed_weights(there):
        if expected.shape == here.shape and same_weights(here, expected):
            return f"{name} is {text}"
    for other, tensor in right.items():
        if other != name and tensor.shape == here.shape and same_weights(here, tensor):
            tied = " (tied head)" if {name, other} == {"lm_head.weight", "embed_tokens.weight"} else ""
            return f"{name} holds {other}{tied}"
    if here.shape != there.shape:
        return f"{name} has the shape {tuple(here.shape)}, not {tuple(there.shape)}"
    if (levels := quantization(here)) and not quantization(there):
        return f"{name} is quantised: {levels}"
    counts = int(non_finite(here).sum()), int(non_finite(there).sum())
    if counts[0] != counts[1]:
        return f"{name} has {counts[0]:,} NaN or infinite numbers, and {counts[1]:,} in the other model"
    share = float((here.float() != there.float()).float().mean())
    return f"{name} has other values ({share:.2%} of them)"


def quantization(weight: Tensor) -> str | None:
    """The evidence, in words, that a matrix is quantised: few different values, or multiples of one, in a row."""
    if weight.dim() != 2:
        return None
    rows, width = weight[:8].float(), weight.shape[1]
    for size in (width, *(group for group in (128, 64, 32) if width % group == 0)):
        levels = max(len(part.unique()) for part in rows.reshape(-1, size))
        if levels <= min(256, size // 2):
            return f"at most {levels} different values in " + ("a row" if size == width else f"{size} columns")
    steps = rows / (rows.abs().amax(1, keepdim=True) / 127)
    steps = steps[steps.abs() <= 16]  # larger multiples of a rounded step are no whole numbers
    whole = (steps - steps.round()).abs() <= 0.02 + steps.abs() * torch.finfo(weight.dtype).eps
    mostly_whole = len(whole) and float(whole.float().mean()) > 0.9  # a scale of 16 bits is itself rounded
    return "8 bits, multiples of a 127th of the largest in each row" if mostly_whole else None


def changed_weights(weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Known mistakes of a weight: the description, and the weight with the mistake."""
    if weight.dim() == 2:
        yield "transposed", weight.T
        yield "upside down: rows in reverse order", weight.flip(0)
        for heads in HEAD_COUNTS:
            if weight.shape[0] % (2 * heads) == 0:
                yield from permuted_rows(weight, heads)
    yield "all zero", torch.zeros_like(weight)
    yield "all one", torch.ones_like(weight)
    yield "negated", -weight
    for low in LOW_PRECISION:
        yield f"rounded to {dtype_name(low)}", weight.to(low).to(weight.dtype)
    yield "one more than it should be (1 + weight)", weight + 1
    for factor in (2.0, 0.5, 10.0, 0.1):
        yield f"multiplied by {factor:g}", weight * factor


def permuted_rows(weight: Tensor, heads: int) -> Iterator[tuple[str, Tensor]]:
    """Known mistakes of the rows of a q or k projection with this number of heads."""
    halves = weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2)
    yield f"in Meta's row order for neighbouring pairs ({heads} heads)", halves.reshape_as(weight)
    pairs = weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2)
    yield f"permuted twice, as for halves ({heads} heads)", pairs.reshape_as(weight)
    by_head = weight.view(heads, -1, weight.shape[1])
    yield f"in another head order ({heads} heads reversed)", by_head.flip(0).reshape_as(weight)
    yield f"in another head order ({heads} heads moved by one)", by_head.roll(1, 0).reshape_as(weight)
