"""The memory of a run: the estimate against measured runs, and the limits of a machine."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from llama_jp.checkpoint.random_checkpoint import ELYZA
from llama_jp.training import memory
from llama_jp.training.memory import MemoryNeed, check_memory, estimate_memory


def test_the_arithmetic_of_7b():
    """16 bytes for each weight in float32: weight, gradient and two moments."""
    numbers = 6_738_415_616
    need = estimate_memory(ELYZA, None, "float32", None, 4096, checkpointed=True)
    assert (need.weights, need.gradients, need.moments) == (4 * numbers, 4 * numbers, 8 * numbers)
    assert estimate_memory(ELYZA, None, "bfloat16", None, 4096, checkpointed=True).weights == 2 * numbers
    adapter = estimate_memory(ELYZA, None, "bfloat16", 8, 4096, checkpointed=True)
    assert adapter.gradients == 4 * 19_988_480, "PEFT's count for rank 8 on all linear layers of a 7B model"
    assert adapter.weights == 2 * numbers + adapter.gradients
    assert need.activations < estimate_memory(ELYZA, None, "float32", None, 4096, checkpointed=False).activations / 4


def test_a_run_that_cannot_fit_is_refused_with_the_arithmetic(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda device: 16 * 2**30)
    need = estimate_memory(ELYZA, None, "float32", None, 1024, checkpointed=False)
    with pytest.raises(ValueError, match=r"16.0 GiB are free on cpu: weights 25.1 GiB \+ .*; train an adapter"):
        check_memory(need, torch.device("cpu"), None)
    small = MemoryNeed(1, 1, 2, 20 * 2**30)
    with pytest.raises(ValueError, match="take a smaller batch or length"):
        check_memory(small, torch.device("cpu"), None)
    check_memory(dataclasses.replace(small, activations=0), torch.device("cpu"), None)
