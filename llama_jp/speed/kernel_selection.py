"""Measure kernels on this machine and select the fastest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..linear.fused import nbytes_of, weight_of
from ..linear.kernels import LinearKernel
from ..linear.weight import join

MANY = 256  # rows that stand for a prompt

STEPS = 128  # decoded after such a prompt, when it comes to what is fastest

RING_BYTES = 256 << 20  # so many bytes of weights in turn, so that none is found in the processor's cache

RUNS = 7

SAMPLE_ROWS = (*range(1, 18), 31, 32, 33, 63, 64, 65, MANY)  # kernels for blocks of rows, and for what is left over


def fastest(
    ways: list[type[LinearKernel]],
    groups: list[tuple[nn.Module, tuple[str, ...]]],
    dtype: torch.dtype,
    rows: int,
    exact: bool,
) -> tuple[type[LinearKernel], float, float] | None:
    """The way that needs least time for a prompt and its answer, and its products' gain, for `rows` rows and for many.

    None: nothing is faster than what is there, or (`exact`) nothing that is has the same bits.
    """
    ring: list[list[nn.Module]] = []
    size = 0
    for parent, names in groups:
        ring.append([getattr(parent, name) for name in names])
        size += sum(nbytes_of(layer) for layer in ring[-1])
        if size >= RING_BYTES:
            break
    inputs = ring[0][0].in_features
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.randn(n, inputs, generator=generator).to(dtype) for n in (rows, MANY))

    def as_it_is(layers: list[nn.Module]) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([layer(x) for layer in layers], dim=-1) if len(layers) > 1 else layers[0](x)

    def made(way: type[LinearKernel], layers: list[nn.Module]) -> LinearKernel:
        return way(join([weight_of(layer) for layer in layers]))

    candidates = {None: [as_it_is(layers) for layers in ring]}
    for way in ways:
        first = made(way, ring[0])
        if exact and not (way.same_arithmetic and same_bits(candidates[None][0], first, rows, inputs, dtype)):
            continue
        candidates[way] = [first, *(made(way, layers) for layers in ring[1:])]
    times = {way: time_of(products, few) for way, products in candidates.items()}
    for _ in range(RUNS - 1):  # in turns, so that a slow moment of the machine is everybody's
        for way, products in candidates.items():
            times[way] += time_of(products, few)
    seconds = {way: statistics.median(each) for way, each in times.items()}
    seconds_many = {way: min(time_of([p[0]] * 3, many)) for way, p in candidates.items()}
    best = min(candidates, key=lambda way: STEPS * seconds[way] + seconds_many[way])
    if best is None:
        return None
    return best, seconds[None] / seconds[best], seconds_many[None] / seconds_many[best]


def time_of(products: list[Callable[[Tensor], Tensor]], x: Tensor) -> list[float]:
    """Seconds of one product, as the mean of one after the other."""
    products[0](x)
    begun = time.perf_counter()
    for product in products:
        product(x)
    return [(time.perf_counter() - begun) / len(products)]


def same_bits(first: Callable, second: Callable, rows: int, inputs: int, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(1)
    samples = (torch.randn(n, inputs, generator=generator).to(dtype) for n in (rows, *SAMPLE_ROWS))
    return all(torch.equal(first(x), second(x)) for x in samples)
