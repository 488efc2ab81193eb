"""The distribution before and after each filter, beside the run."""

from __future__ import annotations

import math

import pytest
import torch
from inspection.conftest import content_of

from llama_jp.inspection import report


def test_the_stages_have_names_values_and_counts(made):
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


@pytest.mark.parametrize(
    "named",
    [
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"do_sample": True, "temperature": 2.0, "min_p": 0.1, "seed": 1},
    ],
)
def test_the_last_stage_is_the_distribution_of_the_run(demo, tmp_path, named):
    """Against: filters on other ids, or on the logits of another stage."""
    model, tokenizer = demo
    ids = tokenizer.encode("クマは、クマは、クマは、")
    run = report(model, ids, tmp_path / "page.html", max_new_tokens=6, **named)
    for number, choice in enumerate(content_of(tmp_path / "page.html")["choices"]):
        text = torch.tensor([run.ids[: len(ids) + number]])
        scores = run.task.filter(text, run.logits[number][None])[0]
        assert scores[choice["chosen"]].item() == run.answer.scores[number]
        p = scores.softmax(-1)[choice["ids"]]
        torch.testing.assert_close(torch.tensor(choice["stages"][-1]["p"]), p, rtol=0, atol=6e-7)  # six digits
