"""The distribution before and after each filter, beside the run."""

from __future__ import annotations

import math

from inspection.conftest import content_of


def test_the_stages_are_those_of_the_run(made):
    """Against: filters in another order, or on other ids. The last score of a chosen token is that of the run."""
    path, run = made
    choices = content_of(path)["choices"]
    assert len(choices) == len(run.answer.ids)
    for choice, id, logprob in zip(choices, run.answer.ids, run.answer.logprobs, strict=True):
        names = [(stage["option"], stage["value"]) for stage in choice["stages"]]
        assert names == [("", None), ("temperature", 0.8), ("top_k", 50), ("top_p", 0.9)]
        row = choice["ids"].index(choice["chosen"])
        assert choice["chosen"] == id and choice["stages"][-1]["p"][row] > 0
        assert choice["stages"][0]["p"][row] == round(math.exp(logprob), 6)
        kept = [stage["kept"] for stage in choice["stages"]]
        assert kept[:3] == [3072, 3072, 50] and kept[3] <= 50


def test_the_last_distribution_is_the_one_that_was_sampled(made):
    path, run = made
    for choice, logits, score in zip(content_of(path)["choices"], run.logits, run.answer.scores, strict=True):
        assert (logits / 0.8)[choice["chosen"]].item() == score
