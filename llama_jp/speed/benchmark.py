"""How fast a model is on this machine, beside what the machine can do: bandwidth and arithmetic from the same run.

A decoding step reads every weight once, so its measure is the share of the memory bandwidth (MBU); reading a prompt is
matrix products, so its measure is the share of the arithmetic peak.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..generation.interface import generate
from ..model import Llama

BUFFER_BYTES = 1 << 30  # what bandwidth is measured on: far more than a cache

SIDE = 2048  # of the matrices that the arithmetic peak is measured on

PROMPT = 32  # tokens before decoding


@dataclass
class Seconds:
    """What several runs took."""

    runs: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def rate(self, amount: float) -> dict[str, float]:
        """`amount` per second: the median and the two ends."""
        return {
            "median": amount / self.median,
            "lowest": amount / max(self.runs),
            "highest": amount / min(self.runs),
        }


def seconds(run: Callable[[], object], runs: int, device: torch.device) -> Seconds:
    """Time `run` several times, after one that does not count."""

    def once() -> float:
        begun = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - begun

    once()
    return Seconds([once() for _ in range(runs)])


@torch.inference_mode()
def measure_machine(dtype: torch.dtype, device: torch.device, runs: int = 5) -> dict[str, float]:
    """Bytes read per second, and floating-point operations per second of a product of large square matrices."""
    buffer = torch.zeros(BUFFER_BYTES // 4, device=device)
    x, y = (torch.randn(SIDE, SIDE, device=device).to(dtype) for _ in range(2))
    reading = seconds(buffer.sum, runs, device)
    multiplying = seconds(lambda: x @ y, runs, device)
    return {"bandwidth": BUFFER_BYTES / reading.median, "flops": 2 * SIDE**3 / multiplying.median}


@torch.inference_mode()
def prefill(model: Llama, tokens: int, runs: int) -> Seconds:
    """Reading a prompt into a fresh cache, up to the logits of its last token."""
    device = model.embed_tokens.weight.device
    ids = some_ids(model, 1, tokens).to(device)
    return seconds(lambda: model(ids, model.new_cache(1, tokens), last_only=True), runs, device)


def decode(model: Llama, batch: int, steps: int, runs: int) -> Seconds:
    """One step of greedy generation of a batch, as the mean of `steps` steps after the first few."""
    prompts = some_ids(model, batch, PROMPT).tolist()
    few, times = 4, []

    def clock(ids: torch.Tensor, scores: torch.Tensor) -> bool:
        times.append(time.perf_counter())
        return False

    def run() -> float:
        times.clear()
        options = {"do_sample": False, "eos_token_id": [], "stopping_criteria": clock}
        generate(model, prompts, max_new_tokens=few + steps, **options)
        return (times[-1] - times[few - 1]) / steps

    run()
    return Seconds([run() for _ in range(runs)])


def some_ids(model: Llama, rows: int, tokens: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, model.config.vocab_size, (rows, tokens), generator=generator)


def size_of_step(model: Llama) -> tuple[int, int]:
    """Bytes of weights read by a decoding step, and how many numbers they stand for; the embedding is looked up.

    Of a model as loaded: quantised or optimised layers keep their weights elsewhere once they were used.
    """
    nbytes = numbers = 0
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            nbytes += tensor.nbytes
            numbers += tensor.numel() * (2 if tensor.dtype == torch.uint8 else 1)
    return nbytes, numbers


def measure(
    model: Llama, prompts: list[int], batches: list[int], steps: int, runs: int, limits: dict, size: tuple[int, int]
) -> dict:
    """Everything about one model: rates in tokens a second, and their shares of the measure_machine's limits."""
    nbytes, numbers = size
    context = model.config.max_position_embeddings
    result = {"prefill": {}, "decode": {}}
    for tokens in prompts:
        if tokens > context:
            continue
        rate = prefill(model, tokens, runs).rate(tokens)
        result["prefill"][tokens] = rate | {"share_of_peak": 2 * numbers * rate["median"] / limits["flops"]}
    for batch in batches:
        step = decode(model, batch, min(steps, context - PROMPT - 4), runs)
        rate = step.rate(batch)
        result["decode"][batch] = rate | {"mbu": nbytes / step.median / limits["bandwidth"]}
    return result
