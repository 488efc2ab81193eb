"""Known mistakes: where a result is too near the right one for a verdict."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llama_jp.checkpoint.random_checkpoint import random_config
from llama_jp.parity.judge.causes import bitwise_cause, likely_cause, met_by_chance
from llama_jp.parity.judge.context import OperationContext
from llama_jp.parity.operations import Operation
from llama_jp.parity.run.recording import Call

INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


def context_of(kind: str, inputs: list[Tensor], out: Tensor) -> OperationContext:
    names = [f"input {i}" for i in range(len(inputs))]
    ids = torch.zeros(out.shape[:2], dtype=torch.long)
    points = dict(zip([*names, "out"], [*inputs, out], strict=True))
    return OperationContext(
        Operation("out", kind, tuple(names)), Call(ids, None, ids.shape[1], out, points), random_config("tiny"), {}
    )


def moved(x: Tensor, steps: int, elements: int) -> Tensor:
    """x with some of its elements a number of ULPs farther from zero."""
    bits = x.clone().view(INTEGERS[x.dtype])
    bits.view(-1)[:elements] += steps
    return bits.view(x.dtype)


@pytest.mark.parametrize(
    ("dtype", "steps", "elements", "by_chance"),
    [
        (torch.float32, 4, 96, True),
        (torch.float32, 5, 1, False),
        (torch.bfloat16, 4, 3, True),
        (torch.bfloat16, 5, 3, False),
        (torch.bfloat16, 1, 4, False),
        (torch.float16, 4, 3, True),
        (torch.float16, 1, 4, False),
    ],
)
def test_a_mistake_counts_only_far_enough_from_the_right_result(dtype, steps, elements, by_chance):
    """Guards against a wrong eps that a right formula meets, and against a limit that excuses real mistakes."""
    right = torch.rand(2, 6, 8).add(1).to(dtype)
    mistake = moved(right, steps, elements)
    context = context_of("residual", [right, right], mistake)
    assert met_by_chance(context, mistake, right) == by_chance
    assert met_by_chance(context, right, mistake) == by_chance


@pytest.mark.parametrize(("size", "called"), [(2**-22, False), (2**-20, True)])
def test_a_residual_added_twice_is_called_by_its_distance_in_ulps(size, called):
    """`added twice` gives the result to the bit in both cases: 2 and 8 ULPs from the right one."""
    x, y = torch.full((1, 4, 8), 1.0), torch.full((1, 4, 8), size)
    assert bitwise_cause(context_of("residual", [x, y], x + y + y)) == ("added twice" if called else None)


@pytest.mark.parametrize(("rest", "cause"), [(1 / 5, None), (1 / 50, "subtracted")])
def test_a_mistake_is_named_only_if_it_is_far_nearer_than_the_right_formula(rest, cause):
    """Guards against a wrong name: four times nearer says nothing, 49 times does."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 6, 32, generator=generator)
    out = x - y + 2 * y * rest  # between the mistake x - y and the right x + y
    assert likely_cause(context_of("residual", [x, y], out)) == cause
