"""The modes `greedy` and `sampled`: the same prompt, and which token is the first to differ."""

from __future__ import annotations

from os.path import commonprefix

import torch
from torch import Tensor

from ...generation.interface import generate
from ...model import LlamaConfig
from ...tracing import is_reference
from ..judge.findings import Finding
from ..run.models import Subject
from ..run.recording import threads
from .forward import Comparison, Tolerance, compare, digest, name_apart

SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95}
GREEDY = {"do_sample": False}


def compare_generation(
    first: Subject,
    second: Subject,
    prompts: Tensor,
    new_tokens: int,
    mode: str,
    config: LlamaConfig,
    tolerance: Tolerance,
    seed: int,
) -> Comparison:
    """Answers to prompts (B, T) on both sides; where they part, the text so far is compared operation by operation."""
    first, second = name_apart(first, second)
    options = {**(SAMPLED if mode == "sampled" else GREEDY), "max_new_tokens": new_tokens}
    answers = [answer(subject, prompts, options, seed) for subject in (first, second)]
    found = Comparison(mode, "equal", (first.describe(), second.describe()), tolerance=tolerance)
    found.details["sha256"] = [digest([torch.tensor(row) for row in rows]) for rows in answers]
    parted = [(step, row) for row in range(len(prompts)) if (step := parts_at(*(side[row] for side in answers))) >= 0]
    if not parted:
        found.notes.append(f"{sum(map(len, answers[0]))} tokens are the same")
        return found

    step, row = min(parted)
    here, there = ((side[row][step : step + 1] or ["nothing"])[0] for side in answers)
    note = f"new token {step} of row {row} is {here} on one side and {there} on the other"
    text = torch.tensor([[*prompts[row].tolist(), *answers[0][row][:step]]])
    inside = compare(first, second, text, "steps" if text.shape[1] > 1 else "whole", config=config, tolerance=tolerance)
    inside.mode, inside.notes = mode, [note, *inside.notes]
    inside.details["sha256"] = found.details["sha256"]
    if inside.verdict == "equal":
        inside.verdict = "bug"
        cause = "the logits are equal up to there: the choice of the token differs"
        inside.findings = [Finding("choice", "choice", None, step, "bug", first.name, cause, token=(row, step))]
    return inside


def parts_at(a: list[int], b: list[int]) -> int:
    """The first step at which two answers differ, or -1."""
    return -1 if a == b else len(commonprefix([a, b]))


@torch.no_grad()
def answer(subject: Subject, prompts: Tensor, options: dict, seed: int) -> list[list[int]]:
    """New tokens of every row, up to its EOS."""
    with threads(subject.settings.threads):
        if hasattr(subject.call, "new_cache"):
            sampling = {"seed": seed} if options["do_sample"] else {}
            return [each.ids for each in generate(subject.call, prompts.tolist(), **options, **sampling)]
        if not is_reference(subject.call):
            raise ValueError(f"{subject.name} cannot generate: it has no cache and is no model of transformers")
        before = torch.get_rng_state()
        torch.manual_seed(seed)
        made = subject.call.generate(prompts, attention_mask=torch.ones_like(prompts), pad_token_id=0, **options)
        torch.set_rng_state(before)
    return [until_eos(row, subject.call.generation_config.eos_token_id) for row in made[:, prompts.shape[1] :].tolist()]


def until_eos(ids: list[int], eos: int | list[int] | None) -> list[int]:
    ends = [eos] if isinstance(eos, int) else eos or []
    return ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))]
