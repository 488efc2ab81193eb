"""Whether level "exact" of `optimize` saves more time in an answer than it takes."""

from __future__ import annotations

import torch

from ..model import Llama
from .optimization import Plan

# Measured on 4 layers of a 7B in bfloat16, two cores with AVX-512 and without matrix instructions: 1.88 GB of weights
# took 139 ms a step as loaded and 84 at level "exact", choosing and packing 30 s, packing alone 2.3 s. Only the first
# start on a machine uses these numbers.
READ_BANDWIDTH = 14e9  # bytes per second of a step as loaded
CHOOSING_SECONDS = 28.0  # of all shapes
PACKING_BANDWIDTH = 0.8e9  # bytes per second
SAVED_SHARE = 0.38  # of a step


def pays(model: Llama, rows: int, tokens: int) -> str | None:
    """Why `optimize(model, "exact", rows)` is worth its time in an answer of so many tokens, or None if it is not.

    With kept choices for every shape, the times are those measured on this machine. Else they are estimated from the
    size of the weights.
    """
    if model.embed_tokens.weight.device.type != "cpu" or getattr(model, "quantization", None) is not None:
        return None
    nbytes = sum(parameter.nbytes for parameter in model.parameters()) - model.embed_tokens.weight.nbytes
    saved = tokens * SAVED_SHARE * nbytes / READ_BANDWIDTH
    if saved < 1:
        return None  # a small model, of which not even the file of kept choices has to be read
    with torch.no_grad():
        plan = Plan(model, "exact", rows)
    if plan.is_kept():
        saved, packing = plan.kept_times(tokens)
        if saved <= packing:
            return None
        return f"packed for about {saved:.0f} s less in {tokens} tokens"
    cost = CHOOSING_SECONDS + nbytes / PACKING_BANDWIDTH
    if saved <= cost:
        return None
    return f"measured now and kept for later starts, for about {saved:.0f} s less in {tokens} tokens"
