"""Faster products: the same numbers where that is promised, near ones otherwise, and the way back."""

from __future__ import annotations

import importlib
import random
from math import prod

import pytest
import torch
from helpers.reference import DTYPES, SEED, random_config, save_random
from torch import nn

import llama_jp
from llama_jp import Llama
from llama_jp.cli import main
from llama_jp.linear.fused import FusedSlice
from llama_jp.linear.kernels import FEW, KERNELS, LinearKernel, available_kernels, why_unavailable
from llama_jp.linear.weight import Weight, dequantize, join

optimize_module = importlib.import_module("llama_jp.speed.optimization")
kernels = importlib.import_module("llama_jp.linear.kernels")

KINDS = {"float": DTYPES, "int8": DTYPES, "int4": DTYPES}


def weight(kind: str, dtype: torch.dtype, outputs: int = 96, inputs: int = 256, seed: int = SEED) -> Weight:
    generator = torch.Generator().manual_seed(seed)
    if kind == "float":
        return Weight(torch.randn(outputs, inputs, generator=generator).to(dtype))
    if kind == "int8":
        values = torch.randint(-127, 128, (outputs, inputs), generator=generator, dtype=torch.int8)
        return Weight(values, torch.rand(outputs, generator=generator) / 100)
    values = torch.randint(0, 256, (outputs, inputs // 2), generator=generator, dtype=torch.uint8)
    scale, zero = torch.rand(2, outputs, inputs // 64, generator=generator).to(torch.bfloat16)
    return Weight(values, scale, zero)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(128, 256), (96, 192), (61, 64), (64, 320), (61, 77)], ids=str)
def test_every_way_multiplies_by_the_same_weight(kind, dtype, shape):
    """Near the product in float64, for one row and for many, wherever they lie; the weight comes back to the bit."""
    outputs, inputs = shape
    if kind == "int4" and inputs % 64:
        pytest.skip("groups of 64 do not divide it")
    given = weight(kind, dtype, outputs, inputs)
    matrix = dequantize(given, torch.float64)
    ways, _ = available_kernels(kind, shape, dtype, "int8")
    assert LinearKernel in ways
    for way in ways:
        product = way(given)
        for shape in ((1, 1), (2, 3), (1, 8), (1, FEW), (1, FEW + 1), (2, 40)):
            numbers = torch.randn(3 + inputs * prod(shape), generator=torch.Generator().manual_seed(SEED)).to(dtype)
            x = numbers[3:].view(*shape, inputs)  # not where a block begins
            y = product(x)
            right = x.double() @ matrix.T
            eight_bits = 0.03 if "int8" in (way.activations, kind) else 0.01
            assert y.shape == right.shape and y.dtype == dtype, way.name
            assert (y.double() - right).norm() < eight_bits * right.norm(), (way.name, shape)
        for part, back in zip(given, product.unpack(), strict=True):
            assert part is None or torch.equal(part, back), way.name


@pytest.mark.parametrize("way", [way for way in KERNELS if way.activations == "int8"], ids=lambda way: way.name)
def test_rows_of_activations_do_not_see_their_neighbours(way):
    """A row's eight bits are its own: the same result alone and beside a row a thousand times as large."""
    if reason := why_unavailable(way, "int8", torch.float32):
        pytest.skip(reason)
    product = way(weight("int8", torch.float32))
    row, large = torch.randn(1, 256), torch.randn(1, 256) * 1000
    zeros = torch.zeros(1, 256)
    together = product(torch.cat([row, large, zeros]))
    assert torch.allclose(together[:1], product(row), rtol=1e-6, atol=0)
    assert torch.equal(together[2:], torch.zeros_like(together[2:]))


def test_int8_rows_are_multiplied_exactly():
    """The sum of bytes is a whole number, largest bytes included, so all that is lost is lost in rounding the row."""
    for way in (kernels.Int8FBGEMMKernel, kernels.Int8OneDNNKernel):
        if why_unavailable(way, "int8", torch.float32):
            continue
        values = torch.full((64, 4096), 127, dtype=torch.int8)
        y = way(Weight(values, torch.ones(64)))(torch.ones(2, 4096))
        assert torch.allclose(y, torch.full((2, 64), 127.0 * 4096), rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_keeps_every_bit(tmp_path, dtype):
    """Whole, in steps, in chunks, as a batch: equal before and after, and after the way back."""
    rng = random.Random(SEED)
    for number in range(3):
        folder = save_random(tmp_path / f"{number}", seed=SEED + number, **random_config(rng, "default"))
        model = Llama.from_pretrained(folder, dtype=dtype)
        ids = torch.randint(0, model.config.vocab_size, (2, 24))
        before = runs(model, ids)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        done = llama_jp.optimize(model, "exact", rows=2)
        assert done.price.differing == 0
        assert all(torch.equal(a, b) for a, b in zip(before, runs(model, ids), strict=True))
        assert_same_state(model.state_dict(), weights)
        done.undo()
        assert all(torch.equal(a, b) for a, b in zip(before, runs(model, ids), strict=True))
        assert_same_state(model.state_dict(), weights)
        assert not any(isinstance(module, FusedSlice) for module in model.modules())


def runs(model: Llama, ids: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        cache = model.new_cache(2, 24)
        chunks = [model(ids[:, a:b], cache) for a, b in ((0, 9), (9, 10), (10, 11), (11, 24))]
        return [model(ids), model(ids, last_only=True), *chunks]


def assert_same_state(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("way", "dtype"), [(way, dtype) for way in KERNELS if "float" in way.kinds for dtype in way.dtypes], ids=str
)
def test_a_model_with_any_way(small, monkeypatch, way, dtype):
    """Whichever way is the fastest somewhere: logits nearby, the same weights to save, and the way back."""
    if reason := why_unavailable(way, "float", dtype):
        pytest.skip(reason)
    monkeypatch.setattr(optimize_module, "fastest", lambda *_, **__: (way, 1.0, 1.0))
    model = Llama.from_pretrained(small, dtype=dtype)
    ids = torch.arange(3, 23).view(2, 10)
    with torch.no_grad():
        before, state = model(ids), {name: tensor.clone() for name, tensor in model.state_dict().items()}
        done = llama_jp.optimize(model, "close")
        after = model(ids)
        assert (before - after).abs().max() <= 16 * torch.finfo(dtype).eps * before.abs().max()
        assert_same_state(model.state_dict(), state)
        done.undo()
        assert torch.equal(model(ids), before)
    assert {choice.way for choice in done.choices} == {way.name}


def test_generation_is_the_same(small):
    model = Llama.from_pretrained(small, dtype="float32")
    prompts = [[1, 5, 9], [1, 7, 8, 9, 10], [1, 3]]
    options = {"max_new_tokens": 12, "do_sample": True, "seed": 3, "eos_token_id": []}
    before = [answer.ids for answer in llama_jp.generate(model, prompts, **options)]
    llama_jp.optimize(model, "exact", rows=3)
    assert [answer.ids for answer in llama_jp.generate(model, prompts, **options)] == before


def test_an_optimised_model_is_saved_as_it_was(small, tmp_path):
    model = Llama.from_pretrained(small, dtype="float32")
    state = model.state_dict()
    llama_jp.optimize(model)
    model.save_pretrained(tmp_path / "saved")
    assert_same_state(Llama.from_pretrained(tmp_path / "saved", dtype="float32").state_dict(), state)


def test_tied_weights_stay_tied(tmp_path):
    config = random_config(random.Random(1), "default") | {"tie_word_embeddings": True}
    model = Llama.from_pretrained(save_random(tmp_path, 1, **config), dtype="float32")
    llama_jp.optimize(model, "close").undo()
    assert model.lm_head.weight is model.embed_tokens.weight


def test_what_is_not_a_plain_linear_layer_is_left_alone(small):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = Llama.from_pretrained(small, dtype="float32")
    mine = Doubled(24, 40, bias=False)
    model.layers[1].mlp.up_proj = mine
    model.layers[0].self_attn.o_proj.bias = nn.Parameter(torch.ones(24))
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(ids)
        done = llama_jp.optimize(model, "exact")
        assert torch.equal(model(ids), before)
    assert model.layers[1].mlp.up_proj is mine
    assert type(model.layers[0].self_attn.o_proj) is nn.Linear
    assert {"gate_proj", "up_proj", "o_proj"} <= set(done.left_alone)  # and others, where nothing was faster


def test_joined_layers_can_be_called_in_any_order(small):
    """A hook or a tool may ask for one projection alone, or with another input."""
    model = Llama.from_pretrained(small, dtype="float32")
    attention = model.layers[0].self_attn
    x, y = torch.randn(2, 1, 5, 24)
    with torch.no_grad():
        before = [attention.q_proj(x), attention.k_proj(y), attention.v_proj(x)]
        llama_jp.optimize(model, "exact")
        assert torch.equal(attention.v_proj(x), before[2])
        assert torch.equal(attention.q_proj(x), before[0])
        assert torch.equal(attention.k_proj(y), before[1])


def test_a_product_that_is_wrong_or_missing_is_not_used(small, monkeypatch):
    """On a machine without an operator, or with one that computes nonsense: one line, and the plain product."""

    class Missing(LinearKernel):
        name = "missing"
        kinds = ("float",)

        def __init__(self, weight):
            raise RuntimeError("no such operator\nand a long story")

    class Wrong(LinearKernel):
        name = "wrong"
        kinds = ("float",)

        def __call__(self, x):
            return super().__call__(x) * 1.1

    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, Missing, Wrong))
    model = Llama.from_pretrained(small, dtype="float32")
    with pytest.warns(UserWarning) as warned:
        done = llama_jp.optimize(model, "close")
    assert [str(one.message) for one in warned] == [
        "missing is not to be had here: no such operator",
        "wrong is not to be had here: its result is wrong",
    ]
    assert {choice.way for choice in done.choices} == {"plain"}


def test_exact_that_is_not_is_taken_back(small, monkeypatch):
    """Equal on the samples and different in the model: the model is given back, and the user told."""

    class AlmostLinearKernel(LinearKernel):
        def __call__(self, x):
            return super().__call__(x) * (1 + 2**-20)

    monkeypatch.setattr(optimize_module, "fastest", lambda *_, **__: (AlmostLinearKernel, 1.0, 1.0))
    model = Llama.from_pretrained(small, dtype="float32")
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(ids)
        with pytest.raises(RuntimeError, match="nothing was changed"):
            llama_jp.optimize(model, "exact")
        assert torch.equal(model(ids), before)
    assert type(model.lm_head) is nn.Linear


def test_refusals(small):
    model = Llama.from_pretrained(small, dtype="float32")
    with pytest.raises(ValueError, match="level is one of exact, close, int8, not 'fast'"):
        llama_jp.optimize(model, "fast")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        llama_jp.optimize(model, rows=0)
    llama_jp.optimize(model)
    with pytest.raises(ValueError, match="optimised already"):
        llama_jp.optimize(model)
    with pytest.raises(RuntimeError, match="no gradients"):
        model(torch.tensor([[1, 2]]))[0].sum().backward()


def test_what_was_begun_and_failed_leaves_the_model_as_it_was(small, monkeypatch):
    class Interrupted(LinearKernel):
        made = 0

        def __init__(self, weight):
            super().__init__(weight)
            Interrupted.made += 1
            if Interrupted.made == 4:
                raise KeyboardInterrupt

    monkeypatch.setattr(optimize_module, "fastest", lambda *_, **__: (Interrupted, 1.0, 1.0))
    model = Llama.from_pretrained(small, dtype="float32")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        llama_jp.optimize(model)
    assert not any(isinstance(module, FusedSlice) for module in model.modules())
    assert_same_state(model.state_dict(), state)


def test_hooks_stay_and_frozen_weights_stay_frozen(small):
    model = Llama.from_pretrained(small, dtype="float32").requires_grad_(False)
    seen = []
    model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append(1))
    done = llama_jp.optimize(model, "close")
    seen.clear()
    model(torch.tensor([[1, 2]]))
    assert seen == [1]
    with pytest.raises(RuntimeError, match="moved or converted"):
        model.half()
    done.undo()
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_join_and_split_are_each_others_inverse():
    weights = [weight("int4", torch.float32, outputs, seed=outputs) for outputs in (8, 24)]
    for one, other in zip(weights, join(weights).split([8, 24]), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_bench_prints_what_it_measured(capsys):
    """A whole run on the bundled model: JSON on standard output, the table on standard error."""
    import json

    words = ["--prompt", "16", "--batch", "1,2", "--steps", "4", "--runs", "1", "--optimize", "exact", "--threads", "1"]
    assert main(["bench", "demo", *words, "--dtype", "float32", "--json"]) == 0
    out, table = capsys.readouterr()
    assert "decoding, batch 2" in table and "price: none" in table
    result = json.loads(out)
    for rates in (result["as_loaded"], result["optimized"]):
        assert list(rates["decode"]) == ["1", "2"] and list(rates["prefill"]) == ["16"]
        assert rates["decode"]["2"]["lowest"] <= rates["decode"]["2"]["median"] <= rates["decode"]["2"]["highest"]
    assert result["weights_read_per_step"] == (6_393_088 - 3072 * 256) * 4  # all but the embedding


def test_bench_refuses_nonsense(capsys):
    assert main(["bench", "demo", "--batch", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
    assert main(["bench", "no-such-folder"]) == 1
    assert "no-such-folder" in capsys.readouterr().err
