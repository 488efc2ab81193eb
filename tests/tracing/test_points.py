"""Tracing changes no bit of the output and leaves no hook in the model, whatever happens inside the `with` block."""

from __future__ import annotations

import inspect

import pytest
import torch
from helpers.traced import IDS, here, logits, reference, state_of
from torch import nn

from llama_jp.bridge import CACHE
from llama_jp.model import Llama, attend_eager, repeat_heads
from llama_jp.tracing import point_names, trace


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


def test_attention_gets_arguments_that_the_trace_does_not_know(folder):
    """Guards against a trace that hides a parameter of the attention function, or drops its argument."""
    found = []

    def attend(q, k, v, mask, positions):
        found.append(positions)
        return attend_eager(q, k, v, mask)

    model = here(folder, attention=attend)
    attention = model.layers[0].self_attn
    q = torch.randn(1, 4, 3, 16)
    with trace(model, ["layers.0.self_attn.probabilities"]) as seen:
        assert list(inspect.signature(attention.attend).parameters)[4] == "positions"
        output = attention.attend(q, q[:, :2], q[:, :2], None, torch.arange(3))
    assert found[0].tolist() == [0, 1, 2] and torch.equal(output, attend_eager(q, q[:, :2], q[:, :2], None))
    assert seen["layers.0.self_attn.probabilities"].shape == (1, 4, 3, 3)


@pytest.mark.parametrize("load", [here, reference])
def test_a_trace_of_nothing_installs_nothing(folder, load):
    """Guards against a cost without a use."""
    model = load(folder)
    before = state_of(model)
    with trace(model):
        assert state_of(model) == before


def test_a_trace_of_nothing_leaves_compiled_code_on():
    torch._dynamo.reset()
    compiled = torch.compile(torch.nn.Linear(2, 2), backend="eager")
    with trace(compiled), torch.no_grad():
        frames = torch._dynamo.utils.counters["frames"]["total"]
        compiled(torch.ones(1, 2))
        assert torch._dynamo.utils.counters["frames"]["total"] == frames + 1


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


def test_a_name_in_the_place_of_a_list_is_refused(folder):
    with pytest.raises(ValueError, match=r"points is a list of names; write \['layers.1'\]"):
        trace(here(folder), "layers.1").__enter__()


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
        named = {**kwargs, CACHE: ZeroCache()} if CACHE in kwargs else kwargs
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


def test_a_point_that_was_not_computed_is_named(folder):
    model = here(folder)
    with trace(model, ["layers.0.mlp"]) as activations:
        pass
    for ask in (activations.__getitem__, activations.calls):
        with pytest.raises(KeyError, match="layers.0.mlp was not recorded"):
            ask("layers.0.mlp")
    assert "layers.0.mlp" not in activations and activations.get("layers.0.mlp") is None
