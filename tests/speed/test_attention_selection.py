"""Attention for one query in `optimize`: selected where it is right and faster, never at level "exact"."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import llama_jp
from llama_jp import Llama
from llama_jp.linear import one_query
from llama_jp.linear.one_query import OneQueryAttention
from llama_jp.model import attend_eager, attend_sdpa
from llama_jp.speed import attention_selection
from llama_jp.speed.attention_selection import select_attention
from llama_jp.speed.kept_plans import plan_file
from llama_jp.speed.static_steps import StaticLlama


@pytest.fixture(autouse=True)
def in_python(monkeypatch):
    """The same arithmetic without a compiler, which takes seconds; tests/linear/test_one_query.py compiles it."""
    monkeypatch.setattr(one_query, "compiled", lambda function: function)
    monkeypatch.setattr(attention_selection, "why_one_query_is_unavailable", lambda *_: None)


def take_seconds(monkeypatch, plain: float, fused: float) -> None:
    """Let the kernels take these times."""
    monkeypatch.setattr(
        attention_selection,
        "mean_seconds",
        lambda attend, *_: fused if isinstance(attend, OneQueryAttention) else plain,
    )


@pytest.fixture
def model(small):
    return Llama.from_pretrained(small, dtype="float32")


def attentions(model: Llama) -> list:
    return [layer.self_attn.attend for layer in model.layers]


@pytest.mark.parametrize("rows", [1, 3])
def test_the_faster_kernel_decodes(model, monkeypatch, rows, tmp_path):
    """With padding as well; and the model still saves, and is itself again after `undo`."""
    take_seconds(monkeypatch, 2.0, 1.0)
    prompts, options = [[1, 5, 9], [1, 7, 8, 9, 10], [1, 3]], {"max_new_tokens": 12, "eos_token_id": []}
    before = llama_jp.generate(model, prompts, **options)
    done = llama_jp.optimize(model, "close", rows=rows)
    assert all(isinstance(attend, OneQueryAttention) for attend in attentions(model))
    assert set(done.attention.speedups.values()) == {2.0} and done.as_dict()["attention"]["kernel"] in str(done)
    for after in (
        llama_jp.generate(model, prompts, **options),
        llama_jp.generate_many(model, prompts, batch=3, exact=False, **options),
    ):
        for one, other in zip(before, after, strict=True):
            assert one.ids == other.ids and one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    StaticLlama(model, compile=False)
    model.save_pretrained(tmp_path)
    assert attentions(Llama.from_pretrained(tmp_path)) == [attend_sdpa] * len(model.layers)
    with pytest.raises(ValueError, match="optimised already"):
        llama_jp.optimize(model)
    done.undo()
    assert attentions(model) == [attend_sdpa] * len(model.layers)


def test_exact_keeps_the_attention(model, monkeypatch):
    take_seconds(monkeypatch, 2.0, 1.0)
    assert llama_jp.optimize(model, "exact").attention is None
    assert attentions(model) == [attend_sdpa] * len(model.layers)


def test_a_slower_kernel_is_not_taken(model, monkeypatch):
    take_seconds(monkeypatch, 1.0, 1.0)
    assert select_attention(model, 1) == (None, None)


@pytest.mark.parametrize("wrong_at", [3, 64, 65, 512, 513, 1024])
def test_a_kernel_that_is_wrong_at_the_real_shape_is_not_taken(small, monkeypatch, wrong_at):
    """Guards against a library that passes a small example only."""
    model = Llama.from_pretrained(small, dtype="float32")
    model.config.max_position_embeddings = 1024
    take_seconds(monkeypatch, 2.0, 1.0)
    right = one_query.weigh_values
    monkeypatch.setattr(
        one_query,
        "weigh_values",
        lambda q, k, v, visible: right(q, k, v, visible) * (1.001 if k.shape[1] == wrong_at else 1),
    )
    choice, notice = select_attention(model, 1)
    assert choice is None and f"its result is wrong at {wrong_at} keys" in notice


@pytest.mark.parametrize("plain", [2.0, 0.5], ids=["faster", "slower"])
def test_a_second_start_measures_no_attention(model, monkeypatch, plain):
    """Guards against seconds of measuring at each start, and against another choice than the first time."""
    take_seconds(monkeypatch, plain, 1.0)
    first = llama_jp.optimize(model, "close", measure=False)
    assert (first.attention is not None) == (plain > 1)
    first.undo()
    monkeypatch.setattr(attention_selection, "mean_seconds", lambda *_: pytest.fail("nothing is measured"))
    second = llama_jp.optimize(model, "close", measure=False)
    assert second.attention == first.attention and second.deviation is None
    second.undo()
    assert llama_jp.optimize(model, "int8", measure=False).attention == first.attention


@pytest.mark.parametrize("difference", ["rows", "attention", "heads"])
def test_a_kept_attention_belongs_to_its_shape(small, monkeypatch, difference):
    take_seconds(monkeypatch, 2.0, 1.0)
    llama_jp.optimize(Llama.from_pretrained(small, dtype="float32"), "close")
    take_seconds(monkeypatch, 1.0, 2.0)
    model = Llama.from_pretrained(small, dtype="float32", attention="eager" if difference == "attention" else "sdpa")
    if difference == "heads":
        model.layers = model.layers[:1]
    assert llama_jp.optimize(model, "close", rows=2 if difference == "rows" else 1).attention is None


@pytest.mark.parametrize("wrong", ["64", "512", "missing", "renamed"])
def test_a_kept_attention_is_tested_at_the_real_shape_again(small, monkeypatch, wrong):
    """Guards against trust in a file, as for the products."""
    model = Llama.from_pretrained(small, dtype="float32")
    model.config.max_position_embeddings = 1024
    take_seconds(monkeypatch, 2.0, 1.0)
    llama_jp.optimize(model, "close", measure=False).undo()
    right, sentence = one_query.weigh_values, f"its result is wrong at {wrong} keys"
    if wrong == "missing":
        sentence = "no compiler"
        monkeypatch.setattr(attention_selection, "why_one_query_is_unavailable", lambda *_: sentence)
    elif wrong == "renamed":
        take_seconds(monkeypatch, 1.0, 2.0)
        plan_file().write_text(plan_file().read_text().replace(OneQueryAttention.name, "another kernel"))
        assert llama_jp.optimize(model, "close").attention is None
        return
    else:
        monkeypatch.setattr(
            one_query,
            "weigh_values",
            lambda q, k, v, visible: right(q, k, v, visible) * (1.001 if k.shape[1] == int(wrong) else 1),
        )
    with pytest.warns(UserWarning, match=sentence):
        assert llama_jp.optimize(model, "close", measure=False).attention is None
    assert attentions(model) == [attend_sdpa] * len(model.layers)


def test_a_wrong_attention_is_tried_again_at_the_next_start(model, monkeypatch):
    """Guards against a kept "no" of a machine that gets a compiler later."""
    take_seconds(monkeypatch, 2.0, 1.0)
    with monkeypatch.context() as context, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context.setattr(attention_selection, "why_one_query_is_unavailable", lambda *_: "no compiler")
        llama_jp.optimize(model, "close").undo()
    assert not any(
        "attention" in key for kept in json.loads(plan_file().read_text())["machines"].values() for key in kept
    )
    assert llama_jp.optimize(model, "close").attention is not None


def test_an_attention_function_of_your_own_stays(small, monkeypatch):
    def own(q, k, v, mask):
        return attend_eager(q, k, v, mask)

    model = Llama.from_pretrained(small, dtype="float32", attention=own)
    assert select_attention(model, 1) == (None, None)


def test_a_machine_without_a_compiler_has_a_notice(model, monkeypatch):
    monkeypatch.setattr(attention_selection, "why_one_query_is_unavailable", lambda *_: "no C++ compiler")
    with pytest.warns(UserWarning, match="one query, compiled is not available on this machine: no C.. compiler"):
        assert llama_jp.optimize(model, "close").attention is None


def test_an_interrupted_optimize_restores_the_attention(model, monkeypatch):
    take_seconds(monkeypatch, 2.0, 1.0)

    def interrupted(*_):
        assert any(isinstance(attend, OneQueryAttention) for attend in attentions(model))
        raise KeyboardInterrupt

    monkeypatch.setattr("llama_jp.speed.optimization.measure_deviation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        llama_jp.optimize(model, "close")
    assert attentions(model) == [attend_sdpa] * len(model.layers)


def test_scores_can_be_traced(model, monkeypatch):
    """The kernel has a softmax of its own; guards against weights of another shape at the point `probabilities`."""
    take_seconds(monkeypatch, 2.0, 1.0)
    llama_jp.optimize(model, "close")
    cache = model.new_cache(1, 8)
    with torch.no_grad():
        model(torch.tensor([[1, 2, 3]]), cache)
        with llama_jp.trace(model, ["layers.*.self_attn.probabilities"]) as seen:
            model(torch.tensor([[4]]), cache)
    assert seen["layers.0.self_attn.probabilities"].shape == (1, model.config.num_attention_heads, 1, 4)
