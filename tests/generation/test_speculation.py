"""Speculation: the same answers, or the same distribution, from fewer calls of the model."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable

import pytest
import torch
from helpers.reference import SEED, both, random_config, save_random

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.runner import ModelRunner
from llama_jp.generation.speculation import (
    Draft,
    DraftLengthSchedule,
    PromptLookup,
    SelfDraft,
    query_by_query,
    verify_sampled,
)
from llama_jp.model import Llama, LlamaConfig
from llama_jp.speed import self_draft


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A model and a draft model that agree often: the draft is the model with a little noise on its weights.

    In float64: a call for several tokens rounds differently from calls for one, and in float32 that decides a near tie
    once in some ten thousand tokens.
    """
    torch.set_num_threads(1)
    changes = {"vocab_size": 60, "max_position_embeddings": 256, "attention_bias": False, "mlp_bias": False}
    config = random_config(random.Random(3), "default") | changes
    folder = save_random(tmp_path_factory.mktemp("large"), 3, **config)
    large, small = (load_model(folder, dtype=torch.float64, device="cpu") for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return large, small


def prompts(number: int, seed: int = SEED):
    """Half with repetitions, so that looking up finds something, half without."""
    rng = random.Random(seed)
    for i in range(number):
        prompt = [rng.randrange(60) for _ in range(rng.randrange(1, 20))]
        yield prompt * 3 if i % 2 else prompt


FILTERS = [
    {},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 3},
    {"min_new_tokens": 20, "eos_token_id": [3, 4, 5, 6, 7, 8]},
    {"eos_token_id": list(range(0, 60, 7))},
    {"forced_eos_token_id": 9},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
@pytest.mark.parametrize("kind", ["lookup", "draft"])
def test_greedy_answers_stay_the_same(pair, kind, options):
    """Guards against a draft token that is accepted though the model disagrees, filters whose ids are shifted by one
    draft token, and a cache that keeps rejected draft tokens."""
    large, small = pair
    draft = {"prompt_lookup_num_tokens": 6} if kind == "lookup" else {"assistant_model": small}
    accepted = drafted = 0
    for prompt in prompts(12):
        (plain,) = llama_jp.generate(large, [prompt], max_new_tokens=40, **options)
        (fast,) = llama_jp.generate(large, [prompt], max_new_tokens=40, **draft, **options)
        assert (fast.ids, fast.finish_reason) == (plain.ids, plain.finish_reason)
        # measured: no difference; the tolerance is for a norm, which computes in float32
        torch.testing.assert_close(fast.logprobs, plain.logprobs, rtol=0, atol=1e-5)
        accepted, drafted = accepted + fast.accepted, drafted + fast.drafted
    if not options:
        assert 0 < accepted <= drafted
        assert kind == "lookup" or accepted > drafted / 2, "a draft model this similar has most tokens accepted"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_greedy_answers_are_bit_identical_in_sixteen_bits(dtype, attention):
    """Guards against attention for several tokens in one call, which sums in another order and decides near ties.

    Products of several rows round differently in one element of many thousands. That may decide a tie, so the bound is
    below 100 %. Measured: all log-probabilities are equal; with the attention of a whole call, 70 % in bfloat16 and
    40 % in float16. Eager attention rounds the same in both cases; there the test shows that nothing else differs.
    """
    torch.set_num_threads(1)
    torch.manual_seed(1)
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=96, num_hidden_layers=2, head_dim=16, rms_norm_eps=1e-6)
    model = Llama(config, attention=attention).eval().requires_grad_(False).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.2)
    runner = ModelRunner(model, torch.ones(1, 1), None)
    if not all(runner.is_batch_invariant(size, 1) for size in range(2, 8)):
        pytest.skip("on this CPU, products of several rows round differently from those of one")
    accepted, same, tokens = 0, 0, 0
    for prompt in prompts(8, seed=1):
        (plain,) = llama_jp.generate(model, [prompt], max_new_tokens=60)
        (fast,) = llama_jp.generate(model, [prompt], max_new_tokens=60, prompt_lookup_num_tokens=6)
        accepted += fast.accepted
        pairs = [zip(answer.ids, answer.logprobs, strict=True) for answer in (fast, plain)]
        same += sum(a == b for a, b in zip(*pairs, strict=True))
        tokens += len(fast.ids)
    assert accepted > 0 and same > 0.85 * tokens


def test_attention_is_restored(pair):
    large, _ = pair
    before = [layer.self_attn.attend for layer in large.layers]
    with pytest.raises(KeyboardInterrupt), query_by_query(large):
        assert large.layers[0].self_attn.attend is not before[0]
        raise KeyboardInterrupt
    assert [layer.self_attn.attend for layer in large.layers] == before


def test_draft_length_by_hand():
    """As many as pay: more after accepted tokens, fewer after rejected ones, then growing pauses until one is accepted.

    At a cost of a half, one token pays from a share of 0.5 on, two from 0.78, four from 0.91.
    """
    schedule, lengths = DraftLengthSchedule(4, cost=0.5), []

    def step(agreed: int) -> None:
        lengths.append(schedule.next())
        schedule.update(lengths[-1], min(agreed, lengths[-1]))

    for agreed in [1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4]:
        step(agreed)
    assert lengths == [2, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    lengths.clear()
    for _ in range(14):
        step(0)
    assert lengths == [4] + [1] * 11 + [0] * 2, "after a rejection no more than one, until none pays"
    lengths.clear()
    for _ in range(100):
        step(0)
    assert [i for i, length in enumerate(lengths) if length] == [2, 11, 28, 61, 94]
    while lengths[-1] == 0:
        step(1)
    step(1)
    assert lengths[-2:] == [1, 1], "after an accepted token there is no pause"


@pytest.mark.parametrize(("share", "least"), [(0.0, 0.96), (0.3, 0.95), (0.75, 1.12), (0.9, 1.3), (0.97, 1.5)])
def test_draft_length_is_near_the_best(share, least):
    """Guards against a schedule that drafts too much or too little: tokens for the cost, over 100 texts of 100 tokens.

    The best constant lengths give 1, 1, 1.17, 1.38 and 1.58 tokens.
    """
    rng, tokens, cost = random.Random(SEED), 0, 0.0
    for _ in range(100):
        schedule, end = DraftLengthSchedule(5, cost=0.5), 0
        while end < 100:
            drafted, accepted = schedule.next(), 0
            while accepted < drafted and rng.random() < share:
                accepted += 1
            schedule.update(drafted, accepted)
            end += accepted + 1
            cost += 1 + 0.5 * drafted
        tokens += end
    assert tokens / cost > least


def test_draft_length_grows_quickly_where_all_are_accepted():
    """Guards against a short answer that ends before the most draft tokens are used."""
    schedule, lengths = DraftLengthSchedule(5, cost=0.5), []
    for _ in range(4):
        lengths.append(schedule.next())
        schedule.update(lengths[-1], lengths[-1])
    assert lengths == [2, 3, 5, 5]


def cost_of_answer(schedule: DraftLengthSchedule, new_tokens: int, agrees: Callable[[int], bool]) -> float:
    """The calls of the model for an answer: one for the prompt, and 1 + k c for each call with k draft tokens.

    agrees  whether the draft token at a position of the answer is the model's
    """
    end, cost = 1, 1.0
    while end < new_tokens:
        drafted, accepted = min(schedule.next(), new_tokens - end - 1), 0
        while accepted < drafted and agrees(end + accepted):
            accepted += 1
        schedule.update(drafted, accepted)
        end += accepted + 1
        cost += 1 + drafted * schedule.cost
    assert end == new_tokens
    return cost


COSTS = [(0.1, 7), (0.5, 5), (1.0, 4)]  # of a lookup, a self-draft, and a draft model as large as the model


@pytest.mark.parametrize("new_tokens", [48, 49, 128, 512])
@pytest.mark.parametrize(("cost", "most"), COSTS)
def test_drafting_costs_at_most_a_tenth_of_plain_decoding(cost, most, new_tokens):
    """Guards against texts on which it loses more: drafts always wrong, right at the start only, in runs, at random."""
    rng = random.Random(SEED)
    texts = [lambda i, right=right: i < right for right in (0, 1, 2, 5, 9, 20, 40, new_tokens // 2)]
    for right, wrong in itertools.product((1, 2, 3, 5, 8, 13, 34), repeat=2):
        texts += [lambda i, n=right, m=wrong, first=first: (i + first) % (n + m) < n for first in (0, right)]
    for _ in range(100):
        share = rng.random()
        texts.append([rng.random() < share for _ in range(new_tokens)].__getitem__)
    worst = max(cost_of_answer(DraftLengthSchedule(most, cost), new_tokens, agrees) for agrees in texts)
    assert worst <= 1.1 * new_tokens


@pytest.mark.parametrize(("cost", "most"), COSTS)
def test_an_adversary_cannot_make_drafting_cost_more(cost, most):
    """Guards against texts made against the schedule: a search that continues the worst and the best answers."""
    rng, tokens, states = random.Random(SEED), 128, [(1.0, 1, DraftLengthSchedule(most, cost))]
    worst = 0.0
    while states:
        after = []
        for spent, end, schedule in states:
            following = copy.copy(schedule)
            drafted = min(following.next(), tokens - end - 1)
            for accepted in range(drafted + 1):
                updated = copy.copy(following)
                updated.update(drafted, accepted)
                after.append((spent + 1 + drafted * cost, end + accepted + 1, updated))
        worst = max([worst, *(spent / end for spent, end, _ in after if end >= 48)])
        rng.shuffle(after)
        after.sort(key=lambda state: state[0] - state[1], reverse=True)
        states = [state for state in after[:40] + after[-40:] if state[1] < tokens]
    assert 1 < worst <= 1.1


def test_rejected_draft_tokens_cost_little(pair):
    """Guards against drafting at every step though no token is accepted, and against passes that are not counted."""
    large, small = pair
    wrong = {"logits_processor": lambda ids, logits: logits.index_fill(1, ids[:, -1:].flatten(), -1e9)}
    prompt = [5, 5, 5, 5, 5, 5]  # the lookup proposes 5 again, which the filter forbids
    (answer,) = llama_jp.generate(large, [prompt], max_new_tokens=40, prompt_lookup_num_tokens=8, **wrong)
    (plain,) = llama_jp.generate(large, [prompt], max_new_tokens=40, **wrong)
    assert answer.ids == plain.ids
    assert answer.passes == 40 - answer.accepted
    (drafted,) = llama_jp.generate(large, [[1, 2, 3]], max_new_tokens=40, assistant_model=small)
    assert drafted.passes == 40 - drafted.accepted < 30


def flattened_self_draft(model: Llama) -> SelfDraft:
    """A copy of the model whose distributions are flatter, so that many of its tokens are rejected."""
    draft = self_draft(model)
    head = draft.model.lm_head.forward
    draft.model.lm_head.forward = lambda x: 0.3 * head(x)
    return draft


@pytest.mark.parametrize("kind", ["lookup", "draft", "self"])
def test_sampled_answers_keep_their_distribution(pair, kind):
    """Guards against sampling from q instead of p, accepting too often, and a wrong rest after a rejected token.

    Compares the joint distribution of three sampled tokens with the exact one, from the model's probabilities of every
    sequence. A chi-squared test whose seed is new in every run: the bound is exceeded by chance once in a million runs
    (Wilson-Hilferty, z = 4.75).
    """
    large, small = pair
    prompt = [5, 6, 7, 8, 9, 5, 6, 7, 8, 9, 5, 6, 7]
    options = {"do_sample": True, "temperature": 1.5, "top_k": 4, "max_new_tokens": 3}
    draft = {
        "lookup": lambda: {"prompt_lookup_num_tokens": 3},
        "draft": lambda: {"assistant_model": small},
        "self": lambda: {"assistant_model": flattened_self_draft(large), "num_assistant_tokens": 2},
    }[kind]()

    exact = {(): 1.0}
    for _ in range(3):
        longer = {}
        for begin, probability in exact.items():
            logits = large(torch.tensor([prompt + list(begin)]), last_only=True)[0, -1].float() / 1.5
            best = logits.topk(4)
            for token, p in zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True):
                longer[(*begin, token)] = probability * p
        exact = longer

    runs = 1000
    seen = dict.fromkeys(exact, 0)
    for i in range(runs):
        (answer,) = llama_jp.generate(large, [prompt], seed=SEED * runs + i, **draft, **options)
        seen[tuple(answer.ids)] += 1
    assert chi_squared_z(seen, exact, runs) < 4.75


def chi_squared_z(seen: dict, exact: dict, runs: int) -> float:
    """How many standard deviations too far from `exact`; outcomes expected less than 5 times are summed."""
    rare = [key for key in exact if exact[key] * runs < 5]
    cells = [(seen[key], exact[key] * runs) for key in exact if key not in rare]
    if rare and (expected := sum(exact[key] for key in rare) * runs) >= 5:
        cells.append((sum(seen[key] for key in rare), expected))
    freedom = len(cells) - 1
    statistic = sum((count - expected) ** 2 / expected for count, expected in cells)
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def test_the_statistical_test_can_fail(pair):
    """The same test fails when every draft token is accepted."""
    p = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    exact = {0: 0.5, 1: 0.3, 2: 0.2}
    right, wrong = dict.fromkeys(exact, 0), dict.fromkeys(exact, 0)
    generator = torch.Generator().manual_seed(SEED)
    q = torch.tensor([[0.2, 0.2, 0.6]])
    for _ in range(4000):
        proposed = int(torch.multinomial(q[0], 1, generator=generator))
        tokens, _ = verify_sampled(p, Draft([proposed], q), generator)
        right[tokens[0]] += 1
        wrong[proposed] += 1
    assert chi_squared_z(right, exact, 4000) < 4.75 < chi_squared_z(wrong, exact, 4000)


def test_lookup_by_hand():
    """Guards against matching the newest tokens with themselves, and against drafting past the end."""
    lookup = PromptLookup(tokens=3, ngram=2)
    assert lookup.propose([1, 2, 3, 4, 1, 2], 10) == ([3, 4, 1], None)
    assert lookup.propose([1, 2, 3, 4, 1, 2], 2) == ([3, 4], None)
    assert lookup.propose([9, 2, 3, 7, 2], 10) == ([3, 7, 2], None)  # one token matches, where two do not
    assert lookup.propose([5, 8, 9, 8, 9], 10) == ([8, 9, 8], None)  # the copy copies itself
    assert lookup.propose([1, 2, 3], 10) == ([], None)
    assert lookup.propose([1], 10) == ([], None)


def test_streams_and_stops_inside_the_draft(pair):
    """An EOS among accepted draft tokens ends the answer there, and the cache holds what a plain run's holds."""
    large, _ = pair
    prompt = [5, 6, 7, 8, 9] * 5
    (plain,) = llama_jp.generate(large, [prompt], max_new_tokens=30)
    for end in range(2, 20):
        options = {"eos_token_id": plain.ids[end], "max_new_tokens": 30}
        plain_cache, fast_cache = (large.new_cache(1, 100) for _ in range(2))
        (expected,) = llama_jp.generate(large, [prompt], cache=plain_cache, **options)
        (fast,) = llama_jp.generate(large, [prompt], cache=fast_cache, prompt_lookup_num_tokens=8, **options)
        assert fast.ids == expected.ids
        assert fast_cache.length == plain_cache.length == len(prompt) + len(fast.ids) - 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_return_sequences": 2, "do_sample": True}, "one answer at a time"),
        ({"num_beams": 2}, "not with beam search"),
        ({"guidance_scale": 2.0}, "guidance_scale cannot be combined"),
        ({"past_context": "shift"}, "past_context='shift' cannot be combined"),
    ],
)
def test_refused_by_name(pair, options, sentence):
    large, _ = pair
    with pytest.raises(ValueError, match=sentence):
        llama_jp.generate(large, [[1, 2]], max_new_tokens=4, prompt_lookup_num_tokens=3, **options)


def test_another_vocabulary_is_refused(pair, tmp_path):
    large, _ = pair
    other, _ = both(save_random(tmp_path, 1, **random_config(random.Random(1), "default")), torch.float32)
    with pytest.raises(ValueError, match="with the same tokenizer"):
        llama_jp.generate(large, [[1, 2]], max_new_tokens=4, assistant_model=other)
