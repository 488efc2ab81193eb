"""Where NaN or infinite numbers come from. They are a finding, also where both models have them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checkpoint.config import dtype_name
from ...numerics import all_finite, non_finite
from ..operations import Operation
from ..run.recording import CACHE_POINTS, Call
from .findings import Finding, Recorded
from .registry import KINDS
from .rows import by_token

LOGITS = Operation("logits", "same")


def non_finite_finding(pair: Recorded, operations: list[Operation]) -> Finding | None:
    """The first operation with NaN or infinite numbers, or an embedding with some in rows that no id uses.

    Finite logits need the search as well: fused attention can turn NaN scores into zeros. Two cases are no findings:
    numbers at padding, and -inf as the score of a masked key.
    """
    for number, calls in enumerate(zip(*pair.calls, strict=True)):
        for op in operations or [LOGITS]:
            points = {model: call.points[op.name] for model, call in enumerate(calls) if op.name in call.points}
            suspects = [model for model, x in points.items() if not all_finite(x)]
            wrong = {model: where_non_finite(op, calls[model]) for model in suspects}
            wrong = {model: where for model, where in wrong.items() if where.any()}
            if wrong:
                return finding_at(pair, op, number, wrong)
    return unused_embedding(pair)


def where_non_finite(op: Operation, call: Call) -> Tensor:
    """Where the result of an operation is NaN or infinite at a token, not at padding: (B, T, …) bool."""
    x = call.points[op.name]
    where = non_finite(x)
    if KINDS[op.kind].has_masked_entries:
        where &= x != -torch.inf
    where = by_token(where)
    tokens = call.mask.bool() if call.mask is not None and op.name.endswith(CACHE_POINTS) else call.tokens
    if where.shape[:2] == tokens.shape:
        where &= tokens.view(*tokens.shape, *[1] * (where.dim() - 2))
    return where


def finding_at(pair: Recorded, op: Operation, number: int, wrong: dict[int, Tensor]) -> Finding:
    model, where = next(iter(wrong.items()))
    row, token = where.flatten(2).any(-1).nonzero()[0].tolist()
    names = "both models" if len(wrong) == 2 else pair.names[model]
    finding = Finding(op.name, op.kind, op.layer, number, "non-finite", token=(row, token))
    finding.model = None if len(wrong) == 2 else names
    counts = f"{int(where.sum()):,} of {where.numel():,} numbers are NaN or infinite in {names}"
    finding.cause = f"{counts}; {source(pair, op, number, model)}"
    return finding


def source(pair: Recorded, op: Operation, number: int, model: int) -> str:
    """The origin of the first NaN or infinite numbers, in words."""
    parameters = [f"{op.weight}.weight", f"{op.weight}.bias"] if op.weight else []
    for name in parameters:
        weights = pair.weights[model].get(name)
        if weights is not None and (count := int(non_finite(weights).sum())):
            return f"{name} has {count:,} such numbers"
    call = pair.calls[model][number]
    if not op.inputs or any(name not in call.points for name in op.inputs):
        return "the model does not show their origin"
    dtype = dtype_name(call.points[op.name].dtype)
    return f"its inputs are finite: an overflow of {dtype}, or a mistake of the operation"


def unused_embedding(pair: Recorded) -> Finding | None:
    """The finding for an embedding with NaN or infinite numbers in rows that the ids do not use."""
    for model in (0, 1):
        weight = pair.weights[model].get("embed_tokens.weight")
        if weight is not None and not all_finite(weight):
            rows = non_finite(weight).any(-1).nonzero().flatten().tolist()
            shown = ", ".join(map(str, rows[:6])) + (", …" if len(rows) > 6 else "")
            finding = Finding("embed_tokens", "embedding", None, 0, "non-finite", pair.names[model])
            finding.cause = f"embed_tokens.weight has NaN or infinite numbers in rows that no id uses: {shown}"
            return finding
    return None
