"""The next id: the most probable one, or a sample with the probabilities of the softmax."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.reference import SEED

from llama_jp.generation import sampling

V = 37


def test_choice_of_the_next_id():
    """The same ids as argmax, and as torch.multinomial with the same seed."""
    logits = torch.randn(9, V, generator=torch.Generator().manual_seed(SEED)) * 3
    logits[1] = logits[1].round()  # many ties
    logits[2, 5:] = -math.inf
    logits[3, :] = 2.0
    logits[4, 1:] = -math.inf
    logits[5] *= 100
    logits[6, ::2] = logits[6, 0]
    logits[7] = -logits[7].abs()
    assert torch.equal(sampling.choose(logits, False), logits.argmax(-1))
    torch.manual_seed(3)
    expected = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    assert torch.equal(sampling.choose(logits, True, torch.Generator().manual_seed(3)), expected)
    torch.manual_seed(3)
    assert torch.equal(sampling.choose(logits, True), expected), "no generator: torch's own"


def test_frequencies_are_the_probabilities():
    """20,000 samples of four tokens; the chance that a right sampler fails is below one in a million (5 sigma)."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    sampled = sampling.choose(probabilities.log().expand(n, 4), True, torch.Generator().manual_seed(SEED))
    share = sampled.bincount(minlength=4) / n
    assert ((share - probabilities).abs() < 5 * (probabilities * (1 - probabilities) / n).sqrt()).all(), (share, SEED)


def test_nothing_to_sample_from_is_refused():
    """transformers ends in a RuntimeError of torch.multinomial here."""
    with pytest.raises(ValueError, match="nothing to sample from"):
        sampling.choose(torch.full((1, 5), -math.inf), True)
