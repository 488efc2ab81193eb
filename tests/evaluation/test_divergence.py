"""KL divergence, top-1 agreement and perplexity against numbers by hand."""

from __future__ import annotations

import pytest
import torch

from llama_jp.evaluation.divergence import measure_divergence
from llama_jp.evaluation.documents import Text, Window


def test_measures_by_hand():
    """A vocabulary of two tokens: the reference has probabilities 3/4 and 1/4, the model 1/2 and 1/2.

    The first prediction is not scored. The tokens of the other two are 0 and 1, one of each.
    """
    first, second = torch.tensor([3.0, 1.0]).log(), torch.tensor([1.0, 1.0001]).log()
    window = Window(torch.tensor([[0, 1, 0, 1]]), torch.tensor([False, True, True]))

    found = measure_divergence([first.expand(4, 2)], [second.expand(4, 2)], Text("", "", [window]))
    assert found.kl_divergence == pytest.approx(0.75 * torch.tensor(1.5).log().item() + 0.25 * -0.693147, abs=1e-4)
    assert found.top1_agreement == 0  # the most probable token is 0 for the reference, 1 for the model
    assert found.reference_perplexity == pytest.approx((0.75 * 0.25) ** -0.5)
    assert found.perplexity == pytest.approx(2, abs=1e-3)
