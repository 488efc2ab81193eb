"""The recorded run: every tensor at its position, whatever the calls of the model were."""

from __future__ import annotations

import pytest
import torch

import llama_jp
from llama_jp.generation.options import Options
from llama_jp.inspection.run import VALUES, Run, run_traced


def record(demo, ids, *, layers=range(6), heads=range(4), assistant_model=None, **named) -> Run:
    options = Options.resolve(demo[0], None, named)
    return run_traced(*demo, ids, options, list(layers), list(heads), assistant_model)


@pytest.fixture(scope="module")
def ids(demo):
    return demo[1].encode("クマは海辺に行きました。クマは海辺で")


@pytest.mark.parametrize("named", [{}, {"prefill_chunk_size": 3}, {"prompt_lookup_num_tokens": 4}, {"draft": True}])
def test_the_tensors_are_those_of_the_whole_text(demo, ids, named):
    """Against: rows of rejected draft tokens, and rows of another call. One call of the whole text is the measure.

    Steps and whole calls round differently in float32: the deviation measured on these tensors is below 3e-5.
    """
    named = dict(named)
    draft = llama_jp.load("demo", dtype="bfloat16")[0] if named.pop("draft", False) else None
    run = record(demo, ids, max_new_tokens=16, assistant_model=draft, **named)
    N = len(run.ids) - 1
    with llama_jp.trace(demo[0], ["**"]) as seen:
        logits = demo[0](torch.tensor([run.ids[:N]]))[0]
    close = {"rtol": 1e-3, "atol": 1e-3}
    for layer in range(6):
        name = f"layers.{layer}"
        torch.testing.assert_close(run.hidden[layer + 1], seen[name][0], **close)
        torch.testing.assert_close(run.weights[layer], seen[f"{name}.self_attn.probabilities"][0], **close)
        torch.testing.assert_close(run.norms[f"{name}.mlp"], seen[f"{name}.mlp"][0].norm(dim=-1), **close)
        rotated = seen[f"{name}.self_attn.q_rot"][0]
        torch.testing.assert_close(run.samples[f"{name}.self_attn.q_rot"], rotated[0, :, :VALUES], **close)
    torch.testing.assert_close(torch.stack(run.logits), logits[len(ids) - 1 :], **close)
    assert bool(run.drafts) == (draft is not None or "prompt_lookup_num_tokens" in named)


def test_the_chosen_heads_are_kept(demo, ids):
    """Against: the first heads under the names of the chosen ones."""
    whole, part = record(demo, ids, max_new_tokens=2), record(demo, ids, max_new_tokens=2, layers=[4], heads=[1, 3])
    assert torch.equal(part.weights[4], whole.weights[4][[1, 3]]) and part.weights.keys() == {4}


def test_a_greedy_call_counts_its_tokens(demo, ids):
    run = record(demo, ids, max_new_tokens=3)
    N = len(ids)
    assert run.calls == [(N, N), (1, N + 1), (1, N + 2)]


def test_drafts_are_those_that_were_counted(demo, ids):
    """Against: drafts at other positions. Accepted ones are the tokens of the text at their position."""
    draft = llama_jp.load("demo", dtype="bfloat16")[0]
    run = record(demo, ids, max_new_tokens=16, assistant_model=draft)
    assert sum(len(draft.tokens) for draft in run.drafts) == run.answer.drafted > 0
    accepted = 0
    for draft in run.drafts:
        for i, token in enumerate(draft.tokens):
            if run.ids[draft.position + i : draft.position + i + 1] != [token]:
                break
            accepted += 1
    assert accepted == run.answer.accepted > 0


def test_a_draft_model_of_the_same_modules_is_refused(demo, ids):
    """Against: a page that mixes the calls of the model and of its draft model."""
    with pytest.raises(ValueError, match="shares modules with the model"):
        record(demo, ids, assistant_model=demo[0])


def test_bfloat16_speculation_runs_query_by_query(ids):
    """Attention then runs once for each draft token, and the other operations once for all."""
    model = llama_jp.load("demo", dtype="bfloat16")
    plain, drafted = (
        record(model, ids, max_new_tokens=12),
        record(model, ids, max_new_tokens=12, prompt_lookup_num_tokens=3),
    )
    assert drafted.answer.drafted > 0 and drafted.ids == plain.ids
    for layer in (0, 5):
        torch.testing.assert_close(plain.weights[layer], drafted.weights[layer], rtol=0.05, atol=0.01)
