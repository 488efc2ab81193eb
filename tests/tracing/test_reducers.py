"""reduce: statistics of a corpus, equal to those of the recorded tensors, in constant memory."""

from __future__ import annotations

import pytest
import torch
from helpers.traced import CONFIG, here

from llama_jp.checkpoint.random_checkpoint import random_ids
from llama_jp.tracing import trace

POINTS = ["layers.1", "layers.2.mlp.mlp_act", "layers.0.self_attn.q_rot"]
CORPUS = [random_ids(CONFIG, rows, length, seed=rows) for rows, length in ((1, 5), (3, 12), (2, 7))]

EXPECTED = {
    "mean": lambda vectors: vectors.mean(0),
    "sum": lambda vectors: vectors.sum(0),
    "max": lambda vectors: vectors.amax(0),
    "norm": lambda vectors: vectors.norm(dim=-1).mean(),
}


@torch.no_grad()
def run(model, **options):
    with trace(model, POINTS, **options) as seen:
        for ids in CORPUS:
            model(ids)
    return seen


@pytest.mark.parametrize("reduce", EXPECTED)
def test_named_statistics_are_those_of_all_vectors(folder, reduce):
    """Guards against a mean of means: texts of different lengths count by their tokens."""
    model = here(folder)
    seen, found = run(model), run(model, reduce=reduce)
    assert list(found) == list(seen)
    for name in seen:
        vectors = torch.cat([x.flatten(0, -2) for x in seen.calls(name)]).double()
        expected = EXPECTED[reduce](vectors).float()
        assert found[name].shape == expected.shape and found[name].dtype == torch.float32
        assert torch.allclose(found[name], expected, rtol=1e-6, atol=1e-6)  # one rounding to float32
        assert found.calls(name)[0].equal(found[name]) and len(found.calls(name)) == 1


def test_a_long_sum_does_not_lose_small_terms():
    """Guards against a total in float32 or in the model's dtype."""
    model = torch.nn.Sequential(torch.nn.Identity())
    with trace(model, ["0"], reduce="sum") as seen:
        for value in (2.0**24, *[1.0] * 64):
            model(torch.tensor([[value]]))
    assert seen["0"].item() == 2**24 + 64
    with trace(model, ["0"], reduce="sum") as seen:
        model(torch.tensor([[256.0], [1.0]], dtype=torch.bfloat16))
    assert seen["0"].item() == 257  # bfloat16 has no 257


def test_a_function_gets_the_running_total(folder):
    model = here(folder)
    seen = run(model)

    def longest(total, x):
        return x if total is None or x.shape[-2] > total.shape[-2] else total

    def in_place(total, x):
        total = torch.zeros(3) if total is None else total
        total += torch.tensor([1.0, x.numel(), x.sum()])
        return total

    found, counted = run(model, reduce=longest), run(model, reduce=in_place)
    for name in seen:
        assert torch.equal(found[name], seen.calls(name)[1])
        assert counted[name][:2].tolist() == [3, sum(x.numel() for x in seen.calls(name))]


def test_a_total_that_is_no_tensor(folder):
    """The result of a function is the caller's: a count, for example."""
    seen, counted = run(here(folder)), run(here(folder), reduce=lambda total, x: (total or 0) + x.numel())
    for name in seen:
        assert counted[name] == sum(x.numel() for x in seen.calls(name))


def test_a_reducer_cannot_change_the_model(folder):
    """Guards against a total that is the model's own tensor."""
    model = here(folder)
    with torch.no_grad():
        plain = model(CORPUS[0])
        with trace(model, ["layers.1"], reduce=lambda total, x: x.zero_()):
            assert torch.equal(model(CORPUS[0]), plain)


def test_what_cannot_be_reduced_is_refused(folder):
    model = here(folder)
    with pytest.raises(ValueError, match="reduce is 'mean', 'sum', 'max', 'norm' or a function"):
        run(model, reduce="median")
    with pytest.raises(ValueError, match="reduce returned None at layers.0.self_attn.q_rot"):
        run(model, reduce=lambda total, x: None)
    changing = r"the last dimension of layers.0.self_attn.probabilities changed from 5 to 12"
    with pytest.raises(ValueError, match=changing), trace(model, ["layers.0.self_attn.probabilities"], reduce="max"):
        for ids in CORPUS:
            model(ids)
    with trace(model, ["layers.0.mlp"], reduce="mean") as seen:
        pass
    with pytest.raises(KeyError, match="layers.0.mlp was not recorded"):
        _ = seen["layers.0.mlp"]
