"""The choice between kernels whose times are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llama_jp.checkpoint.load import load_model
from llama_jp.linear.kernels import CompiledDotKernel, LinearKernel, OneDNNKernel
from llama_jp.speed import kernel_selection, optimization
from llama_jp.speed.kernel_selection import STEPS, Candidate, Selection, best_of


def candidate(kernel: type[LinearKernel], step: float, prompt: float) -> Candidate:
    """A kernel with these seconds for a step, in the fastest run, and for a prompt."""
    return Candidate(kernel, [], step_seconds=[step * 3, step, step * 1.1], prompt_seconds=STEPS * prompt)


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


class FastPrompt(LinearKernel):
    name = "fast prompt"


class FastStep(LinearKernel):
    name = "fast step"


def seconds_of(products, x):
    """The times of the kernels above; the layers as they are take longest."""
    step, prompt = {FastPrompt: (1.2, 0.2), FastStep: (1.0, 0.9)}.get(type(products[0]), (2.0, 2.0))
    return step if len(x) == 1 else STEPS * prompt


@pytest.mark.parametrize(("every_token", "kernel"), [(True, FastPrompt), (False, FastStep)])
def test_the_prompt_counts_where_layers_see_all_of_it(monkeypatch, every_token, kernel):
    monkeypatch.setattr(kernel_selection, "mean_seconds", seconds_of)
    groups = [[nn.Linear(16, 8, bias=False)]]
    found = kernel_selection.select_kernel([FastPrompt, FastStep], groups, torch.float32, 1, False, every_token)
    assert found.kernel is kernel


def test_only_the_head_sees_one_token_of_a_prompt(small, monkeypatch):
    every_token = {}

    def record(kernels, groups, dtype, rows, exact, every):
        every_token[groups[0][0].out_features] = every
        return Selection(None)

    monkeypatch.setattr(optimization, "select_kernel", record)
    model = load_model(small, dtype="float32", device="cpu")
    optimization.optimize(model, "close")
    assert [size for size, every in every_token.items() if not every] == [model.config.vocab_size]
    assert len(every_token) > 1
