"""The choice between kernels whose times are known."""

from __future__ import annotations

import pytest

from llama_jp.linear.kernels import CompiledDotKernel, LinearKernel, OneDNNKernel
from llama_jp.speed.kernel_selection import STEPS, Candidate, best_of


def candidate(kernel: type[LinearKernel], step: float, prompt: float) -> Candidate:
    """A kernel with these seconds for a step, in the fastest run, and for a prompt."""
    return Candidate(kernel, [], [step * 3, step, step * 1.1], STEPS * prompt)


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


def test_a_fast_prompt_is_worth_little_time_of_a_step():
    """Guards against a kernel that is slower at each step, taken for a prompt that makes up for it in the total."""
    fast, slow = candidate(CompiledDotKernel, 1.0, 0.3), candidate(OneDNNKernel, 1.1, 0.2)
    assert slow.total < 1.05 * fast.total
    assert best_of([fast, slow]).kernel is best_of([slow, fast]).kernel is CompiledDotKernel


def test_the_prompt_of_the_head_does_not_count():
    """A prompt needs the logits of its last token only."""
    fast, slow = candidate(CompiledDotKernel, 1.0, 0.9), candidate(OneDNNKernel, 1.2, 0.2)
    assert best_of([fast, slow]).kernel is OneDNNKernel
    fast.prompts = slow.prompts = 0
    assert best_of([fast, slow]).kernel is CompiledDotKernel
