"""The loss: equal to transformers' to the bit, unshifted labels, and errors with a way out."""

from __future__ import annotations

import pytest
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

from llama_jp.training import loss
from llama_jp.training.losses import IGNORE

B, T, V = 3, 11, 17


def numbers(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.randint(0, V, (B, T))
    labels[torch.rand(B, T) < 0.4] = IGNORE
    return torch.randn(B, T, V, dtype=dtype, requires_grad=True), labels


@pytest.mark.parametrize("count", [None, 23, torch.tensor(23)], ids=["mean", "int", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_loss_and_its_gradient_are_those_of_transformers(dtype, count):
    ours, labels = numbers(dtype)
    theirs = ours.detach().clone().requires_grad_()
    our_loss, their_loss = loss(ours, labels, count), ForCausalLMLoss(theirs, labels, V, count)
    assert our_loss.dtype == torch.float32 and torch.equal(our_loss, their_loss)
    our_loss.backward(), their_loss.backward()
    assert torch.equal(ours.grad, theirs.grad)


def test_labels_are_shifted_inside():
    """Against: labels that the caller has to shift, as in many training scripts."""
    logits, labels = torch.full((1, 3, 4), -50.0), torch.tensor([[1, 2, 3]])
    logits[0, 0, 2] = logits[0, 1, 3] = 50.0  # position 0 predicts label 1, position 1 predicts label 2
    assert loss(logits, labels) == 0
    labels[0, 0] = IGNORE
    assert loss(logits, labels) == 0, "the first column is never a target"


def test_errors_name_the_numbers_and_the_way_out():
    logits, labels = numbers(torch.float32)
    with pytest.raises(ValueError, match=r"logits \(3, 11, 17\) and labels \(3, 5\) do not fit"):
        loss(logits, labels[:, :5])
    with pytest.raises(ValueError, match="no label is a target"):
        loss(logits, torch.full((B, T), IGNORE))
    broken = logits.detach().clone()
    broken[0, :, 3] = float("nan")
    with pytest.raises(ValueError, match=r"nan: 11 of 561 logits are not finite; try a smaller learning rate"):
        loss(broken, labels)


def test_a_call_without_a_target_adds_nothing_to_an_accumulated_step():
    logits, _ = numbers(torch.float32)
    assert loss(logits, torch.full((B, T), IGNORE), 10) == 0
