"""The kinds of operations in the registry: complete, lazy, and in a fixed order of trial."""

from __future__ import annotations

import pytest
import torch

from llama_jp.checkpoint.random_checkpoint import random_config
from llama_jp.parity.judge.context import OperationContext
from llama_jp.parity.judge.kind import OperationKind
from llama_jp.parity.judge.registry import KINDS
from llama_jp.parity.operations import Operation, operations
from llama_jp.parity.run.recording import Call

CONFIG = random_config("tiny")


def context_of(operation: Operation) -> OperationContext:
    ids = torch.zeros(1, 3, dtype=torch.long)
    x = torch.randn(1, 3, CONFIG.hidden_size)
    points = dict.fromkeys((operation.name, *operation.inputs), x)
    return OperationContext(operation, Call(ids, None, 3, x, points), CONFIG, {})


def test_every_operation_has_a_kind_with_a_formula():
    """A new operation without a kind would end a comparison with a KeyError."""
    for op in operations(CONFIG):
        assert KINDS[op.kind].float64_formula is not None, op


def test_every_mistake_that_needs_the_same_bits_has_a_right_formula_to_compare_with():
    """Without one, a right result could be called a bug."""
    for kind in KINDS.values():
        assert kind.arithmetics or not (kind.bitwise or kind.reconstructed), kind.name


def test_mistakes_are_tried_in_the_order_of_the_file_and_computed_only_when_tried():
    kind, computed = OperationKind("test"), []

    @kind.mistake("first")
    def first(context):
        computed.append("first")
        return context.out

    each_step = kind.each((1, -1))

    @each_step.mistake("{:+d} to {operation.name}")
    def added(context, step):
        computed.append(step)
        return context.out + step

    @each_step.mistake("{:+d} from {config.hidden_size}")
    def subtracted(context, step):
        return context.out - step

    @kind.mistake("impossible", when=lambda context: False)
    def impossible(context):
        raise AssertionError

    trials = kind.trials(context_of(Operation("x", "test", ("y",))))
    assert next(trials).cause == "first" and computed == []
    rest = list(trials)
    size = CONFIG.hidden_size
    assert [trial.cause for trial in rest] == ["+1 to x", f"+1 from {size}", "-1 to x", f"-1 from {size}"]
    rest[2].compute()
    assert computed == [-1]


def test_a_missing_weight_is_named():
    with pytest.raises(KeyError, match=r"needs the parameter other\.weight"):
        _ = context_of(Operation("x", "norm", ("y",), "other")).weight
