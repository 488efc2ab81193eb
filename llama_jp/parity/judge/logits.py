"""The logits that a model returns: the output of its head, unchanged."""

from __future__ import annotations

import torch
from torch import Tensor

from .bounds import Judged, judged_tokens
from .context import OperationContext
from .kind import OperationKind

LOGITS = OperationKind("same", bitwise=False, in_one_batch=True)


@LOGITS.formula
def logits_in_float64(context: OperationContext) -> Judged:
    exact = context.inputs[0].double()
    return judged_tokens(context, exact, context.u * exact.abs() + context.tiny)


@LOGITS.mistake("logits shifted by one token")
def one_token_late(context: OperationContext) -> Tensor:
    return context.inputs[0].roll(1, 1)


@LOGITS.mistake("logits shifted by one token, the other way")
def one_token_early(context: OperationContext) -> Tensor:
    return context.inputs[0].roll(-1, 1)


@LOGITS.mistake("logits of the last token for all")
def last_token_for_all(context: OperationContext) -> Tensor:
    (x,) = context.inputs
    return x[:, -1:].expand_as(x)


@LOGITS.mistake("log-probabilities, not logits")
def log_probabilities(context: OperationContext) -> Tensor:
    return context.inputs[0].log_softmax(-1)


@LOGITS.each((30, 50, 20, 15)).mistake("logits capped softly at {}")
def capped(context: OperationContext, cap: int) -> Tensor:
    return cap * torch.tanh(context.inputs[0] / cap)
