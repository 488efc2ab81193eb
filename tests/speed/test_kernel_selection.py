"""The choice between kernels whose times are known."""

from __future__ import annotations

import pytest

from llama_jp.linear.kernels import CompiledDotKernel, LinearKernel, OneDNNKernel
from llama_jp.speed.kernel_selection import STEPS, Candidate, best_of


def candidate(kernel: type[LinearKernel], step: float, prompt: float) -> Candidate:
    """A kernel with these seconds for a step, in the median, and for a prompt."""
    return Candidate(kernel, [], [step / 2, step, step * 3], STEPS * prompt)


@pytest.mark.parametrize(
    ("step", "prompt", "kernel"),
    [
        (1.04, 0.09, OneDNNKernel),  # 3 % slower in all, with the faster prompt
        (0.96, 0.12, CompiledDotKernel),  # 2 % faster in all, with the slower prompt
        (1.2, 0.05, CompiledDotKernel),
        (0.8, 0.2, OneDNNKernel),
    ],
)
def test_among_equal_kernels_the_prompt_decides(step, prompt, kernel):
    """Guards against a choice by chance: a loop of many instructions that is slow as soon as a core is shared."""
    other = candidate(CompiledDotKernel, 1.0, 0.1)
    for candidates in ([other, candidate(OneDNNKernel, step, prompt)], [candidate(OneDNNKernel, step, prompt), other]):
        assert best_of(candidates).kernel is kernel
