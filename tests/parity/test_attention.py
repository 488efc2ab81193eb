"""Attention that computes in a wider dtype is rounding, in a narrower one a bug; a small factor inside is a bug."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.compared_models import CONFIG, IDS, here, reference
from helpers.faults import eager_with, rewritten, set_attention

from llama_jp.checkpoint.random_checkpoint import random_ids
from llama_jp.model import attend_eager, attend_sdpa, repeat_heads
from llama_jp.parity import compare
from llama_jp.parity.run.recording import FORWARD_MODES


def eager_in(
    product=torch.float32, softmax=torch.float32, values=torch.float32, scaled=torch.float32, masked=-math.inf
):
    """`attend_eager` with a dtype for each of its steps. None: the model's."""

    def attend(q, k, v, mask):
        T, S, model_dtype = q.shape[2], k.shape[2], q.dtype
        visible = torch.ones(T, S, dtype=torch.bool).tril(S - T) if mask is None else mask
        keys, mixed = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
        scores = q.to(product or model_dtype) @ keys.to(product or model_dtype).transpose(2, 3)
        scores = (scores.to(scaled or model_dtype) * q.shape[3] ** -0.5).masked_fill(~visible, masked)
        probabilities = scores.softmax(-1, dtype=softmax).to(values or model_dtype)
        return (probabilities @ mixed.to(values or model_dtype)).to(model_dtype)

    return attend


def in_float32(attend):
    return lambda q, k, v, mask: attend(q.float(), k.float(), v.float(), mask).to(q.dtype)


def softmax_by_hand(scores):
    e = (scores.float() - scores.float().amax(-1, keepdim=True)).exp()
    return e / e.sum(-1, keepdim=True)


WIDER = {
    "eager in float32": in_float32(attend_eager),
    "sdpa in float32": in_float32(attend_sdpa),
    "eager in float64": eager_in(torch.float64, torch.float64, torch.float64, torch.float64),
    "another mask": eager_in(masked=-1e9),
    "scores in float32": eager_in(values=None),
    "product in the model's dtype": eager_in(product=None),
    "values in float32": eager_in(product=None, scaled=None),
    "softmax in float64": eager_in(product=None, scaled=None, softmax=torch.float64, values=None),
    "softmax by hand": eager_with(softmax=softmax_by_hand),
}


@pytest.mark.parametrize("name", WIDER)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_attention_in_a_wider_dtype_is_rounding(folder, name, dtype):
    """Guards against a bug where attention is nearer to float64 than the reference's."""
    model = here(folder, dtype)
    for layer in range(CONFIG.num_hidden_layers):
        set_attention(model, layer, WIDER[name])
    fused, eager = reference(folder, dtype), reference(folder, dtype, "eager")
    for first, second, mode in ((model, fused, "whole"), (model, eager, "ragged"), (eager, model, "whole")):
        found = compare(first, second, IDS, mode)
        assert found.verdict in ("equal", "rounding"), found.bug


@pytest.mark.parametrize("attend", ["attend_eager", "attend_sdpa"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_queries_keys_and_values_that_are_cast_before_attention_are_rounding(folder, attend, dtype):
    """Guards against "kept in float32" for numbers of 16 bits."""
    old = "mixed = self.attend(q, k, v, visible, *positions)"
    for new in (
        f"mixed = {attend}(q.float(), k.float(), v.float(), visible).to(x.dtype)",
        "mixed = self.attend(q.float(), k.float(), v.float(), visible).to(x.dtype)",
    ):
        for mode in ("whole", "steps"):
            found = compare(rewritten(here(folder, dtype), old, new), reference(folder, dtype), IDS, mode)
            assert found.verdict == "rounding", found.bug


NARROWER = {
    "scores": (eager_in(scaled=torch.bfloat16), "scores"),
    "probabilities": (eager_in(softmax=torch.bfloat16), "probabilities"),
    "probabilities cast": (eager_in(values=torch.bfloat16), "attn_output"),
    "everything": (
        lambda q, k, v, mask: attend_sdpa(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask).to(q.dtype),
        "attn_output",
    ),
}


@pytest.mark.parametrize("name", NARROWER)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_in_a_narrower_dtype_is_a_bug(folder, name, attention):
    """Guards against a bound of the wrong result's own dtype."""
    attend, point = NARROWER[name]
    model = here(folder)
    set_attention(model, 1, attend)
    found = compare(model, reference(folder, attention=attention), IDS)
    assert found.bug is not None and found.bug.operation == f"layers.1.self_attn.{point}"


@pytest.mark.parametrize("factor", [1.005, 0.995])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_small_factor_of_the_scores_inside_fused_attention_is_found(folder, factor, attention):
    """Guards against queries with few visible keys, whose noise hides the factor of the others."""
    for seed, mode in enumerate(FORWARD_MODES):
        model = here(folder, "bfloat16", attention)
        set_attention(model, seed, lambda q, k, v, mask: attend_sdpa(q * factor, k, v, mask))
        found = compare(model, reference(folder, "bfloat16", attention), random_ids(CONFIG, 3, 14, seed), mode)
        assert found.bug is not None and found.bug.operation == f"layers.{seed}.self_attn.attn_output"
        assert "the scores are " in found.bug.cause
