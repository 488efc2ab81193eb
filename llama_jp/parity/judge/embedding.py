"""The embedding: one row of the weight for each id."""

from __future__ import annotations

import torch
from torch import Tensor

from .bounds import Judged, judged_tokens
from .context import OperationContext
from .kind import OperationKind

EMBEDDING = OperationKind("embedding", sampled=False)


@EMBEDDING.formula
def embedding_in_float64(context: OperationContext) -> Judged:
    exact = context.weight[context.ids].double()
    return judged_tokens(context, exact, torch.full_like(exact, context.tiny))  # a copy: nothing is rounded


@EMBEDDING.same_arithmetic
def embedding(context: OperationContext) -> Tensor:
    return context.weight[context.ids]


def has_bos(context: OperationContext) -> bool:
    return context.config.bos_token_id is not None


@EMBEDDING.mistake("double BOS: the ids begin with one BOS more", when=has_bos)
def double_bos(context: OperationContext) -> Tensor:
    ids, bos = context.ids, context.config.bos_token_id
    assert bos is not None
    return context.weight[torch.cat((torch.full_like(ids[:, :1], bos), ids[:, :-1]), 1)]


@EMBEDDING.mistake("the ids are one position early")
def ids_early(context: OperationContext) -> Tensor:
    return context.weight[context.ids.roll(-1, 1)]


@EMBEDDING.mistake("the ids are one position late")
def ids_late(context: OperationContext) -> Tensor:
    return context.weight[context.ids.roll(1, 1)]


@EMBEDDING.mistake("embeddings multiplied by the square root of the hidden size")
def scaled(context: OperationContext) -> Tensor:
    return context.weight[context.ids] * context.weight.shape[1] ** 0.5


@EMBEDDING.each((1, -1)).mistake("every id is off by {}")
def ids_shifted(context: OperationContext, step: int) -> Tensor:
    return context.weight[(context.ids + step) % len(context.weight)]
