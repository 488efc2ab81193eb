"""Do both sides hold the same weights? And if not, what has happened to them?"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...numerics import same_bits


def same_weights(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, or the same numbers rounded to two dtypes."""
    if a.shape != b.shape:
        return False
    if same_bits(a, b):
        return True
    if a.dtype == b.dtype:
        return torch.equal(a, b)
    allowed = sum(torch.finfo(dtype).eps / 2 for dtype in (a.dtype, b.dtype))
    tiny = sum(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps for dtype in (a.dtype, b.dtype))
    x, y = a.float(), b.float()
    return bool(((x - y).abs() <= 1.01 * allowed * torch.maximum(x.abs(), y.abs()) + tiny).all())


def differing_parameters(
    module: str, first: dict[str, Tensor], second: dict[str, Tensor], rows: Tensor | None = None
) -> str | None:
    """The first parameter of a module that the sides do not share, or None. `rows`: look at these only."""
    for name in (f"{module}.weight", f"{module}.bias"):
        a, b = first.get(name), second.get(name)
        if a is None and b is None:
            continue
        if a is None or b is None:
            return name if name.endswith("bias") else None  # no weight: not made of plain parameters
        if rows is not None and a.shape == b.shape:
            a, b = a[rows], b[rows]
        if not same_weights(a, b):
            return name
    return None


def weight_cause(name: str, wrong: dict[str, Tensor], right: dict[str, Tensor]) -> str:
    """How the parameter `name` of one side comes from the other side's parameters, in words."""
    if name not in wrong or name not in right:
        return f"{name} is missing on one side"
    here, there = wrong[name], right[name]
    for text, expected in changed_weights(here, there):
        if expected.shape == here.shape and same_weights(here, expected):
            return f"{name} is {text}"
    for other, tensor in right.items():
        if other != name and tensor.shape == here.shape and same_weights(here, tensor):
            tied = " (tied head)" if {name, other} == {"lm_head.weight", "embed_tokens.weight"} else ""
            return f"{name} holds {other}{tied}"
    if here.shape == there.shape:
        if (how := quantised(here)) and not quantised(there):
            return f"{name} is quantised: {how}"
        parts = (here.float() != there.float()).float().mean()
        return f"{name} has other values ({float(parts):.2%} of them)"
    return f"{name} has the shape {tuple(here.shape)}, not {tuple(there.shape)}"


def quantised(weight: Tensor) -> str | None:
    """What shows that a matrix was kept in few bits: few different numbers, or multiples of one number, in a row."""
    if weight.dim() != 2:
        return None
    rows, width = weight[:8].float(), weight.shape[1]
    for size in (width, *(group for group in (128, 64, 32) if width % group == 0)):
        levels = max(len(part.unique()) for part in rows.reshape(-1, size))
        if levels <= min(256, size // 2):
            return f"at most {levels} different values in " + ("a row" if size == width else f"{size} columns")
    steps = rows / (rows.abs().amax(1, keepdim=True) / 127)
    steps = steps[steps.abs() <= 16]  # where rounding to the dtype leaves whole numbers recognisable
    whole = (steps - steps.round()).abs() <= 0.02 + steps.abs() * torch.finfo(weight.dtype).eps
    fits = len(whole) and float(whole.float().mean()) > 0.9  # a scale of 16 bits is itself a little off
    return "8 bits, multiples of a 127th of the largest in each row" if fits else None


def changed_weights(here: Tensor, there: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Known ways in which a matrix goes wrong: (in words, what it would be)."""
    if there.dim() == 2:
        yield "transposed", there.T
        yield "upside down: rows in reverse order", there.flip(0)
        for heads in sorted({n for n in (1, 2, 4, 8, 16, 32, 40, 64) if there.shape[0] % (2 * n) == 0}):
            rows = there.view(heads, 2, -1, there.shape[1])
            yield f"in Meta's row order for neighbouring pairs ({heads} heads)", rows.transpose(1, 2).reshape_as(there)
            rows = there.view(heads, -1, 2, there.shape[1])
            yield f"permuted twice, as for halves ({heads} heads)", rows.transpose(1, 2).reshape_as(there)
            parts = there.view(heads, -1, there.shape[1])
            yield f"in another head order ({heads} heads reversed)", parts.flip(0).reshape_as(there)
            yield f"in another head order ({heads} heads moved by one)", parts.roll(1, 0).reshape_as(there)
    yield "all zero", torch.zeros_like(there)
    yield "all one", torch.ones_like(there)
    yield "negated", -there
    for low in (torch.bfloat16, torch.float16):
        yield f"rounded to {str(low).removeprefix('torch.')}", there.to(low).to(there.dtype)
    yield "one more than it should be (1 + weight)", there + 1
    for factor in (2.0, 0.5, 10.0, 0.1):
        yield f"multiplied by {factor:g}", there * factor
