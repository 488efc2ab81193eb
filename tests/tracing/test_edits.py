"""Edits: their two forms, what they may return, and that none is without effect silently."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.traced import IDS, here, logits, reference
from torch import nn

from llama_jp.tracing import Point, trace


@pytest.mark.parametrize("load", [here, reference])
def test_an_edit_may_take_its_point(folder, load):
    model, points = load(folder), []

    def note(x, point):
        points.append(point)
        return x.clone()

    with trace(model, edit={"layers.1.mlp": note, "layers.2.self_attn.q_rot": note, "norm": note}):
        logits(model)
        logits(model)
    expected = [("layers.1.mlp", 1), ("layers.2.self_attn.q_rot", 2), ("norm", None)]
    assert points == [Point(name, layer, call) for call in (0, 1) for name, layer in expected]


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


class DoubledAtPoint(nn.Module):
    def forward(self, x, point):
        assert point.name == "layers.1"
        return x * 2


def doubled(x, point, factor=2):
    return x * factor


def scaled(factor, x):
    return x * factor


@pytest.mark.parametrize(
    "edit",
    [
        lambda x: x * 2,
        lambda x, point: x * 2,
        lambda x, point="layers.9": x * (2 if point == "layers.9" else 1),  # a default holds a value of the loop
        lambda *args: args[0] * 2,
        lambda x, *, factor=2: x * factor,
        doubled,
        partial(doubled, factor=2),
        partial(scaled, 2),
        Doubled(),
        DoubledAtPoint(),
    ],
)
def test_the_form_of_an_edit_is_known_from_its_signature(folder, edit):
    """Guards against a point in the place of another argument."""
    model = here(folder)
    with trace(model, edit={"layers.1": lambda x: 2 * x}):
        expected = logits(model)
    with trace(model, edit={"layers.1": edit}):
        assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(model), expected)


@pytest.mark.parametrize("edit", [lambda: 0, lambda x, point, more: x, lambda x, *, point: x])
def test_another_form_is_refused_before_the_block(folder, edit):
    with pytest.raises(ValueError, match=r"the edit of layers.1 takes .*; an edit takes \(x\) or \(x, point\)"):
        trace(here(folder), edit={"layers.1": edit}).__enter__()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda x: None, "NoneType; return the tensor's replacement"),
        (lambda x: x.mean(1, keepdim=True), r"torch.float32 \(2, 1, 64\) for torch.float32 \(2, 9, 64\)"),
        (lambda x: x.double(), "return a tensor of the same dtype and shape"),
    ],
)
def test_a_replacement_of_another_form_is_refused(folder, edit, message):
    """Guards against a forgotten `return`, which leaves the tensor as it was, and against a silent broadcast."""
    model = here(folder)
    with (
        pytest.raises(ValueError, match=f"the edit of layers.1.mlp returned .*{message}"),
        trace(model, edit={"layers.1.mlp": edit}),
    ):
        logits(model)


def test_two_edits_of_one_point_are_refused(folder):
    """Guards against an edit that another one replaces silently."""
    edit = {"layers.*.mlp": torch.zeros_like, "layers.1.mlp": torch.ones_like}
    message = r"layers.1.mlp has two edits, layers.\*.mlp and layers.1.mlp; put them into one function"
    with pytest.raises(ValueError, match=message):
        trace(here(folder), edit=edit).__enter__()


def test_an_edit_that_chose_no_call_is_an_error(folder):
    """Guards against an experiment at a call or layer that does not exist."""
    model = here(folder)

    def at_call(number):
        def edit(x, point):
            if point.call == number:
                x[:] = 0  # in place
            return x

        return edit

    for number in (0, 1):
        with trace(model, edit={"layers.*.mlp": at_call(number)}):
            logits(model)
            logits(model)
    message = r"the edit of layers.\*.mlp returned each tensor unchanged; its points were computed 2 times"
    with pytest.raises(ValueError, match=message), trace(model, edit={"layers.*.mlp": at_call(2)}):
        logits(model)
        logits(model)
    with torch.inference_mode(), trace(model, edit={"layers.*.mlp": at_call(0)}):  # tensors without version counters
        model(IDS)


def test_an_edit_that_was_not_reached_is_an_error_at_the_end_of_the_block(folder):
    """Guards against an ablation that did nothing."""
    model = here(folder)
    edit = {"layers.*.mlp": torch.zeros_like}
    missed = r"the edit of layers.0.mlp, layers.1.mlp, layers.2.mlp had no effect"
    with pytest.raises(ValueError, match=missed), trace(model, edit=edit):
        pass
    with (
        pytest.raises(ValueError, match="the edit of layers had no effect"),
        trace(model, edit={"layers": lambda x: x}),
    ):
        logits(model)  # a list of modules is never called
    with pytest.raises(RuntimeError, match="on purpose"), trace(model, edit=edit):
        raise RuntimeError("on purpose")
    with trace(model, edit={"*": lambda x: x}):  # the list of modules among the others is no error
        logits(model)
