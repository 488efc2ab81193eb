"""Filters and the choice, each against the reference's own class and against numbers a person can check."""

from __future__ import annotations

import math
import random

import pytest
import torch
import transformers
from helpers.reference import SEED

from llama_jp.generation import filter_chain, filters, sampling
from llama_jp.generation.options import Options

V = 37


def hard_logits(seed: int) -> torch.Tensor:
    """Rows that filters get wrong: ties, -inf, one token left, all equal, far apart."""
    torch.manual_seed(seed)
    rows = torch.randn(9, V) * 3
    rows[1] = rows[1].round()  # many ties
    rows[2, 5:] = -math.inf
    rows[3, :] = 2.0
    rows[4, 1:] = -math.inf
    rows[5] *= 100
    rows[6, ::2] = rows[6, 0]
    rows[7] = -rows[7].abs()
    return rows


FILTERS = [(lambda x, ids: x / 0.7, transformers.TemperatureLogitsWarper(0.7))]
for k in (1, 3, V, 500):
    FILTERS.append((lambda x, ids, k=k: filters.keep_top_k(x, k), transformers.TopKLogitsWarper(k)))
for p in (0.0, 0.1, 0.9, 1.0):
    FILTERS.append((lambda x, ids, p=p: filters.keep_top_p(x, p), transformers.TopPLogitsWarper(p)))
    FILTERS.append((lambda x, ids, p=p: filters.keep_min_p(x, p), transformers.MinPLogitsWarper(p)))
for penalty in (0.5, 1.3):
    reference = transformers.RepetitionPenaltyLogitsProcessor(penalty)
    FILTERS.append((lambda x, ids, p=penalty: filters.penalize_repetition(x, ids, p), reference))


@pytest.mark.parametrize(("ours", "theirs"), FILTERS)
def test_each_filter_is_the_references(ours, theirs):
    for seed in (SEED, SEED + 1):
        logits = hard_logits(seed)
        ids = torch.randint(0, V, (len(logits), 12))
        before = logits.clone()
        result = ours(logits, ids)
        assert torch.equal(result, theirs(ids, before.clone()))
        assert torch.equal(logits, before), "a filter is pure: it does not write into what it is given"
        assert (result > -math.inf).any(-1).all(), "one token at least is left"


def test_padding_is_not_penalized():
    """-1 is no token. transformers is told the lengths of the padding instead."""
    logits = torch.ones(2, V)
    ids = torch.tensor([[-1, -1, 3], [0, 4, 4]])
    penalized = filters.penalize_repetition(logits, ids, 2.0)
    assert penalized[0].nonzero().numel() == V and (penalized[0] == 0.5).nonzero().flatten().tolist() == [3]
    assert (penalized[1] == 0.5).nonzero().flatten().tolist() == [0, 4], "once per token, however often it stood there"


def test_filters_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()

    def kept(result):
        return result.isfinite()[0].tolist()

    assert kept(filters.keep_top_k(logits, 2)) == [True, True, False, False]
    assert kept(filters.keep_top_k(logits, 3)) == [True, True, True, True], "a tie with the last one kept is kept"
    assert kept(filters.keep_top_p(logits, 0.7)) == [True, True, False, False]
    assert kept(filters.keep_top_p(logits, 0.0)) == [True, False, False, False]
    assert kept(filters.keep_min_p(logits, 0.4)) == [True, True, False, False]
    assert filters.penalize_repetition(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1]]), 2.0).tolist() == [
        [1, -4, 1]
    ]


def test_the_chain_has_transformers_order_and_leaves_out_what_is_neutral():
    """temperature, top-k, top-p, min-p: another order keeps other tokens."""
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}
    assert filter_chain.make_filters(Options(do_sample=True, **neutral)) == []
    assert filter_chain.make_filters(Options(do_sample=False, **neutral | {"temperature": 0.5, "top_p": 0.5})) == []
    rng = random.Random(SEED)
    for _ in range(20):
        options = {
            "temperature": rng.choice([0.3, 1.5]),
            "top_k": rng.choice([0, 4, 20]),
            "top_p": rng.choice([0.5, 0.95, 1.0]),
            "min_p": rng.choice([None, 0.1]),
            "repetition_penalty": rng.choice([1.0, 1.4]),
        }
        ids = torch.randint(0, V, (9, 6))
        result = expected = hard_logits(rng.randrange(10**6))
        for keep in filter_chain.make_filters(Options(do_sample=True, **options)):
            result = keep(ids, result)
        config = transformers.GenerationConfig(do_sample=True, **options)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=V, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
            )
        )
        for processor in model._get_logits_processor(config, input_ids_seq_length=6):
            expected = processor(ids, expected)
        assert torch.equal(result, expected), options


def test_drawing():
    logits = hard_logits(1)
    assert torch.equal(sampling.choose(logits, False), logits.argmax(-1))
    torch.manual_seed(3)
    expected = torch.multinomial(logits.softmax(-1), 1)[:, 0]
    assert torch.equal(sampling.choose(logits, True, torch.Generator().manual_seed(3)), expected)
    torch.manual_seed(3)
    assert torch.equal(sampling.choose(logits, True), expected), "no generator: torch's own"


def test_frequencies_are_the_probabilities():
    """20,000 draws from four tokens; the chance that a right sampler fails is below one in a million (5 sigma)."""
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    n = 20_000
    drawn = sampling.choose(probabilities.log().expand(n, 4), True, torch.Generator().manual_seed(SEED))
    share = drawn.bincount(minlength=4) / n
    assert ((share - probabilities).abs() < 5 * (probabilities * (1 - probabilities) / n).sqrt()).all(), (share, SEED)
