"""Looking inside changes nothing: not a bit of the output, and not the model afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llama_jp.checkpoint.random_checkpoint import random_config, random_ids, write_random
from llama_jp.model import Llama, repeat_heads
from llama_jp.tracing import point_names, trace

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
    with trace(model, ["**"]) as seen:
        during = logits(model)
    assert torch.equal(before, during)
    assert torch.equal(before, logits(model))
    assert len(seen) >= len(point_names(model)) - 2  # all but containers that are never called, such as layers


def test_points_carry_the_same_names_and_numbers_on_both_sides(folder):
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
    with trace(model, ["rope.*", "layers.1.*", "layers.1.self_attn.*", "layers.1.mlp.*"]) as seen:
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
        f"{at}.mixed": (B, H, T, D),
        "layers.1.after_attention": (B, T, C),
        "layers.1.mlp.mlp_act": (B, T, F),
    }
    for name, shape in shapes.items():
        assert seen[name].shape == shape, name
    assert torch.allclose(seen[f"{at}.probabilities"].sum(-1), torch.ones(B, H, T), atol=1e-6)  # sums of 9 rounded
    mixed = seen[f"{at}.probabilities"] @ repeat_heads(seen[f"{at}.values"], H)
    assert torch.allclose(mixed, seen[f"{at}.mixed"], atol=1e-6)  # the fused kernel sums in another order


def state_of(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return hooks, [getattr(m, "attend", None) for m in model.modules()]


@pytest.mark.parametrize("load", [here, reference])
def test_leaving_cleans_up_after_an_exception_too(folder, load):
    model = load(folder)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="on purpose"), trace(model, ["**"]):
        logits(model)
        raise RuntimeError("on purpose")
    assert state_of(model) == before
    if load is reference:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        assert "get_interface" not in vars(ALL_ATTENTION_FUNCTIONS)


def test_a_model_may_be_traced_inside_a_trace(folder):
    for model in (here(folder), reference(folder)):
        before = state_of(model)
        with trace(model, ["layers.*.self_attn.mixed"]) as outer:
            with trace(model, ["layers.*.self_attn.mixed"]) as inner:
                logits(model)
            logits(model)
        assert len(inner.calls("layers.0.self_attn.mixed")) == 1
        assert len(outer.calls("layers.0.self_attn.mixed")) == 2
        assert state_of(model) == before


def test_every_call_is_kept(folder):
    model = here(folder)
    cache = model.new_cache(batch_size=2, max_length=9)
    with torch.no_grad(), trace(model, ["layers.2.self_attn.keys"]) as seen:
        model(IDS[:, :5], cache)
        model(IDS[:, 5:], cache)
    first, second = seen.calls("layers.2.self_attn.keys")
    assert first.shape[2] == 5 and second.shape[2] == 9
    assert torch.equal(first, second[:, :, :5])


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("point", ["layers.1.mlp", "layers.1.self_attn.mixed", "layers.1.mlp.mlp_act"])
def test_an_edit_reaches_what_comes_after(folder, load, point):
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


def test_scores_can_be_edited_where_attention_writes_them(folder):
    model = here(folder, attention="eager")
    flat = {"layers.0.self_attn.scores": torch.zeros_like}
    with trace(model, ["layers.0.self_attn.probabilities"], edit=flat) as seen:
        logits(model)
    assert torch.allclose(seen["layers.0.self_attn.probabilities"], torch.full((), 1 / 9))
    fused = here(folder)
    with pytest.raises(ValueError, match="attention='eager'"), trace(fused, [], edit=flat):
        logits(fused)


def test_names_that_fit_nothing_and_edits_that_cannot_be_are_refused(folder):
    model = here(folder)
    with (
        pytest.raises(ValueError, match="no point of this model matches 'layers.9.mlp'"),
        trace(model, ["layers.9.mlp"]),
    ):
        pass
    with (
        pytest.raises(ValueError, match="can be looked at but not edited"),
        trace(model, [], edit={"layers.0.after_attention": torch.zeros_like}),
    ):
        pass


def test_any_module_can_be_traced():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(5, 3)
    with trace(model, ["*"]) as seen:
        y = model(x)
    assert list(seen) == ["0", "1", "2"]
    assert torch.equal(seen["2"], y)


@pytest.mark.parametrize("load", [here, reference])
def test_new_keys_are_seen_before_a_cache_changes_them(folder, load):
    model = load(folder)

    class Forgetful:
        """A cache that writes zeros, for either model."""

        def append(self, k, v):
            return torch.zeros_like(k), v

        def update(self, k, v, layer):
            return self.append(k, v)

    def given(module, args, kwargs):
        named = {**kwargs, "past_key_values": Forgetful()} if "past_key_values" in kwargs else kwargs
        return (*args[:3], Forgetful()) if len(args) == 4 else args, named

    with trace(model, ["layers.1.self_attn.*"]) as plain:
        logits(model)
    handle = model.get_submodule("layers.1.self_attn" if load is here else "model.layers.1.self_attn")
    handle = handle.register_forward_pre_hook(given, with_kwargs=True)
    with trace(model, ["layers.1.self_attn.*"]) as seen:
        logits(model)
    handle.remove()
    assert torch.equal(seen["layers.1.self_attn.k_rot"], plain["layers.1.self_attn.k_rot"])
    assert not seen["layers.1.self_attn.keys"].any()
