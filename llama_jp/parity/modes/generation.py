"""The modes `greedy` and `sampled`: generate from the same prompts, and find the first token that differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...generation.interface import generate
from ...model import LlamaConfig
from ...text.vocabulary import first_difference
from ...tracing import is_reference
from ..comparison import Comparison, Tolerance, sha256_of
from ..judge.findings import Finding
from ..run.models import ComparedModel, with_distinct_names
from ..run.recording import torch_threads
from .forward import compare

GENERATION_MODES: dict[str, dict[str, Any]] = {  # the options of `generate`
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95},
}


def compare_generation(
    first: ComparedModel,
    second: ComparedModel,
    prompts: Tensor,
    new_tokens: int,
    mode: str,
    config: LlamaConfig,
    tolerance: Tolerance,
    seed: int,
    expect: Sequence[str] = (),
) -> Comparison:
    """Generate up to `new_tokens` tokens for each prompt with both models, and compare the tokens.

    Shapes: prompts (B, T) int64. At the first token that differs, `compare` runs on the text before it, operation by
    operation. Raises ValueError for a model that cannot generate.
    """
    first, second = with_distinct_names(first, second)
    found = compare(first, second, prompts, config=config, tolerance=tolerance, expect=expect)
    if found.non_finite is not None:  # no token is the right one
        found.mode = mode
        return found
    options = GENERATION_MODES[mode] | {"max_new_tokens": new_tokens}
    a, b = (new_ids(model, prompts, options, seed) for model in (first, second))
    sha256 = [sha256_of(torch.tensor(row) for row in rows) for rows in (a, b)]
    steps = [first_difference(row_a, row_b) for row_a, row_b in zip(a, b, strict=True)]
    differing = [(step, row) for row, step in enumerate(steps) if step is not None]
    if not differing:
        notes = [f"{sum(map(len, a))} generated tokens are equal"]
        described = first.describe(), second.describe()
        return Comparison(mode, "equal", described, tolerance=tolerance, notes=notes, sha256=sha256)

    step, row = min(differing)
    text = torch.tensor([[*prompts[row].tolist(), *a[row][:step]]])
    forward_mode = "steps" if text.shape[1] > 1 else "whole"
    found = compare(first, second, text, forward_mode, config=config, tolerance=tolerance, expect=expect)
    found.mode, found.sha256 = mode, sha256
    tokens = f"{token_at(a[row], step)} in {first.name} and {token_at(b[row], step)} in {second.name}"
    found.notes.insert(0, f"new token {step} of row {row} is {tokens}")
    if found.verdict == "equal":
        found.verdict = "bug"
        cause = "all logits before this token are equal, but the models choose different tokens"
        found.findings = [Finding("choice", "choice", None, step, "bug", first.name, cause, token=(row, step))]
    return found


def token_at(ids: list[int], step: int) -> int | str:
    return ids[step] if step < len(ids) else "missing"


@torch.no_grad()
def new_ids(model: ComparedModel, prompts: Tensor, options: dict[str, Any], seed: int) -> list[list[int]]:
    """The generated ids of every row, up to and including EOS."""
    call: Any = model.call  # this project's model or transformers'
    with torch_threads(model.settings.threads):
        if hasattr(call, "new_cache"):
            if options["do_sample"]:
                options = options | {"seed": seed}
            return [each.ids for each in generate(call, prompts.tolist(), **options)]
        if not is_reference(call):
            raise ValueError(f"{model.name} cannot generate: it is no model of this project and none of transformers")
        with torch.random.fork_rng(devices=[]):  # transformers samples with torch's global generator
            torch.manual_seed(seed)
            mask = torch.ones_like(prompts)
            rows = call.generate(prompts, attention_mask=mask, pad_token_id=0, use_cache=True, **options)
    return [until_eos(row, call.generation_config.eos_token_id) for row in rows[:, prompts.shape[1] :].tolist()]


def until_eos(ids: list[int], eos: int | list[int] | None) -> list[int]:
    """The ids up to and including the first EOS."""
    ends = [eos] if isinstance(eos, int) else eos or []
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))]
