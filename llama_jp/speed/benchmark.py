"""The speed of a model, as a share of this machine's memory bandwidth and arithmetic, measured in the same run.

A decoding step loads every weight once, so its measure is the share of the memory bandwidth (model bandwidth
utilisation, MBU). Prefill consists of matrix products, so its measure is the share of the peak of arithmetic.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from ..checkpoint.random_checkpoint import random_ids
from ..generation.interface import generate
from ..model import Llama

BUFFER_BYTES = 1 << 30  # of the buffer for the bandwidth: far more than a CPU cache holds

SIDE = 2048  # of the square matrices for the peak of arithmetic

PROMPT = 32  # tokens before decoding

WARM_UP_STEPS = 4  # decoding steps before those that are measured


@dataclass
class Seconds:
    """The durations of several runs, in seconds."""

    runs: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def rate(self, amount: float) -> dict[str, float]:
        """`amount` per second: the median, the lowest and the highest rate."""
        return {
            "median": amount / self.median,
            "lowest": amount / max(self.runs),
            "highest": amount / min(self.runs),
        }


class MachineLimits(NamedTuple):
    """Upper bounds for any model on this machine."""

    bandwidth: float  # bytes per second
    flops: float  # floating-point operations per second


class StepSize(NamedTuple):
    """The weights that a decoding step loads."""

    nbytes: int
    weights: int


class Workload(NamedTuple):
    """The calls to measure."""

    prompts: list[int]  # lengths of prompts, in tokens
    batches: list[int]  # batch sizes for decoding
    steps: int  # decoding steps in each run
    runs: int


@dataclass
class Rates:
    """Tokens per second (median, lowest, highest), and the share of the machine's limit that they reach."""

    prefill: dict[int, dict[str, float]] = field(default_factory=dict)  # by prompt length, with `share_of_peak`
    decode: dict[int, dict[str, float]] = field(default_factory=dict)  # by batch size, with `mbu`


def seconds(run: Callable[[], object], runs: int, device: torch.device) -> Seconds:
    """Measure `run` several times, after one run as a warm-up."""

    def once() -> float:
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    once()
    return Seconds([once() for _ in range(runs)])


@torch.inference_mode()
def measure_machine(dtype: torch.dtype, device: torch.device, runs: int = 5) -> MachineLimits:
    """Measure the bandwidth with a sum over BUFFER_BYTES, and the arithmetic with a product of square matrices."""
    buffer = torch.zeros(BUFFER_BYTES // 4, device=device)
    x, y = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    sums = seconds(buffer.sum, runs, device)
    products = seconds(lambda: x @ y, runs, device)
    return MachineLimits(BUFFER_BYTES / sums.median, 2 * SIDE**3 / products.median)


@torch.inference_mode()
def time_prefill(model: Llama, tokens: int, runs: int) -> Seconds:
    """Measure the prefill of a prompt with a new cache, up to the logits of its last token."""
    device = model.embed_tokens.weight.device
    ids = random_ids(model.config, 1, tokens).to(device)
    return seconds(lambda: model(ids, model.new_cache(1, tokens), last_only=True), runs, device)


def time_decoding(model: Llama, batch: int, steps: int, runs: int, prompt: int = PROMPT) -> Seconds:
    """Measure a step of greedy decoding of a batch after prompts of `prompt` tokens.

    The result is the mean of `steps` steps after WARM_UP_STEPS.
    """
    prompts = random_ids(model.config, batch, prompt).tolist()
    times: list[float] = []

    def clock(ids: torch.Tensor, scores: torch.Tensor) -> bool:
        times.append(time.perf_counter())
        return False

    def run() -> float:
        times.clear()
        tokens = WARM_UP_STEPS + steps
        generate(model, prompts, max_new_tokens=tokens, do_sample=False, eos_token_id=[], stopping_criteria=clock)
        return (times[-1] - times[WARM_UP_STEPS - 1]) / steps

    run()
    return Seconds([run() for _ in range(runs)])


def size_of_step(model: Llama) -> StepSize:
    """The weights that a decoding step loads: all but the embedding, of which it uses one row per token.

    Call it on a model as loaded. A quantised or optimised layer moves its weight to its kernel at the first use.
    """
    nbytes = weights = 0
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            nbytes += tensor.nbytes
            weights += tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1)  # uint8: two int4 numbers
    return StepSize(nbytes, weights)


def measure(model: Llama, workload: Workload, limits: MachineLimits, size: StepSize) -> Rates:
    """Measure prefill and decoding of one model. Prompts longer than its context are left out."""
    context = model.config.max_position_embeddings
    rates = Rates()
    for tokens in workload.prompts:
        if tokens > context:
            continue
        rate = time_prefill(model, tokens, workload.runs).rate(tokens)
        rates.prefill[tokens] = rate | {"share_of_peak": 2 * size.weights * rate["median"] / limits.flops}
    for batch in workload.batches:
        step = time_decoding(model, batch, min(workload.steps, context - PROMPT - WARM_UP_STEPS), workload.runs)
        mbu = size.nbytes / step.median / limits.bandwidth
        rates.decode[batch] = step.rate(batch) | {"mbu": mbu}
    return rates
