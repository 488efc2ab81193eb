"""The training loss: cross entropy of the next token, with transformers' labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100  # the label of a token that is context only


def loss(logits: Tensor, labels: Tensor, count: int | Tensor | None = None) -> Tensor:
    """Compute the mean cross entropy of the next token, in nats, in float32.

    Shapes: logits (B, T, V), labels (B, T) int64 -> a scalar.

    labels  the ids themselves, unshifted as in transformers: `labels[:, t + 1]` is the target of `logits[:, t]`, and
            the first column is never a target. IGNORE marks tokens that do not count
    count   divide the sum by this number and not by the number of targets: the targets of a whole step, if a step is
            accumulated from several calls

    Raises ValueError for shapes that do not fit, for labels without a target, and for a loss that is not finite.
    Reference: `ForCausalLMLoss` (transformers `loss/loss_utils.py`; `count` is its `num_items_in_batch`).
    """
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit; "
            "one label for each position is needed"
        )
    targets = F.pad(labels, (0, 1), value=IGNORE)[:, 1:].flatten()  # (B T,)
    # rounding: the logits are upcast first, and the sum is divided, as in the reference
    flat = logits.float().flatten(0, 1)  # (B T, V)
    reduction = "mean" if count is None else "sum"
    result = F.cross_entropy(flat, targets.to(flat.device), ignore_index=IGNORE, reduction=reduction)
    if count is not None:
        result = result / count
    if not torch.compiler.is_compiling() and not torch.isfinite(result):
        raise ValueError(explain(result, logits, labels))
    return result


def target_count(labels: Tensor) -> int:
    """The number of targets in labels (B, T)."""
    return int((labels[:, 1:] != IGNORE).sum())


def explain(result: Tensor, logits: Tensor, labels: Tensor) -> str:
    """The sentence for a loss that is not finite."""
    if target_count(labels) == 0:
        return f"no label is a target: all of {tuple(labels.shape)} are {IGNORE} or in the first column"
    if (wrong := int((~torch.isfinite(logits)).sum())) == 0:
        return f"the loss is {result.item()}, though the logits are finite: the count is 0"
    return (
        f"the loss is {result.item()}: {wrong} of {logits.numel()} logits are not finite; "
        "try a smaller learning rate, more warm-up steps, or bfloat16 or float32 in place of float16"
    )
