"""Static steps give the same tokens, compiled or not, however the cache was filled and whatever lies behind its end."""

from __future__ import annotations

import importlib
import shutil

import pytest
import torch
from helpers.reference import SMALL, save_random

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.linear import kernels
from llama_jp.speed.static_steps import StaticLlama

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler: g++")


@pytest.fixture
def demo() -> llama_jp.Llama:
    return load_model("demo", dtype="float32", device="cpu")


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
def test_same_tokens(demo, compile):
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    prompts = [[1, 300, 301, 302], [1, 400, 401, 402]]
    static = StaticLlama(demo, compile=compile)
    ours, theirs = (llama_jp.generate(model, prompts, **options) for model in (static, demo))
    assert [answer.ids for answer in ours] == [answer.ids for answer in theirs]


def test_the_model_itself_is_saved(demo, tmp_path):
    """Guards against a class in config.json that no loader can build."""
    with pytest.raises(ValueError, match="save that model"):
        StaticLlama(demo, compile=False).save_pretrained(tmp_path / "out")
    demo.save_pretrained(tmp_path / "out")


@needs_compiler
@pytest.mark.parametrize("way", ["MKLKernel", "CompiledDotKernel", "LinearKernel"])
def test_optimised_layers_inside_compiled_blocks(demo, monkeypatch, way):
    """Whatever product was chosen: the compiler takes it in or goes around it."""
    optimize_module = importlib.import_module("llama_jp.speed.optimization")
    monkeypatch.setattr(optimize_module, "fastest", lambda *_, **__: (getattr(kernels, way), 1.0, 1.0))
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    (plain,) = llama_jp.generate(demo, [[1, 300, 301, 302]], **options)
    llama_jp.optimize(demo, "close", rows=8)
    (static,) = llama_jp.generate(StaticLlama(demo), [[1, 300, 301, 302]], **options)
    assert static.ids == plain.ids


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_same_tokens_from_a_cuda_graph(compile):
    demo = load_model("demo", dtype="float32", device="cuda")
    options = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
    ours, theirs = (
        llama_jp.generate(model, [[1, 300, 301, 302]], **options) for model in (StaticLlama(demo, compile), demo)
    )
    assert ours[0].ids == theirs[0].ids


@torch.no_grad()
def test_logits_of_steps_and_chunks(small):
    """Grouped heads; steps and chunks in turn. The masked kernel sums in another order than the plain one."""
    plain = load_model(small, dtype="float32", device="cpu")
    static = StaticLlama(plain, compile=False)
    caches = [model.new_cache(2, 40) for model in (plain, static)]
    for tensor in caches[1].keys + caches[1].values:
        assert not tensor.isnan().any()
    for length in (5, 1, 1, 3, 1, 1):
        ids = torch.randint(0, plain.config.vocab_size, (2, length))
        a, b = (model(ids, cache) for model, cache in zip((plain, static), caches, strict=True))
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        assert caches[0].length == caches[1].length
    for cache in caches:
        cache.select_rows([1, 0, 1])
    ids = torch.randint(0, plain.config.vocab_size, (3, 1))
    torch.testing.assert_close(plain(ids, caches[0]), static(ids, caches[1]), rtol=1e-5, atol=1e-5)


def test_an_eager_step_really_is_static(small, monkeypatch):
    """Only the prompt may take the ordinary way, and a step never: this is what the speed is about."""
    static = StaticLlama(load_model(small, dtype="float32", device="cpu"), compile=False)
    lengths = []
    monkeypatch.setattr(llama_jp.Llama, "forward", lambda self, ids, *args, **kwargs: lengths.append(ids.shape[1]))
    cache = static.new_cache(1, 8)
    with torch.no_grad():
        static(torch.tensor([[3, 4, 5]]), cache)
        cache.length = 3
        assert static(torch.tensor([[6]]), cache).shape == (1, 1, SMALL["vocab_size"])
    assert lengths == [3] and cache.length == 4


def test_full_caches_and_dynamic_rope_are_refused(small, tmp_path):
    static = StaticLlama(load_model(small, dtype="float32", device="cpu"), compile=False)
    cache = static.new_cache(1, 100)
    assert cache.max_length == 128  # sizes are powers of two
    cache.length = 128
    with pytest.raises(ValueError, match="holds 128 positions, 128 are used and 1 more are needed"):
        static(torch.tensor([[6]]), cache)
    with pytest.raises(ValueError, match="max_length of at least 1, not 0"):
        static.new_cache(1, 0)
    rope = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}
    growing = save_random(tmp_path, 3, torch.float32, **SMALL, **rope)
    with pytest.raises(ValueError, match="rope_type 'dynamic' turns old positions anew"):
        StaticLlama(load_model(growing, dtype="float32", device="cpu"))
