"""The state of a run on disk: what a killed run needs for the same bits."""

from __future__ import annotations

import torch
from torch import nn

from llama_jp.training.state import load_state, save_state


def test_the_random_state_is_restored(tmp_path):
    """Against: other random numbers after a kill, as dropout in a changed model uses them."""
    model = nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.manual_seed(5)
    save_state(tmp_path, model, optimizer, step=7)
    weights, expected = model.weight.detach().clone(), torch.rand(4)

    other = nn.Linear(3, 3)
    torch.manual_seed(99)
    assert load_state(tmp_path, other, torch.optim.AdamW(other.parameters())) == 7
    assert torch.equal(torch.rand(4), expected) and torch.equal(other.weight, weights)
