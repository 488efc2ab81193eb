"""Compiled and wrapped models are traced by the same names, and take the same edits."""

from __future__ import annotations

import pytest
import torch
from helpers.traced import here, logits, reference
from torch import nn

from llama_jp.tracing import point_names, trace


class Inner(nn.Module):
    """A wrapper with the attribute names of PEFT's tuner."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return self.model(*args, **kwargs)


class Peft(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.base_model = Inner(model)

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)


class Parallel(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.module = model

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def compiled(model):
    return torch.compile(model, backend="eager")


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_by_layer(model):
    layers = (model if hasattr(model, "layers") else model.model).layers
    for i, layer in enumerate(layers):
        layers[i] = compiled(layer)
    return model


WRAPPED = {
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled by layer": compiled_by_layer,
    "peft": Peft,
    "parallel": Parallel,
    "parallel peft": lambda model: Parallel(Peft(model)),
    "compiled peft": lambda model: compiled(Peft(model)),
}


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_wrapped_model_has_the_same_points_and_takes_the_same_edits(folder, load, wrap):
    """Guards against names with `_orig_mod.` or `base_model.model.`, which match nothing."""
    plain = load(folder)
    names = point_names(plain)
    edit = {"layers.1.mlp": torch.zeros_like}
    with trace(plain, ["layers.0.mlp"], edit=edit) as expected:
        edited = logits(plain)
    model = WRAPPED[wrap](plain)
    assert point_names(model) == names
    logits(model)  # compiles
    for prefix in ("", "_orig_mod.", "base_model.model."):
        with trace(model, [f"{prefix}layers.*.mlp"], edit={f"{prefix}layers.1.mlp": torch.zeros_like}) as activations:
            assert torch.equal(logits(model), edited)
        assert torch.equal(activations[f"{prefix}layers.0.mlp"], expected["layers.0.mlp"])
    assert not torch.equal(logits(model), edited)


@pytest.mark.parametrize("warm", [True, False])
def test_compiled_code_beside_a_trace_is_recorded_or_refused(folder, warm):
    """Guards against an edit without effect, or one that stays in the compiled code."""
    torch._dynamo.reset()
    model = here(folder)
    plain = logits(model)
    beside = compiled(model)
    if warm:
        logits(beside)
    with trace(model, edit={"layers.1.mlp": torch.zeros_like}):
        expected = logits(model)
    try:
        with trace(model, edit={"layers.1.mlp": torch.zeros_like}):
            found = logits(beside)
    except ValueError as error:
        assert "the edit of layers.1.mlp had no effect" in str(error)
    else:
        assert torch.equal(found, expected)
    assert torch.equal(logits(beside), plain)
    with trace(model, ["layers.1.mlp"]) as activations:
        logits(beside)
    if "layers.1.mlp" not in activations:
        with pytest.raises(KeyError, match="layers.1.mlp was not recorded"):
            _ = activations["layers.1.mlp"]
