"""Filtered logits to the next id: the most probable one, or a random sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = Sequence[torch.Generator] | torch.Generator | None
"""Random state: one generator for the batch, one for each row, or None for torch's global generator."""


def choose(logits: Tensor, do_sample: bool, generators: Generators = None) -> Tensor:
    """The next id of every row, most probable or sampled from the softmax: logits (B, V) -> (B,) int64."""
    return sample(logits.softmax(-1), generators=generators)[:, 0] if do_sample else logits.argmax(-1)


def sample(probabilities: Tensor, number: int = 1, generators: Generators = None) -> Tensor:
    """Sample ids without replacement: probabilities (B, V) -> (B, number) int64.

    One generator samples all rows together, as transformers does. With a list of generators, the samples of a row do
    not depend on the other rows. Raises ValueError when a row has no probabilities above 0.
    """
    try:
        if isinstance(generators, Sequence):
            rows = zip(probabilities, generators, strict=True)
            return torch.stack([torch.multinomial(row, number, generator=generator) for row, generator in rows])
        return torch.multinomial(probabilities, number, generator=generators)
    except RuntimeError as error:
        raise ValueError(f"there is nothing to sample from: {str(error).splitlines()[0]}") from error
