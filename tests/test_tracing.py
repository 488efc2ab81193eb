"""Tracing changes no bit of the output and leaves no hook in the model, whatever happens inside the `with` block."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llama_jp.checkpoint.random_checkpoint import random_config, random_ids, write_random
from llama_jp.model import Llama, attend_eager, repeat_heads
from llama_jp.tracing import is_reference, point_names, trace

CONFIG = random_config("tiny", 3)
IDS = random_ids(CONFIG, 2, 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("traced"), CONFIG, torch.float32)


def here(folder, dtype="float32", attention="sdpa"):
    return Llama.from_pretrained(folder, dtype=dtype, device="cpu", attention=attention)


def reference(folder, dtype="float32", attention="sdpa"):
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention
    ).eval()


def logits(model):
    with torch.no_grad():
        output = model(IDS)
    return getattr(output, "logits", output)


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recording_every_point_changes_no_bit(folder, load, attention, dtype):
    model = load(folder, dtype, attention)
    before = logits(model)
    with trace(model, ["**"]) as activations:
        during = logits(model)
    assert torch.equal(before, during)
    assert torch.equal(before, logits(model))
    assert len(activations) >= len(point_names(model)) - 2  # all but containers that are never called, such as layers


def test_attention_that_takes_positions_is_traced(folder):
    """Guards against a wrapper that passes on four arguments of five."""

    def attend(q, k, v, mask, positions):
        assert positions.shape == (1, k.shape[2])
        return attend_eager(q, k, v, mask)

    model = here(folder, attention=attend)
    with trace(model, ["layers.*.self_attn.scores"]) as activations:
        during = logits(model)
    assert torch.equal(during, logits(model)) and len(activations) == 3


def test_points_have_the_same_names_and_numbers_in_both_models(folder):
    for attention in ("sdpa", "eager"):
        ours, theirs = here(folder, attention=attention), reference(folder, attention=attention)
        with trace(ours, ["**"]) as a:
            logits(ours)
        with trace(theirs, ["**"]) as b:
            logits(theirs)
        assert set(a) <= set(b)
        for name in a:
            assert torch.equal(a[name], b[name]), name


def test_points_between_modules_have_the_documented_shapes(folder):
    model = here(folder)
    with trace(model, ["rope.*", "layers.1.*", "layers.1.self_attn.*", "layers.1.mlp.*"]) as activations:
        logits(model)
    B, T, H, K, D, C, F = 2, 9, 4, 2, 16, 64, 112
    at = "layers.1.self_attn"
    shapes = {
        "rope.cos": (1, T, D),
        f"{at}.q_rot": (B, H, T, D),
        f"{at}.k_rot": (B, K, T, D),
        f"{at}.keys": (B, K, T, D),
        f"{at}.values": (B, K, T, D),
        f"{at}.scores": (B, H, T, T),
        f"{at}.probabilities": (B, H, T, T),
        f"{at}.attn_output": (B, H, T, D),
        "layers.1.after_attention": (B, T, C),
        "layers.1.mlp.mlp_act": (B, T, F),
    }
    for name, shape in shapes.items():
        assert activations[name].shape == shape, name
    assert torch.allclose(
        activations[f"{at}.probabilities"].sum(-1), torch.ones(B, H, T), atol=1e-6
    )  # sums of 9 rounded
    output = activations[f"{at}.probabilities"] @ repeat_heads(activations[f"{at}.values"], H)
    assert torch.allclose(output, activations[f"{at}.attn_output"], atol=1e-6)  # the fused kernel sums in another order


def state_of(model):
    """Everything that a trace may change: hooks, attention functions, transformers' table of attention functions."""
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
    attends = [vars(m).get("attend") for m in model.modules()]
    if not is_reference(model):
        return hooks, attends
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return hooks, attends, dict(vars(ALL_ATTENTION_FUNCTIONS))


@pytest.mark.parametrize("load", [here, reference])
def test_an_exception_inside_the_block_leaves_no_hooks(folder, load):
    """Guards against a model that still records, or runs slowly, after a failed experiment."""
    model = load(folder)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="on purpose"), trace(model, ["**"]):
        logits(model)
        raise RuntimeError("on purpose")
    assert state_of(model) == before


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("name", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("failing", [1, 5, 12])
def test_an_exception_during_installation_leaves_no_hooks(folder, load, name, failing, monkeypatch):
    """Guards against an installation that fails half way and leaves its first hooks in the model."""
    model = load(folder)
    before = state_of(model)
    register, calls = getattr(nn.Module, name), []

    def register_or_fail(module, *args, **kwargs):
        calls.append(module)
        if len(calls) == failing:
            raise RuntimeError("on purpose")
        return register(module, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="on purpose"):
        patch.setattr(nn.Module, name, register_or_fail)
        with trace(model, ["**"]):
            pass
    assert len(calls) == failing
    assert state_of(model) == before


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("first_out", ["outer", "inner"])
def test_traces_of_one_model_end_in_any_order(folder, load, first_out):
    """Guards against a trace that puts back the function of another trace, which has ended before."""
    model, point = load(folder), "layers.0.self_attn.attn_output"
    before, plain = state_of(model), logits(model)
    outer, inner = trace(model, [point]), trace(model, [point], edit={point: torch.zeros_like})
    recorded = {"outer": outer.__enter__(), "inner": inner.__enter__()}
    assert not torch.equal(logits(model), plain)
    first, second = (outer, inner) if first_out == "outer" else (inner, outer)
    first.__exit__(None, None, None)
    assert torch.equal(logits(model), plain) == (first_out == "inner")  # only the inner trace has an edit
    second.__exit__(None, None, None)

    assert state_of(model) == before
    assert torch.equal(logits(model), plain)
    assert len(recorded[first_out].calls(point)) == 1
    assert len(recorded["inner" if first_out == "outer" else "outer"].calls(point)) == 2


def test_attention_that_is_a_module_can_be_traced(folder):
    """Guards against an assignment that torch refuses: a function in the place of a submodule."""

    class Attention(nn.Module):
        def forward(self, q, k, v, mask):
            return attend_eager(q, k, v, mask)

    model = Llama.from_pretrained(folder, dtype="float32", device="cpu", attention=Attention())
    names = set(model.state_dict())
    with trace(model, ["layers.*.self_attn.attn_output"]) as activations:
        plain = logits(model)
    assert len(activations) == 3
    assert isinstance(model.layers[0].self_attn.attend, Attention) and "attend" not in vars(model.layers[0].self_attn)
    assert torch.equal(logits(model), plain) and set(model.state_dict()) == names


def test_an_attention_function_assigned_inside_the_block_stays(folder):
    """Guards against a trace that undoes what the caller changes meanwhile."""
    model = here(folder)
    with trace(model, ["layers.0.self_attn.attn_output"]):
        model.layers[0].self_attn.attend = attend_eager
    assert model.layers[0].self_attn.attend is attend_eager


def test_every_call_is_recorded(folder):
    model = here(folder)
    cache = model.new_cache(batch_size=2, max_length=9)
    with torch.no_grad(), trace(model, ["layers.2.self_attn.keys"]) as activations:
        model(IDS[:, :5], cache)
        model(IDS[:, 5:], cache)
    first, second = activations.calls("layers.2.self_attn.keys")
    assert first.shape[2] == 5 and second.shape[2] == 9
    assert torch.equal(first, second[:, :, :5])


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("point", ["layers.1.mlp", "layers.1.self_attn.attn_output", "layers.1.mlp.mlp_act"])
def test_an_edit_changes_all_later_activations(folder, load, point):
    model = load(folder)
    with trace(model, ["layers.0", "layers.1"]) as plain:
        before = logits(model)
    with trace(model, ["layers.0", "layers.1", point], edit={point: torch.zeros_like}) as edited:
        after = logits(model)
    assert not edited[point].any()
    assert torch.equal(plain["layers.0"], edited["layers.0"])
    assert not torch.equal(plain["layers.1"], edited["layers.1"])
    assert not torch.equal(before, after)
    assert torch.equal(before, logits(model))


def test_scores_can_be_edited_in_eager_attention_only(folder):
    model = here(folder, attention="eager")
    flat = {"layers.0.self_attn.scores": torch.zeros_like}
    with trace(model, ["layers.0.self_attn.probabilities"], edit=flat) as activations:
        logits(model)
    assert torch.allclose(activations["layers.0.self_attn.probabilities"], torch.full((), 1 / 9))
    fused = here(folder)
    with pytest.raises(ValueError, match="attention='eager'"), trace(fused, [], edit=flat):
        logits(fused)


def test_unknown_points_and_impossible_edits_are_refused(folder):
    model = here(folder)
    with (
        pytest.raises(ValueError, match="no point of this model matches 'layers.9.mlp'"),
        trace(model, ["layers.9.mlp"]),
    ):
        pass
    with (
        pytest.raises(ValueError, match="can be recorded but not edited"),
        trace(model, [], edit={"layers.0.after_attention": torch.zeros_like}),
    ):
        pass


def test_any_module_can_be_traced():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with trace(model, ["*"]) as activations:
        y = model(x)
    assert list(activations) == ["0", "1", "2"]
    assert torch.equal(activations["2"], y)


@pytest.mark.parametrize("load", [here, reference])
def test_new_keys_are_recorded_before_a_cache_changes_them(folder, load):
    model = load(folder)

    class ZeroCache:
        """A cache of zero keys, for either model."""

        def append(self, k, v):
            return torch.zeros_like(k), v

        def update(self, k, v, layer):
            return self.append(k, v)

    def given(module, args, kwargs):
        named = {**kwargs, "past_key_values": ZeroCache()} if "past_key_values" in kwargs else kwargs
        return (*args[:3], ZeroCache()) if len(args) == 4 else args, named

    with trace(model, ["layers.1.self_attn.*"]) as plain:
        logits(model)
    handle = model.get_submodule("layers.1.self_attn" if load is here else "model.layers.1.self_attn")
    handle = handle.register_forward_pre_hook(given, with_kwargs=True)
    with trace(model, ["layers.1.self_attn.*"]) as activations:
        logits(model)
    handle.remove()
    assert torch.equal(activations["layers.1.self_attn.k_rot"], plain["layers.1.self_attn.k_rot"])
    assert not activations["layers.1.self_attn.keys"].any()


# Compiled and wrapped models


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


def test_a_point_that_was_not_computed_is_named(folder):
    model = here(folder)
    with trace(model, ["layers.0.mlp"]) as activations:
        pass
    for ask in (activations.__getitem__, activations.calls):
        with pytest.raises(KeyError, match="layers.0.mlp was not recorded"):
            ask("layers.0.mlp")
    assert "layers.0.mlp" not in activations and activations.get("layers.0.mlp") is None
