"""A step of all layers as one program: the logits of the model, and how its graph is compiled.

Most tests run the compiler's graphs in Python, since C++ takes seconds for each; the last ones compile.
"""

from __future__ import annotations

import shutil

import pytest
import torch
import torch.nn.functional as F
from helpers.reference import SMALL, save_random

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.linear.layer import make_quantized
from llama_jp.linear.scheme import Scheme
from llama_jp.speed import static_steps
from llama_jp.speed.compiled_sums import compile_with_sums
from llama_jp.speed.static_steps import StaticLlama, is_compiled_whole

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: g++")


@pytest.fixture
def graphs(monkeypatch) -> list[torch.fx.GraphModule]:
    """The graphs that reach inductor, which run in Python instead."""
    found = []

    def keep(graph, examples):
        found.append(graph)
        return graph.forward

    monkeypatch.setattr(torch._inductor, "compile", keep)
    return found


def linears(graph: torch.fx.GraphModule) -> int:
    return sum(node.target is F.linear for node in graph.graph.nodes)


def compare_steps(
    plain: llama_jp.Llama, batch: int, length: int, capacity: int, steps: int, static: StaticLlama | None = None
) -> StaticLlama:
    """Compare static steps with the model's after `length` tokens.

    The tolerance is some units of the dtype's rounding: sums have another order.
    """
    static = static or StaticLlama(plain)
    caches = [each.new_cache(batch, capacity) for each in (static, plain)]
    tolerance = 16 * torch.finfo(plain.embed_tokens.weight.dtype).eps
    ids = torch.randint(0, plain.config.vocab_size, (batch, length + steps), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for part in (ids[:, :length], *ids[:, length:].split(1, dim=1)):
            ours, theirs = (each(part, cache) for each, cache in zip((static, plain), caches, strict=True))
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())
        rows = [batch - 1, 0]
        for cache in caches:
            cache.crop(length)
            cache.select_rows(rows)
        ours, theirs = (
            each(ids[rows, length : length + 1], cache) for each, cache in zip((static, plain), caches, strict=True)
        )
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * theirs.abs().max().item())
    return static


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("length", "capacity"), [(5, 8), (126, 128), (200, 256)])
def test_logits(small, graphs, dtype, batch, length, capacity):
    """Grouped heads; the second case ends in the last position of the cache."""
    plain = load_model(small, dtype=dtype, device="cpu")
    compare_steps(plain, batch, length, capacity, steps=2)
    assert len(graphs) == 2  # one program for the batch, one for the selected rows
    for graph, rows in zip(graphs, (batch, 2), strict=True):
        assert linears(graph) == (0 if rows == 1 else 7 * plain.config.num_hidden_layers + 1)


@needs_compiler
def test_compiled_logits(small):
    """Two programs in turn: a step of two rows, then steps of one."""
    plain = load_model(small, dtype="float32", device="cpu")
    static = compare_steps(plain, 2, 6, 8, steps=2)
    compare_steps(plain, 1, 6, 8, steps=2, static=static)


def test_biases(tmp_path, graphs):
    shape = SMALL | {"attention_bias": True, "mlp_bias": True}
    plain = load_model(save_random(tmp_path, 3, torch.float32, **shape), dtype="float32", device="cpu")
    compare_steps(plain, 1, 4, 8, steps=1)


def test_every_shape_is_compiled(small, graphs):
    """Guards against torch's limit of eight compilations of one function, after which steps silently run in Python."""
    sentences = []
    plain = load_model(small, dtype="float32", device="cpu")
    plain.layers = plain.layers[:1]  # to trace fewer operations
    static = StaticLlama(plain, on_compile=sentences.append)
    for batch in range(1, 11):
        for _ in range(2):
            static(torch.ones(batch, 1, dtype=torch.long), static.new_cache(batch, 8))
        assert len(graphs) == len(sentences) == batch
    assert sentences[2] == "compiling the decoding step (batch size 3, 128 positions)"


def test_a_weight_that_changes_in_the_model_changes_in_its_steps(small, graphs):
    """Guards against weights that are constants of the program; and hooks are part of it."""
    plain = load_model(small, dtype="float32", device="cpu")
    plain.layers = plain.layers[:1]  # to trace fewer operations
    plain.layers[0].mlp.register_forward_hook(lambda module, inputs, output: 2 * output)
    static = StaticLlama(plain)
    ids = torch.ones(1, 1, dtype=torch.long)
    with torch.no_grad():
        static(ids, static.new_cache(1, 8))
        plain.layers[0].mlp.up_proj.weight.mul_(2)
        plain.lm_head.weight = torch.nn.Parameter(3 * plain.lm_head.weight)
        torch.testing.assert_close(static(ids, static.new_cache(1, 8)), plain(ids))


def test_a_full_cache_and_a_wrong_id_are_errors(small, graphs):
    """Guards against a program that writes beyond the end of the cache: in C++ that ends the process."""
    static = StaticLlama(load_model(small, dtype="float32", device="cpu"))
    ids, cache = torch.ones(1, 1, dtype=torch.long), static.new_cache(1, 8)
    static(ids, cache)
    static.programs[1, 128] = lambda *_: pytest.fail("the program runs")
    cache.length = 128
    with pytest.raises(ValueError, match="holds 128 positions, 128 are used and 1 more are needed"):
        static(ids, cache)
    cache.length = 1
    with pytest.raises(IndexError):
        static(ids + SMALL["vocab_size"], cache)
    assert cache.length == 1


def test_a_machine_without_a_compiler(small, monkeypatch):
    def fail(graph, examples):
        raise RuntimeError("No working C++ compiler found")

    static = StaticLlama(load_model(small, dtype="float32", device="cpu"))
    cache = static.new_cache(1, 8)
    with monkeypatch.context() as patch:
        patch.setattr(torch._inductor, "compile", fail)
        with pytest.raises(
            ValueError, match=r"cannot be compiled on this machine: .*No working C\+\+ compiler found; ins"
        ):
            static(torch.ones(1, 1, dtype=torch.long), cache)
    assert cache.length == 0 and not static.programs


def test_only_one_row_becomes_sums(graphs):
    """Rows of a batch, or of several tokens, stay a matrix product."""
    weight, bias = torch.randn(5, 16), torch.randn(5)

    def both(x, y):
        return F.linear(x, weight), F.linear(x, weight, bias), F.linear(y, weight)

    x, y = torch.randn(1, 1, 16), torch.randn(2, 16)
    results = torch.compile(both, backend=compile_with_sums, dynamic=False)(x, y)
    assert linears(graphs[0]) == 1
    for ours, theirs in zip(results, both(x, y), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_large_and_quantised_models_are_compiled_by_block(small, monkeypatch, graphs):
    plain = load_model(small, dtype="float32", device="cpu")
    assert is_compiled_whole(plain)
    monkeypatch.setattr(static_steps, "SMALL_LAYER", 1e3)
    assert not is_compiled_whole(plain)
    compare_steps(plain, 1, 4, 8, steps=1)
    assert len(graphs) == 4  # a block and a head for each of two batch sizes
    monkeypatch.undo()
    make_quantized(plain, Scheme(8))
    assert not is_compiled_whole(plain)


def test_speculation(small, graphs):
    """Checks of draft tokens have several tokens, and steps between them have one."""
    plain = load_model(small, dtype="float32", device="cpu")
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": []}
    prompt = [1, 5, 6, 7, 5, 6, 7, 5]
    (expected,) = llama_jp.generate(plain, [prompt], **options)
    for speculation in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": load_model(small, device="cpu")}):
        (answer,) = llama_jp.generate(StaticLlama(plain), [prompt], **options, **speculation)
        assert answer.ids == expected.ids
    (answer,) = llama_jp.generate(plain, [prompt], **options, assistant_model=StaticLlama(plain))
    assert answer.ids == expected.ids
