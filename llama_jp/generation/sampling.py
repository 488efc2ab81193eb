"""Logits to the next id."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def choose(
    logits: Tensor, do_sample: bool, generators: Sequence[torch.Generator] | torch.Generator | None = None
) -> Tensor:
    """The next id of every row: the likeliest, or one drawn from the softmax. logits (B, V) -> (B,) int64."""
    return draw(logits.softmax(-1), generators=generators)[:, 0] if do_sample else logits.argmax(-1)


def draw(
    probabilities: Tensor,
    number: int = 1,
    generators: Sequence[torch.Generator] | torch.Generator | None = None,
) -> Tensor:
    """Draw ids without putting them back: probabilities (B, V) -> (B, number) int64.

    One generator (None: torch's global one) draws for all rows as transformers does; a list gives each row its own,
    so that what a row draws does not depend on its neighbours.
    """
    try:
        if isinstance(generators, Sequence):
            rows = zip(probabilities, generators, strict=True)
            return torch.stack([torch.multinomial(row, number, generator=generator) for row, generator in rows])
        return torch.multinomial(probabilities, number, generator=generators)
    except RuntimeError as error:
        raise ValueError(f"there is nothing to draw from: {str(error).splitlines()[0]}") from error
