"""Fused layers give the outputs of separate ones, in any order of calls and after any change of the input.

All numbers are small integers: their sums are exact, so the order in which a kernel adds does not matter.
"""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from llama_jp.linear.fused import FusedLinear, FusedSlice
from llama_jp.linear.kernels import LinearKernel
from llama_jp.linear.weight import Weight

SIZES = [24, 8, 16]


def integers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(seed)).float()


@pytest.fixture
def weight() -> torch.Tensor:
    return integers(sum(SIZES), 32, seed=1)


@pytest.fixture
def slices(weight) -> list[FusedSlice]:
    fused = FusedLinear(LinearKernel(Weight(weight)), SIZES)
    return [FusedSlice(fused, index) for index in range(len(SIZES))]


@pytest.fixture
def layers(weight) -> list[nn.Linear]:
    """Separate layers with the same weights."""
    layers = [nn.Linear(32, size, bias=False) for size in SIZES]
    for layer, part in zip(layers, weight.split(SIZES), strict=True):
        layer.weight = nn.Parameter(part.clone(), requires_grad=False)
    return layers


CHANGES = {
    "in place": lambda x: x.mul_(2),
    "through a view": lambda x: x[..., -1].neg_(),
    "of the shape": lambda x: x.unsqueeze_(0),
    "of the storage": lambda x: setattr(x, "data", x.data + 1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("made_in", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("used_in", [torch.no_grad, torch.inference_mode])
def test_an_input_changed_between_calls_gives_new_outputs(slices, layers, change, made_in, used_in):
    """Guards against outputs of the old content. A tensor made in inference mode has no version counter."""
    with made_in():
        x = integers(1, 5, 32)
    if x.is_inference() and used_in is torch.no_grad:
        pytest.skip("torch refuses to change an inference tensor outside of inference mode")
    for first, second in ((0, 0), (0, 1), (1, 2), (2, 0)):
        with used_in():
            slices[first](x)
            CHANGES[change](x)
            assert torch.equal(slices[second](x), layers[second](x))


def test_an_output_changed_in_place_changes_no_other(slices, layers):
    """Guards against handing out one tensor twice."""
    x = integers(3, 32)
    slices[0](x).zero_()
    assert torch.equal(slices[0](x), layers[0](x))
    assert torch.equal(slices[1](x), layers[1](x))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_one_product_for_all_slices(slices, layers, monkeypatch, mode):
    """Guards against the loss of the speed-up, and of memory: three calls multiply once and keep nothing."""
    products = []
    multiply = LinearKernel.__call__
    monkeypatch.setattr(LinearKernel, "__call__", lambda self, x: products.append(1) or multiply(self, x))
    with mode():
        for n in range(1, 4):
            x = integers(n, 32)
            for one, layer in zip(slices, layers, strict=True):
                y = one(x)
                assert torch.equal(y, layer(x)) and y.is_contiguous()
            assert len(products) == n
            assert slices[0].fused.pending is None, "outputs that every slice has returned stay in memory"


def test_outputs_of_another_mode_are_not_used(slices, layers):
    """Guards against an inference tensor outside of inference mode, and against a dtype of autocast outside of it."""
    x = integers(3, 32)
    with torch.inference_mode():
        slices[0](x)
    assert not slices[1](x).is_inference()
    with torch.autocast("cpu", torch.bfloat16):
        slices[0](x)
    assert torch.equal(slices[1](x), layers[1](x))


def test_threads_get_their_own_outputs(slices, layers):
    """Guards against outputs of another thread's input."""
    wrong = []

    def work(seed: int) -> None:
        x = integers(1, 32, seed=seed)
        expected = [layer(x) for layer in layers]
        for _ in range(200):
            for one, y in zip(slices, expected, strict=True):
                if not torch.equal(one(x), y):
                    wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_gradients_are_refused(slices):
    """Guards against gradients that are silently missing, and against a refusal of the outputs themselves."""
    x = integers(3, 32).requires_grad_()
    with torch.no_grad():
        expected = slices[0](x)
    y = slices[0](x)
    assert torch.equal(y, expected)
    with pytest.raises(RuntimeError, match=r"computes no gradients; call undo\(\)"):
        y.sum().backward()
