"""Static steps give the same tokens, compiled or not, and leave the model as it is."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest
import torch
from helpers.changed_models import attend_window
from helpers.reference import SMALL, save_random

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.linear import kernels
from llama_jp.linear.layer import make_quantized
from llama_jp.linear.scheme import Scheme
from llama_jp.speed.kernel_selection import Selection
from llama_jp.speed.static_steps import StaticLlama

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++")


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
@pytest.mark.parametrize("kernel", ["MKLKernel", "CompiledDotKernel", "LinearKernel"])
def test_optimised_layers_inside_compiled_blocks(demo, monkeypatch, kernel):
    """Guards against a kernel that the compiler cannot trace: it is called outside of the graph."""
    demo.layers = demo.layers[:2]  # to compile fewer operations
    optimize_module = importlib.import_module("llama_jp.speed.optimization")
    selection = Selection(getattr(kernels, kernel), 1.0, 1.0)
    monkeypatch.setattr(optimize_module, "select_kernel", lambda *_: selection)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    (plain,) = llama_jp.generate(demo, [[1, 300, 301, 302]], **options)
    llama_jp.optimize(demo, "close", rows=8)
    (static,) = llama_jp.generate(StaticLlama(demo), [[1, 300, 301, 302]], **options)
    assert static.ids == plain.ids


STATES = {
    "plain": lambda folder: load_model(folder, dtype="float32", device="cpu"),
    "packed": lambda folder: optimized_model(folder, kernels.MKLKernel),
    "compiled dot": lambda folder: optimized_model(folder, kernels.CompiledDotKernel),
    "int8": lambda folder: quantized_model(folder, Scheme(8)),
    "int4": lambda folder: quantized_model(folder, Scheme(4, 32)),
}


def optimized_model(folder: Path, kernel: type[kernels.LinearKernel]) -> llama_jp.Llama:
    model = load_model(folder, dtype="float32", device="cpu")
    with pytest.MonkeyPatch.context() as patch:
        optimize_module = importlib.import_module("llama_jp.speed.optimization")
        patch.setattr(optimize_module, "select_kernel", lambda *_: Selection(kernel, 1.0, 1.0))
        llama_jp.optimize(model, "close", rows=8)
    return model


def quantized_model(folder: Path, scheme: Scheme) -> llama_jp.Llama:
    """Random stored numbers in bfloat16, where int8 and int4 weights have kernels of their own."""
    model = load_model(folder, dtype="bfloat16", device="cpu")
    make_quantized(model, scheme)
    scale = 0.0017 if scheme.bits == 8 else 0.027  # a standard deviation of 1 / 8, so that activations stay near 1
    for name, buffer in model.named_buffers():
        if name.endswith("weight"):
            buffer.random_(-127, 128) if buffer.dtype == torch.int8 else buffer.random_(0, 256)
        else:
            buffer.fill_(scale if name.endswith("scale") else 0.0)
    return model


@needs_compiler
@pytest.mark.parametrize("state", STATES)
@torch.no_grad()
def test_the_given_model_stays_as_it_is(multiples_of_32, state):
    """Guards against a patched `forward` or a new attribute in modules that the caller still uses."""
    model = STATES[state](multiples_of_32)
    ids = torch.arange(3, 13)[None]
    before = model(ids)  # which also builds the kernels of quantised layers
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    children = {name: dict(module.named_children()) for name, module in model.named_modules()}
    state_dict = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    static = StaticLlama(model)
    (answer,) = llama_jp.generate(static, [[1]], max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert len(answer.ids) == 4

    for name, module in model.named_modules():
        assert vars(module).keys() == attributes[name].keys(), name
        assert all(value is attributes[name][key] for key, value in vars(module).items()), name
        assert dict(module.named_children()) == children[name], name
        assert "forward" not in vars(module), name
    assert torch.equal(model(ids), before)
    after = model.state_dict()
    assert after.keys() == state_dict.keys() and all(torch.equal(after[name], state_dict[name]) for name in after)


@needs_compiler
@pytest.mark.parametrize("state", ["int8", "int4"])
@torch.no_grad()
def test_static_steps_of_a_quantised_model(multiples_of_32, state):
    """Guards against tracing the first use of a quantised layer, which packs its weight: there is no prompt."""
    model = STATES[state](multiples_of_32)
    static = StaticLlama(model)
    caches = [each.new_cache(1, 8) for each in (static, model)]
    for token in (1, 5, 9):
        ours, plain = (
            each(torch.tensor([[token]]), cache) for each, cache in zip((static, model), caches, strict=True)
        )
        assert (ours - plain).norm() < 0.05 * plain.norm()  # rounding in bfloat16; measured: up to 0.024


@pytest.fixture(scope="module")
def multiples_of_32(tmp_path_factory) -> Path:
    """A small model whose shapes every kernel for int8 and int4 supports."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "head_dim": 16, "vocab_size": 128}
    return save_random(tmp_path_factory.mktemp("multiples"), 7, torch.float32, **SMALL | shape)


@torch.no_grad()
def test_logits_of_steps_and_chunks(small):
    """Grouped heads, with steps and chunks in turn. The kernel with a mask sums in another order: hence a tolerance."""
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
    """Guards against a step that runs as an ordinary forward pass, which is slower and gives the same tokens."""
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
    with pytest.raises(ValueError, match="rope_type 'dynamic' changes the rotation of old positions"):
        StaticLlama(load_model(growing, dtype="float32", device="cpu"))


class OwnCache(llama_jp.Llama):
    def new_cache(self, *args, **kwargs):
        return super().new_cache(*args, **kwargs)


def test_changes_that_a_static_step_would_ignore_are_refused(small):
    """Guards against a window or a cache of one's own that silently computes something else."""
    with pytest.raises(ValueError, match="the keys of a static step go on beyond the query, which attend_window may"):
        StaticLlama(load_model(small, attention=attend_window))
    with pytest.raises(ValueError, match="OwnCache has its own new_cache, which a static step does not call"):
        StaticLlama(OwnCache.from_pretrained(small))
