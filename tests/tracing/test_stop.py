"""stop_after: nothing is computed after the point, and nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from helpers.traced import IDS, here, logits, reference, state_of

from llama_jp.tracing import trace

STOPS = ["layers.1", "layers.1.self_attn.q_rot", "layers.1.self_attn.probabilities", "layers.1.mlp.mlp_act"]


@pytest.mark.parametrize("load", [here, reference])
@pytest.mark.parametrize("stop", STOPS)
def test_the_forward_ends_after_the_point(folder, load, stop):
    model = load(folder)
    before, plain = state_of(model), logits(model)
    with trace(model, ["**"]) as everything:
        logits(model)
    names = list(everything)
    with trace(model, ["**"], stop_after=stop) as seen:
        logits(model)
        pytest.fail("the call returned")
    assert list(seen) == names[: names.index(stop) + 1]
    assert all(torch.equal(seen[name], everything[name]) for name in seen)
    assert state_of(model) == before and torch.equal(logits(model), plain)


def test_a_point_is_edited_and_recorded_before_the_forward_ends(folder):
    model = here(folder)
    with trace(model, ["layers.1"], edit={"layers.1": torch.zeros_like}, stop_after="layers.1") as seen:
        logits(model)
    assert not seen["layers.1"].any()


def test_a_cache_keeps_its_length_and_its_tokens(folder):
    """Guards against a next call whose positions count tokens that have no keys in the later layers."""
    model = here(folder)
    cache = model.new_cache(2, 9)
    with torch.no_grad():
        model(IDS[:, :4], cache)
        with trace(model, stop_after="layers.1"):
            model(IDS[:, 4:], cache)
        assert cache.length == 4
        assert torch.equal(model(IDS[:, 4:], cache), here_steps(folder))


def here_steps(folder):
    model = here(folder)
    cache = model.new_cache(2, 9)
    model(IDS[:, :4], cache)
    return model(IDS[:, 4:], cache)


def test_an_outer_trace_ends_its_own_block(folder):
    """Guards against an inner block that swallows the end of the outer one, and goes on without an output."""
    model = here(folder)
    reached = []
    with trace(model, stop_after="layers.1") as outer:
        with trace(model, ["layers.0"]) as inner:
            logits(model)
        reached.append("inner")
    assert "layers.0" in inner and reached == [] and not outer
    with trace(model, ["layers.0"]) as outer:
        with trace(model, stop_after="layers.1"):
            logits(model)
        reached.append("inner")
    assert "layers.0" in outer and reached == ["inner"]


def test_what_the_forward_never_reaches_is_an_error(folder):
    model = here(folder)
    with pytest.raises(ValueError, match="the forward did not end after layers.1"), trace(model, stop_after="layers.1"):
        pass
    missed = "the edit of layers.2.mlp had no effect: the forward ended before, after layers.1"
    edit = {"layers.2.mlp": torch.zeros_like}
    with pytest.raises(ValueError, match=missed), trace(model, edit=edit, stop_after="layers.1"):
        logits(model)
    with (
        pytest.raises(ValueError, match=r"stop_after is one point, and 'layers\.\*' matches 3"),
        trace(model, stop_after="layers.*"),
    ):
        pass
    with trace(model, ["layers.2"], stop_after="layers.1") as seen:
        logits(model)
    with pytest.raises(KeyError, match="layers.2 was not recorded"):
        _ = seen["layers.2"]


def test_the_end_is_no_exception_that_a_model_catches(folder):
    model = here(folder)
    block, forward = model.layers[1], model.layers[1].forward

    def careful(*args):
        try:
            return forward(*args)
        except Exception:
            return args[0]

    block.forward = careful
    with trace(model, stop_after="layers.1.mlp"):
        logits(model)
        pytest.fail("the call returned")


def test_an_exception_inside_the_block_is_not_hidden(folder):
    with pytest.raises(RuntimeError, match="on purpose"), trace(here(folder), stop_after="layers.1"):
        raise RuntimeError("on purpose")
