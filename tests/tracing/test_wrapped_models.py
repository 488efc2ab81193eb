"""Compiled and wrapped models are traced by the same names, and take the same edits."""

from __future__ import annotations

import pytest
import torch
from helpers.traced import IDS, here, logits, reference
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


class Bridge(nn.Module):
    """A model that holds another one under a name, as a transformers model does."""

    def __init__(self, name, model):
        super().__init__()
        setattr(self, name, model)
        self.inner = [model]

    def forward(self, *args, **kwargs):
        return self.inner[0](*args, **kwargs)


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
BRIDGED = {
    "bridge": lambda model: Bridge("model", model),
    "bridge under another name": lambda model: Bridge("llama", model),
    "peft bridge": lambda model: Peft(Bridge("llama", model)),
    "compiled peft bridge": lambda model: compiled(Peft(Bridge("model", model))),
}


@pytest.mark.parametrize(
    ("load", "wrap"),
    [
        *((load, wrap) for wrap in WRAPPED.values() for load in (here, reference)),
        *((here, w) for w in BRIDGED.values()),
    ],
    ids=[*(f"{load.__name__}-{name}" for name in WRAPPED for load in (here, reference)), *BRIDGED],
)
def test_a_wrapped_model_has_the_same_points_and_takes_the_same_edits(folder, load, wrap):
    """Guards against names with `_orig_mod.` or `base_model.model.`, which match nothing."""
    plain = load(folder)
    names = point_names(plain)
    edit = {"layers.1.mlp": torch.zeros_like}
    with trace(plain, ["layers.0.mlp"], edit=edit) as expected:
        edited = logits(plain)
    model = wrap(plain)
    assert point_names(model) == names
    logits(model)  # compiles
    for prefix in ("", "_orig_mod.", "base_model.model."):
        with trace(model, [f"{prefix}layers.*.mlp"], edit={f"{prefix}layers.1.mlp": torch.zeros_like}) as activations:
            assert torch.equal(logits(model), edited)
        assert torch.equal(activations[f"{prefix}layers.0.mlp"], expected["layers.0.mlp"])
    assert not torch.equal(logits(model), edited)


def test_a_model_with_lora_has_its_points_and_those_of_lora(folder):
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'llama-jp[train]'")
    plain = here(folder)
    expected = logits(plain)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = peft.get_peft_model(plain, config)
    assert set(point_names(here(folder))) < set(point_names(model))
    adapted = logits(model)

    def without_lora(x):
        return torch.zeros_like(x)

    with trace(
        model, ["layers.1.self_attn.q_proj.**", "layers.1.mlp"], edit={"**.lora_B.default": without_lora}
    ) as seen:
        assert torch.equal(logits(model), expected) and not torch.equal(adapted, expected)
    assert "layers.1.self_attn.q_proj.lora_A.default" in seen and "base_model.model.layers.1.mlp" not in list(seen)

    with trace(model, ["layers.1.self_attn.q_proj", "layers.1"], keep_graph=True) as seen:
        loss = model(IDS).pow(2).mean()
        points = ["layers.1.self_attn.q_proj", "base_model.model.layers.1"]
        gradients = torch.autograd.grad(loss, [seen[name] for name in points])
        model(IDS).pow(2).mean().backward()
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert all((p.grad is not None) == ("lora" in name) for name, p in model.named_parameters())


@pytest.fixture
def one_process():
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def ddp(model):
    return nn.parallel.DistributedDataParallel(model)


def fsdp(model):
    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


@pytest.mark.parametrize("parallel", [ddp, fsdp])
def test_a_parallel_model_trains_inside_a_trace(folder, one_process, parallel):
    """Guards against hooks that a wrapper does not call, and against a stopped forward that breaks the next one."""
    edit = {"layers.1.mlp": lambda x: 2 * x}
    plain = here(folder)
    with trace(plain, ["layers.0"], edit=edit) as expected:
        plain(IDS).pow(2).mean().backward()
    model = parallel(here(folder))
    names = point_names(model)
    assert names == point_names(plain)
    with trace(model, ["layers.0"], stop_after="layers.1"):
        model(IDS)
        pytest.fail("the call returned")
    with trace(model, ["layers.0"], edit=edit, keep_graph=True) as seen:
        model(IDS).pow(2).mean().backward()
    assert torch.equal(seen["layers.0"], expected["layers.0"])
    for found, parameter in zip(model.parameters(), plain.parameters(), strict=True):
        gradient = getattr(found.grad, "full_tensor", lambda found=found: found.grad)()
        assert torch.allclose(gradient, parameter.grad, rtol=1e-5, atol=1e-8)  # FSDP divides and sums


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
