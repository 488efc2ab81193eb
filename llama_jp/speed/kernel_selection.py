"""Measure kernels on this machine and select the fastest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..linear.fused import LinearLayer, nbytes_of, weight_of
from ..linear.kernels import PROMPT_ROWS, SAMPLE_ROWS, LinearKernel
from ..linear.weight import join

STEPS = 128  # decoding steps after that prompt

RING_BYTES = 256 << 20  # of weights multiplied in turn: more than a CPU cache holds, so each product loads its weight

RUNS = 7

NOISE = 1.05  # two times whose ratio is smaller may change places in the next run

SMALL_WEIGHT = 16**3  # numbers up to which `F.linear` in 16 bits may leave a product to another library


class Selection(NamedTuple):
    """The fastest kernel for layers of one shape, and its speedup over the layers as they are."""

    kernel: type[LinearKernel] | None  # None: no kernel is faster than the layers as they are
    speedup: float = 1.0  # of the product at `rows` rows
    speedup_prompt: float = 1.0  # of the product at PROMPT_ROWS rows
    saved_seconds: float = 0.0  # by one product at `rows` rows


@dataclass
class Candidate:
    """One choice for layers of one shape, with its products for several blocks of the model."""

    kernel: type[LinearKernel] | None  # None: the layers as they are
    products: list[Callable[[Tensor], Tensor]]
    counts_prompt: bool = True
    step_seconds: list[float] = field(default_factory=list)  # of one product at `rows` rows, in each run
    prompt_seconds: float = 0.0  # of one product at PROMPT_ROWS rows

    @property
    def fastest_step(self) -> float:
        """Other processes only add to a time, so the least one says most about the kernel."""
        return min(self.step_seconds)

    @property
    def total(self) -> float:
        """Seconds of one layer for a prompt, if that counts, and the decoding steps after it."""
        return STEPS * self.fastest_step + self.counts_prompt * self.prompt_seconds


def select_kernel(
    kernels: list[type[LinearKernel]],
    groups: list[list[LinearLayer]],
    dtype: torch.dtype,
    rows: int,
    exact: bool,
    every_token: bool = True,
) -> Selection:
    """Select the kernel with the least time for a prompt of PROMPT_ROWS tokens and STEPS decoding steps (`best_of`).

    kernels  to choose from
    groups   layers with the same input, which become one product; one list for each block of the model
    dtype    of the activations
    rows     of activations in a decoding step
    exact    only kernels whose results are bit-identical to the layers' on random rows
    every_token  False: the layers see only the last token of a prompt, as the head does, so its time does not count
    """
    ring = ring_of(groups)
    inputs = ring[0][0].in_features
    smallest = min(layer.out_features for layer in ring[0]) * inputs
    if exact and dtype != torch.float32 and smallest <= SMALL_WEIGHT:
        return Selection(None)  # one number in twenty thousand would have another last bit, too few to be found
    generator = torch.Generator().manual_seed(0)
    step_rows, prompt_rows = (torch.randn(n, inputs, generator=generator).to(dtype) for n in (rows, PROMPT_ROWS))

    as_it_is = Candidate(None, [separate_products(layers) for layers in ring], every_token)
    candidates = [as_it_is]
    for kernel in kernels:
        if exact and not kernel.same_arithmetic:
            continue
        first = fused_product(kernel, ring[0])
        if exact and not same_results(as_it_is.products[0], first, inputs, dtype, (rows, *SAMPLE_ROWS)):
            continue
        others = (fused_product(kernel, layers) for layers in ring[1:])
        candidates.append(Candidate(kernel, [first, *others], every_token))
    for _ in range(RUNS):  # in turns, so that a slow moment of the machine affects all candidates
        for candidate in candidates:
            candidate.step_seconds.append(mean_seconds(candidate.products, step_rows))
    for candidate in candidates:
        candidate.prompt_seconds = min(mean_seconds(candidate.products[:1], prompt_rows) for _ in range(3))
    best = best_of(candidates)
    if best.kernel is None:
        return Selection(None)
    return Selection(
        best.kernel,
        as_it_is.fastest_step / best.fastest_step,
        as_it_is.prompt_seconds / best.prompt_seconds,
        as_it_is.fastest_step - best.fastest_step,
    )


def best_of(candidates: list[Candidate]) -> Candidate:
    """The candidate with the least total. Among equals (NOISE), the fastest step and then the fastest prompt decide.

    A prompt is limited by arithmetic, and so is a decoding step where other processes leave less than all cores.
    """
    total = min(candidate.total for candidate in candidates)
    equals = [candidate for candidate in candidates if candidate.total <= NOISE * total]
    step = min(candidate.fastest_step for candidate in equals)
    equals = [candidate for candidate in equals if candidate.fastest_step <= NOISE * step]
    return min(equals, key=lambda candidate: candidate.prompt_seconds)


def ring_of(groups: list[list[LinearLayer]]) -> list[list[LinearLayer]]:
    """The first groups, up to RING_BYTES of weights."""
    ring, size = [], 0
    for layers in groups:
        ring.append(layers)
        size += sum(nbytes_of(layer) for layer in layers)
        if size >= RING_BYTES:
            break
    return ring


def separate_products(layers: list[LinearLayer]) -> Callable[[Tensor], Tensor]:
    """The outputs of the layers as they are, one after the other."""
    if len(layers) == 1:
        return layers[0]
    return lambda x: torch.cat([layer(x) for layer in layers], dim=-1)


def fused_product(kernel: type[LinearKernel], layers: list[LinearLayer]) -> LinearKernel:
    """One product for several layers."""
    return kernel(join([weight_of(layer) for layer in layers]))


def mean_seconds(products: list[Callable[[Tensor], Tensor]], x: Tensor) -> float:
    """Seconds of one product: the mean of all of them in turn, after a warm-up."""
    products[0](x)
    begun = time.perf_counter()
    for product in products:
        product(x)
    return (time.perf_counter() - begun) / len(products)


def same_results(
    first: Callable[[Tensor], Tensor],
    second: Callable[[Tensor], Tensor],
    inputs: int,
    dtype: torch.dtype,
    rows: Sequence[int],
) -> bool:
    """Whether two products are bit-identical on random samples of these numbers of rows."""
    generator = torch.Generator().manual_seed(1)
    samples = (torch.randn(n, inputs, generator=generator).to(dtype) for n in rows)
    return all(torch.equal(first(x), second(x)) for x in samples)
