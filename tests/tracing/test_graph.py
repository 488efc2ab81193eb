"""keep_graph: gradients reach every recorded tensor and pass through it, and are bit-identical to those without."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers.traced import IDS, here, reference
from torch import nn
from torch.utils.checkpoint import checkpoint

from llama_jp.tracing import trace


def output_of(model):
    output = model(IDS)
    return getattr(output, "logits", output)


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_keeping_the_graph_changes_no_bit_of_logits_and_gradients(folder, load, dtype, attention):
    model = load(folder, dtype, attention)
    plain = output_of(model)
    plain.float().pow(2).sum().backward()
    expected = gradients(model)
    model.zero_grad()
    with trace(model, ["**"], keep_graph=True, compute_scores=False):
        traced = output_of(model)
    assert torch.equal(traced, plain)
    traced.float().pow(2).sum().backward()
    for name, gradient in gradients(model).items():
        assert torch.equal(gradient, expected[name]), name


@pytest.mark.parametrize(
    ("load", "frozen", "with_cache"), [(here, False, False), (here, True, True), (reference, True, False)]
)
def test_every_recorded_tensor_has_its_gradient(folder, load, frozen, with_cache):
    """Guards against a recorded copy beside the path to the logits, and against a point on a part of the path only.

    The gradient is compared with the change of a logit when the tensor moves along it and back. Norms and softmax
    compute in float32, so the moves are large.
    """
    model = load(folder, "float32", "eager").double().requires_grad_(not frozen)

    def score(**options):
        cache = (model.new_cache(2, 9),) if with_cache else ()
        with trace(model, **options) as seen:
            output = model(IDS, *cache)
        return getattr(output, "logits", output)[0, -1, 7], seen

    logit, seen = score(points=["**"], keep_graph=True)
    points = [name for name in seen if name != "lm_head"]
    assert len(points) > 60
    tensors = [seen[name] for name in points]
    for name, gradient in zip(points, torch.autograd.grad(logit, tensors), strict=True):
        if name.endswith(("rope.cos", "rope.sin", "k_rot", "after_attention")):
            continue  # not editable; see below
        x = seen[name].detach()
        length = 1e-3 * x.numel() ** 0.5 * float(x.abs().median())  # the median, since masked scores are huge
        step = length * gradient / gradient.norm()
        with torch.no_grad():
            up, down = (score(edit={name: lambda x, step=step: x + step})[0] for step in (step, -step))
        assert float(up - down) / (2 * length) == pytest.approx(float(gradient.norm()), rel=0.02), name


def test_points_that_are_no_edits_have_the_whole_gradient(folder):
    """Guards against a hidden state whose gradient lacks the residual path, or keys without the cache's consumers."""
    model = here(folder, attention="eager").double().requires_grad_(False)
    with trace(model, ["layers.1.after_attention", "layers.1.self_attn.*", "rope.*"], keep_graph=True) as seen:
        logit = model(IDS)[0, -1, 7]
    names = list(seen)
    found = dict(zip(names, torch.autograd.grad(logit, [seen[name] for name in names]), strict=True))
    assert torch.equal(found["layers.1.self_attn.k_rot"], found["layers.1.self_attn.keys"])

    with trace(model, ["layers.1", "layers.1.mlp"], keep_graph=True) as seen:
        logit = model(IDS)[0, -1, 7]
    through_block, through_mlp = torch.autograd.grad(logit, [seen["layers.1"], seen["layers.1.mlp"]])
    assert torch.equal(through_block, through_mlp)
    with trace(model, ["layers.1.after_attention"]) as state:
        model(IDS)
    hidden = state["layers.1.after_attention"].requires_grad_()
    model.layers[1].mlp(model.layers[1].post_attention_layernorm(hidden)).backward(through_block)
    assert torch.allclose(found["layers.1.after_attention"], through_block + hidden.grad, atol=1e-6)

    rope = model.rope
    for at, name in enumerate(("rope.cos", "rope.sin")):
        step = 1e-2 * found[name] / found[name].norm()

        def moved(positions, at=at, step=step):
            pair = list(rope(positions))
            pair[at] = pair[at].double() + step
            return pair

        model.rope = moved
        up = model(IDS)[0, -1, 7]
        model.rope = partial(moved, step=-step)
        down = model(IDS)[0, -1, 7]
        model.rope = rope
        assert float(up - down) / 2e-2 == pytest.approx(float(found[name].norm()), rel=0.02)


def test_an_edit_passes_gradients_on(folder):
    """Guards against an edit whose replacement is recorded without its graph: a learned steering vector."""
    model = here(folder).requires_grad_(False)
    vector = nn.Parameter(torch.zeros(64))
    with trace(model, ["layers.1"], edit={"layers.1": lambda x: x + vector}, keep_graph=True) as seen:
        model(IDS)[0, -1, 7].backward()
    with trace(model, ["layers.1"], keep_graph=True) as plain:
        (expected,) = torch.autograd.grad(model(IDS)[0, -1, 7], plain["layers.1"])
    assert seen["layers.1"].requires_grad
    assert torch.allclose(vector.grad, expected.sum((0, 1)), rtol=1e-4, atol=1e-6)  # float32 sums in another order


def test_work_in_place_does_not_reach_a_recorded_tensor():
    """Guards against a tensor that a later module or edit overwrites: down_proj and the MLP return the same one."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Identity())
    x = torch.tensor([[1.0, -2.0, 3.0]])

    def zero(x):
        return x.zero_()

    with trace(model, ["0", "1"], edit={"2": zero}, keep_graph=True) as seen:
        model(x)
    with torch.no_grad():
        assert torch.equal(seen["0"], model[0](x)) and torch.equal(seen["1"], seen["0"].relu())


def test_a_hidden_state_that_the_model_overwrites_is_an_error(folder):
    """Guards against the gradient of another tensor: x += mlp(norm(x)) in a changed model."""
    model = here(folder)
    block = model.layers[1]

    def forward(x, *args):
        x = x + block.self_attn(block.input_layernorm(x), *args)
        x += block.mlp(block.post_attention_layernorm(x))
        return x

    block.forward = forward
    with trace(model, ["layers.1.after_attention", "layers.1"], keep_graph=True) as seen:
        model(IDS)
    assert seen["layers.1"].requires_grad
    with pytest.raises(ValueError, match="changed layers.1.after_attention in place"):
        _ = seen["layers.1.after_attention"]


def test_a_graph_that_cannot_be_kept_is_refused(folder):
    model = here(folder)
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="layers.1 has no graph to keep: gradients are off"),
        trace(model, ["layers.1"], keep_graph=True),
    ):
        model(IDS)
    with (
        pytest.raises(ValueError, match="no scores in its graph in layers.1.self_attn; load with attention='eager'"),
        trace(model, ["layers.1.self_attn.scores"], keep_graph=True),
    ):
        model(IDS)
    with pytest.raises(ValueError, match="choose one"), trace(model, ["layers.1"], keep_graph=True, reduce="mean"):
        pass


# Activation checkpointing


class Checkpointed(nn.Module):
    """A block that is computed again in the backward pass."""

    def __init__(self, block):
        super().__init__()
        self._checkpoint_wrapped_module = block

    def forward(self, *args):
        return checkpoint(self._checkpoint_wrapped_module, *args, use_reentrant=False)


def checkpointed(model):
    for i, block in enumerate(model.layers):
        model.layers[i] = Checkpointed(block)
    return model


def double_first(x, point):
    return x * 2 if point.call == 0 else x


@pytest.mark.parametrize("keep_graph", [False, True])
def test_checkpointing_applies_edits_again_and_records_once(folder, keep_graph):
    """Guards against gradients of the model without the edit, and against two records of one call."""
    points, edit = ["layers.*", "layers.*.mlp", "layers.0.self_attn.q_rot"], {"layers.1.self_attn": double_first}
    plain = here(folder)
    with trace(plain, edit=edit):
        plain(IDS).pow(2).sum().backward()
    expected = gradients(plain)

    model = checkpointed(here(folder))
    with trace(model, points, edit=edit, keep_graph=keep_graph) as seen:
        model(IDS).pow(2).sum().backward()
    assert len(seen) == 7 and all(len(seen.calls(name)) == 1 for name in seen)
    for (name, parameter), gradient in zip(model.named_parameters(), expected.values(), strict=True):
        assert torch.equal(parameter.grad, gradient), name


def test_checkpointing_does_not_count_a_call_twice(folder):
    """Guards against a second call with the number of a third one."""
    model, calls = checkpointed(here(folder)), []

    def note(x, point):
        calls.append(point.call)
        return x.clone()

    with trace(model, edit={"layers.1.self_attn": note}):
        model(IDS).sum().backward()
        with torch.no_grad():
            model(IDS)
    assert calls == [0, 0, 1]


def test_checkpointing_of_several_calls_does_not_guess_which_call_is_repeated(folder):
    model = checkpointed(here(folder))
    with (
        pytest.raises(ValueError, match="not known which of its 2 calls"),
        trace(model, edit={"layers.1.self_attn": double_first}),
    ):
        (model(IDS).sum() + model(IDS).sum()).backward()


def test_checkpointing_of_frozen_weights_keeps_the_graph(folder):
    """Guards against a repetition that saves other tensors than the first pass did."""
    model = checkpointed(here(folder).requires_grad_(False))
    with trace(model, ["embed_tokens", "layers.0.mlp", "layers.1"], keep_graph=True) as seen:
        found = torch.autograd.grad(model(IDS)[0, -1, 7], list(seen.values()))
    plain = here(folder).requires_grad_(False)
    with trace(plain, list(seen), keep_graph=True) as expected:
        for a, b in zip(found, torch.autograd.grad(plain(IDS)[0, -1, 7], list(expected.values())), strict=True):
            assert torch.equal(a, b)
