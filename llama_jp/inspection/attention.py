"""What each head looks at: statistics of its attention weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STATISTICS = ("self", "previous", "first", "copies", "next", "after", "spread")


def head_statistics(weights: Tensor, ids: Sequence[int]) -> Tensor:
    """Means over the queries, in the order of STATISTICS: weights (H, N, N), N + 1 ids -> (H, 7).

    self      the weight on the token itself; queries from the second token on
    previous  on the token before it
    first     on the first token, which is BOS in most prompts; queries from the third token on, so that it is not
              `previous` as well
    copies    on earlier copies of the same token; NaN where no token occurs twice
    next      on earlier copies of the token that comes next in the text; NaN where there are none
    after     on the tokens that followed earlier copies ("induction"); NaN where there are none
    spread    the number of keys that a head attends to: exp(entropy)
    """
    N = len(ids) - 1
    weights = weights.double()
    query, key = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
    tokens, following = torch.tensor(ids[:N]), torch.tensor(ids[1:])
    copies = (tokens[query] == tokens[key]) & (key < query)  # (N, N)
    of_next = (following[query] == tokens[key]) & (key <= query)
    after = (copies.roll(1, dims=1) & (key > 0)) & (key < query)
    masks = ((key == query) & (query > 0), key == query - 1, (key == 0) & (query > 1), copies, of_next, after)
    means = [mean_over_queries(weights, mask) for mask in masks]
    entropy = -torch.xlogy(weights, weights).sum(-1)  # (H, N)
    return torch.stack([*means, entropy[:, 1:].exp().mean(-1)], dim=-1).float()


def mean_over_queries(weights: Tensor, mask: Tensor) -> Tensor:
    """The weight of each head (H, N, N) on the keys of a mask (N, N), over the queries that have such keys: (H,)."""
    return (weights * mask).sum(-1)[:, mask.any(-1)].mean(-1)


def lower_triangle(weights: Tensor) -> Tensor:
    """The weights on visible keys, row after row: (H, N, N) -> (H, N * (N + 1) / 2)."""
    rows, columns = torch.tril_indices(weights.shape[-1], weights.shape[-1])
    return weights[:, rows, columns]
