"""Each filter against the class of transformers that it follows, on random logits and on those that trip filters up."""

from __future__ import annotations

import math
import random

import pytest
import torch
import transformers
from helpers.reference import SEED
from transformers.generation import logits_process as reference

from llama_jp.generation import filters
from llama_jp.generation.filter_chain import make_filters
from llama_jp.generation.options import Options

V, INF = 40, math.inf


def logits_of_every_kind() -> dict[str, torch.Tensor]:
    """Three rows of each kind: logits as models make them, and logits as only earlier filters make them."""
    g = torch.Generator().manual_seed(SEED)
    normal = torch.randn(3, V, generator=g) * 3
    holes = normal.masked_fill(torch.rand(3, V, generator=g) < 0.7, -INF)
    one_left = torch.full((3, V), -INF)
    one_left[torch.arange(3), torch.tensor([0, 7, V - 1])] = torch.tensor([1.5, -80.0, 0.0])
    return {
        "normal": normal,
        "sharp": normal * 30,
        "flat": torch.zeros(3, V),
        "ties": normal.round(),
        "few values": (normal > 0).float(),
        "holes": holes,
        "ties and holes": holes.round(),
        "one left": one_left,
        "bfloat16 values": normal.bfloat16().float(),
        "huge": normal * 1e30,
        "five left": normal.masked_fill(torch.arange(V) >= 5, -INF),
        "half equal": torch.where(torch.arange(V) % 2 == 0, normal[:, :1], normal),
        "negative": -normal.abs(),
    }


LOGITS = logits_of_every_kind()
IDS = {
    "random": torch.randint(0, V, (3, 17), generator=torch.Generator().manual_seed(SEED + 1)),
    "repetitive": torch.tensor([[1, 2, 3] * 5, [4] * 15, [5, 6] * 7 + [5]]),
    "one token": torch.tensor([[1], [2], [V - 1]]),
    "ends": torch.tensor([[0, V - 1] * 4, [V - 1] * 8, [0] * 8]),
}

SHAPES = [
    (filters.keep_top_k, reference.TopKLogitsWarper, (1, 2, 3, 7, V, 500)),
    (filters.keep_top_p, reference.TopPLogitsWarper, (0.0, 1e-6, 0.1, 0.5, 0.9, 0.95, 0.999999, 1.0)),
    (filters.keep_min_p, reference.MinPLogitsWarper, (0.0, 0.05, 0.1, 0.5, 0.9, 1.0)),
    (filters.keep_typical, reference.TypicalLogitsWarper, (1e-6, 0.2, 0.9, 0.999)),
    (filters.cut_epsilon, reference.EpsilonLogitsWarper, (1e-6, 0.02, 0.5, 0.999)),
    (filters.cut_eta, reference.EtaLogitsWarper, (1e-6, 0.02, 0.5, 0.999)),
]


def same(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return ours.dtype == theirs.dtype and torch.equal(ours.nan_to_num(nan=7e37), theirs.nan_to_num(nan=7e37))


@pytest.mark.parametrize("at_least", [1, 2, 5])
@pytest.mark.parametrize(("ours", "theirs", "values"), SHAPES, ids=[ours.__name__ for ours, _, _ in SHAPES])
@pytest.mark.parametrize("kind", LOGITS)
def test_shape_of_the_distribution(ours, theirs, values, kind, at_least):
    """Guards against < for <=, a sum from the other end, a threshold that leaves nothing, ties cut in two."""
    logits = LOGITS[kind]
    before = logits.clone()
    for value in values:
        kept = ours(logits, value, at_least)
        assert same(kept, theirs(value, min_tokens_to_keep=at_least)(None, before.clone())), value
        assert (kept > -INF).any(-1).all(), "at least one token stays"
    assert torch.equal(logits, before), "a filter changed its argument"


@pytest.mark.parametrize("kind", LOGITS)
def test_temperature(kind):
    (ours,) = make_filters(Options(do_sample=True, temperature=0.7))
    assert same(ours(IDS["random"], LOGITS[kind]), reference.TemperatureLogitsWarper(0.7)(None, LOGITS[kind]))


def test_probabilities_by_hand():
    """Probabilities 1/2, 1/4, 1/8, 1/8."""
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()

    def kept(result):
        return result.isfinite()[0].tolist()

    assert kept(filters.keep_top_k(logits, 2)) == [True, True, False, False]
    assert kept(filters.keep_top_k(logits, 3)) == [True, True, True, True], "a tie with the last one kept is kept"
    assert kept(filters.keep_top_p(logits, 0.7)) == [True, True, False, False]
    assert kept(filters.keep_top_p(logits, 0.0)) == [True, False, False, False]
    assert kept(filters.keep_min_p(logits, 0.4)) == [True, True, False, False]
    penalized = filters.penalize_repetition(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1]]), 2.0)
    assert penalized.tolist() == [[1, -4, 1]]


RAMP = [-5.0, -4, -3, -2, -1, 0, 1, 2, 3, 4]
STEEP = [100 * x for x in RAMP]
KEPT = [  # filter, value, at least, probabilities (or logits), which tokens stay: the reference's own test values
    (filters.keep_top_k, 3, 1, [0.1, 0.2, 0.3, 0.15, 0.25], [1, 2, 4]),
    (filters.keep_top_k, 1, 3, [0.1, 0.2, 0.3, 0.15, 0.25], [1, 2, 4]),
    (filters.keep_top_k, 1, 3, [0.2] * 5, [0, 1, 2, 3, 4]),
    (filters.keep_top_p, 0.8, 1, [0.3, 0.1, 0.1, 0.5], [0, 3]),
    (filters.keep_top_p, 0.8, 1, [0.15, 0.3, 0.3, 0.25], [1, 2, 3]),
    (filters.keep_top_p, 0.9, 2, RAMP, [7, 8, 9]),
    (filters.keep_top_p, 0.9, 2, STEEP, [8, 9]),
    (filters.keep_min_p, 0.05, 1, [0.9, 0.0274, 0.047, 0.0274], [0, 2]),
    (filters.keep_min_p, 0.05, 1, [0.15, 0.3, 0.3, 0.25], [0, 1, 2, 3]),
    (filters.keep_min_p, 0.05, 1, [0.97, 0.01, 0.01, 0.01], [0]),
    (filters.keep_min_p, 0.9, 2, RAMP, [8, 9]),
    (filters.keep_min_p, 0.9, 2, STEEP, [8, 9]),
    (filters.keep_typical, 0.5, 1, [0.97, 0.01, 0.01, 0.01], [0]),
    (filters.keep_typical, 0.5, 1, [0.4, 0.2, 0.2, 0.2], [1, 2, 3]),
    (filters.keep_typical, 0.5, 3, [0.2] * 5, [0, 1, 2, 3, 4]),
    (filters.keep_typical, 0.7, 2, RAMP, [8, 9]),
    (filters.keep_typical, 0.7, 2, STEEP, [8, 9]),
    (filters.cut_epsilon, 0.1, 1, [0.87, 0.099, 0.001, 0.03], [0]),
    (filters.cut_epsilon, 0.1, 1, [0.4, 0.299, 0.101, 0.2], [0, 1, 2, 3]),
    (filters.cut_epsilon, 0.05, 2, RAMP, [7, 8, 9]),
    (filters.cut_epsilon, 0.05, 2, STEEP, [8, 9]),
    (filters.cut_eta, 0.0625, 1, [0.0, 0.1, 0.8, 0.1], [1, 2, 3]),
    (filters.cut_eta, 0.0625, 1, [0.01, 0.04, 0.9, 0.05], [2]),
    (filters.cut_eta, 0.1, 2, RAMP, [8, 9]),
    (filters.cut_eta, 0.1, 2, STEEP, [8, 9]),
    (filters.keep_top_h, 0.3, None, [0.97, 0.01, 0.01, 0.01], [0]),
    (filters.keep_top_h, 0.7, None, [0.4, 0.3, 0.2, 0.1], [0, 1]),
    (filters.keep_top_h, 1.0, None, [0.25] * 4, [0, 1, 2, 3]),
    (filters.keep_top_h, 0.4, None, [0.75, 0.25, 0.0, 0.0], [0]),
]


@pytest.mark.parametrize(("filter", "value", "at_least", "given", "expected"), KEPT)
def test_values_that_the_reference_publishes(filter, value, at_least, given, expected):
    """Without the reference at hand: what stays keeps its logit, the rest is gone, and a second row changes nothing."""
    logits = torch.tensor([given, given[::-1]])
    if min(given) >= 0 and max(given) <= 1:
        logits = logits.log()
    kept = filter(logits, value) if at_least is None else filter(logits, value, at_least)
    assert kept[0].isfinite().nonzero()[:, 0].tolist() == expected
    assert torch.equal(kept[0, expected], logits[0, expected])
    assert torch.equal(kept[1].flip(0), kept[0])


def test_penalties_and_ids_that_the_reference_publishes():
    """Guards against a negative logit that a penalty makes more probable, a ban that is undone, and EOS forbidden."""
    ids = torch.tensor([[0, 1], [5, 0]])
    logits = torch.full((2, 6), 0.1)
    logits[0, 0], logits[1, 5] = -0.1, 0.4
    torch.testing.assert_close(
        filters.penalize_repetition(logits, ids, 2.0),
        torch.tensor([[-0.2, 0.05, 0.1, 0.1, 0.1, 0.1], [0.05, 0.1, 0.1, 0.1, 0.1, 0.2]]),
    )
    torch.testing.assert_close(
        filters.penalize_repetition(logits, ids, 0.5),  # the encoder's penalty of 2
        torch.tensor([[-0.05, 0.2, 0.1, 0.1, 0.1, 0.1], [0.2, 0.1, 0.1, 0.1, 0.1, 0.8]]),
    )

    def banned(rows, n, V, among=None):
        among = None if among is None else torch.tensor(among)
        out = filters.forbid_repeated_ngrams(torch.zeros(len(rows), V), torch.tensor(rows), n, among)
        return [row.isneginf().nonzero()[:, 0].tolist() for row in out]

    assert banned([[1, 1, 2, 1], [0, 1, 0, 1]], 2, 3) == [[1, 2], [0]]
    assert banned([[1, 1, 2, 1], [0, 1, 0, 1]], 3, 3) == [[], [0]]
    assert banned([[1, 2, 5, 7, 8, 5, 1, 2]], 3, 10) == [[5]]
    assert banned([[1, 2], [0, 1]], 3, 3) == [[], []]
    rows, prompts = [[1, 2, 1], [1, 0, 2], [0, 0, 0], [0, 2, 2]], [[1, 2, 1, 1]] * 2 + [[0, 0, 2, 1]] * 2
    assert banned(rows, 2, 3, prompts) == [[1, 2], [1], [0, 2], [1]]
    assert banned(rows, 3, 3, prompts) == [[1], [], [2], []]

    ids = torch.tensor([[0, 1, 3, 1], [0, 1, 0, 1]])
    words = filters.as_bad_words([[1], [4], [1, 0], [0, 1, 2], [1, 3, 1, 3]], eos=[4])
    bad = filters.bias_sequences(torch.zeros(2, 5), ids, words)
    assert [row.isneginf().nonzero()[:, 0].tolist() for row in bad] == [[0, 1, 3], [0, 1, 2]]
    (nothing_but_eos,) = make_filters(Options(bad_words_ids=[[4]], eos_token_id=[4]))
    assert torch.equal(nothing_but_eos(ids, bad), bad)
    biases = {(1,): 100.0, (4,): 100.0} | dict.fromkeys([(1, 0), (0, 1, 2), (1, 3, 1, 3), (1, 3, 1, 3, 1, 3)], -100.0)
    biased = filters.bias_sequences(torch.zeros(2, 5), ids, biases)
    assert biased.tolist() == [[-100, 100, 0, -100, 100], [-100, 100, -100, 0, 100]]


@pytest.mark.parametrize("share", [1e-6, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("kind", LOGITS)
def test_top_h(kind, share):
    assert same(filters.keep_top_h(LOGITS[kind], share), reference.TopHLogitsWarper(share)(None, LOGITS[kind]))


def test_top_h_uses_a_hundred_tokens():
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(SEED))
    assert same(filters.keep_top_h(logits, 0.9), reference.TopHLogitsWarper(0.9)(None, logits))


@pytest.mark.parametrize("ids", IDS.values(), ids=list(IDS))
@pytest.mark.parametrize("kind", LOGITS)
def test_filters_that_use_ids(kind, ids):
    """Guards against windows off by one, once per token against each time, and a prefix longer than the text."""
    logits = LOGITS[kind]
    before = logits.clone()
    for penalty in (0.5, 1.3, 10.0):
        theirs = reference.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits)
        assert same(filters.penalize_repetition(logits, ids, penalty), theirs)
    for n in (1, 2, 3, 5, 30):
        theirs = reference.NoRepeatNGramLogitsProcessor(n)(ids, logits)
        assert same(filters.forbid_repeated_ngrams(logits, ids, n), theirs)
    prompt = ids[:, :6]
    for n in (1, 2, 3, 9):
        theirs = reference.EncoderNoRepeatNGramLogitsProcessor(n, prompt)(ids, logits)
        assert same(filters.forbid_repeated_ngrams(logits, ids, n, prompt), theirs)
        few = ids[:, :2]  # less than n tokens after a longer prompt
        theirs = reference.EncoderNoRepeatNGramLogitsProcessor(n, prompt)(few, logits)
        assert same(filters.forbid_repeated_ngrams(logits, few, n, prompt), theirs)
    (ours,) = make_filters(Options(encoder_repetition_penalty=1.3), prompt_length=6)
    assert same(ours(ids, logits), reference.EncoderRepetitionPenaltyLogitsProcessor(1.3, prompt)(ids, logits))
    rng = random.Random(SEED)
    tail = ids[0].tolist()
    biases = {tuple(tail[-n:] + [rng.randrange(V)]): rng.uniform(-3, 3) for n in range(1, len(tail) + 1)}
    biases |= {(rng.randrange(V),): -1.5, (3,): 0.25, (*tail[-2:], 3): 0.1, (*tail[-1:], 3): 1e-7, (1, *tail, 3): 4.0}
    theirs = reference.SequenceBiasLogitsProcessor(dict(biases))(ids, logits)
    assert same(filters.bias_sequences(logits, ids, biases), theirs)
    words = [[5], [tail[-1], 6], [*tail, 7], [2], [9, 9]]
    theirs = reference.NoBadWordsLogitsProcessor(words, eos_token_id=[2, 3])(ids, logits)
    assert same(filters.bias_sequences(logits, ids, filters.as_bad_words(words, [2, 3])), theirs)
    assert torch.equal(logits, before), "a filter changed its argument"


def test_padding_is_not_penalized():
    """-1 is a padding position. transformers gets the lengths of the padding instead."""
    logits = torch.ones(2, V)
    ids = torch.tensor([[-1, -1, 3], [0, 4, 4]])
    penalized = filters.penalize_repetition(logits, ids, 2.0)
    assert penalized[0].nonzero().numel() == V and (penalized[0] == 0.5).nonzero().flatten().tolist() == [3]
    assert (penalized[1] == 0.5).nonzero().flatten().tolist() == [0, 4], "once per token, however often it occurs"


def test_the_chain_has_transformers_order_and_leaves_out_neutral_filters():
    """temperature, top-k, top-p, min-p: another order keeps other tokens."""
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}
    assert make_filters(Options(do_sample=True, **neutral)) == []
    assert make_filters(Options(do_sample=False, **neutral | {"temperature": 0.5, "top_p": 0.5})) == []
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=V, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1
        )
    )
    rng = random.Random(SEED)
    for logits in LOGITS.values():
        for _ in range(5):
            options = {
                "temperature": rng.choice([0.3, 1.5]),
                "top_k": rng.choice([0, 4, 20]),
                "top_p": rng.choice([0.5, 0.95, 1.0]),
                "min_p": rng.choice([None, 0.1]),
                "repetition_penalty": rng.choice([1.0, 1.4]),
            }
            ids = torch.randint(0, V, (3, 6))
            result = expected = logits
            for keep in make_filters(Options(do_sample=True, **options)):
                result = keep(ids, result)
            config = transformers.GenerationConfig(do_sample=True, **options)
            for processor in model._get_logits_processor(config, input_ids_seq_length=6):
                expected = processor(ids, expected)
            assert same(result, expected), options


@pytest.mark.parametrize("kind", LOGITS)
def test_length_and_forced_tokens(kind):
    """Guards against a length counted with or without the newest token, and a factor raised to the wrong power."""
    logits, eos = LOGITS[kind], [2, 5, 7]

    def chain(**options):
        (filter,) = make_filters(Options(eos_token_id=eos, **options), prompt_length=4, max_length=12)
        return filter

    for N in range(1, 14):
        ids = torch.ones(3, N, dtype=torch.long)
        pairs = [
            (chain(min_length=6), reference.MinLengthLogitsProcessor(6, eos)),
            (chain(min_new_tokens=3), reference.MinNewTokensLengthLogitsProcessor(4, 3, eos)),
            (chain(forced_bos_token_id=9), reference.ForcedBOSTokenLogitsProcessor(9)),
            (chain(forced_eos_token_id=[2, 9]), reference.ForcedEOSTokenLogitsProcessor(12, [2, 9])),
            (
                chain(exponential_decay_length_penalty=(2, 1.3)),
                reference.ExponentialDecayLengthPenalty((2, 1.3), eos, 4),
            ),
            (chain(suppress_tokens=[1, 8]), reference.SuppressTokensLogitsProcessor([1, 8])),
            (chain(begin_suppress_tokens=[1, 8]), reference.SuppressTokensAtBeginLogitsProcessor([1, 8], 4)),
            (chain(renormalize_logits=True), reference.LogitNormalization()),
            (chain(remove_invalid_values=True), reference.InfNanRemoveLogitsProcessor()),
        ]
        for ours, theirs in pairs:
            assert same(ours(ids, logits), theirs(ids, logits.clone())), (N, theirs)


def test_invalid_values():
    logits = torch.tensor([[math.nan, INF, -INF, 1.0, -0.0]])
    assert same(filters.remove_invalid(logits), reference.InfNanRemoveLogitsProcessor()(None, logits))


def test_a_function_that_names_the_allowed_tokens():
    """Guards against beams counted as prompts, and a row left without a token that its function names."""
    logits = LOGITS["normal"].repeat(2, 1)
    logits[:2, 4] = -INF
    ids = torch.arange(6)[:, None].repeat(1, 3)

    def allowed(prompt, so_far):
        return [4] if prompt == 0 else [int(so_far[-1]), 11]

    theirs = reference.PrefixConstrainedLogitsProcessor(allowed, 2)(ids, logits)
    assert same(filters.allow_only(logits, ids, allowed, 2), theirs)
    with pytest.raises(ValueError, match="allows no token for prompt 0"):
        filters.allow_only(logits, ids, lambda prompt, so_far: [], 2)


def test_presence_and_frequency_by_hand():
    """Guards against counting padding, the prompt where only the answer counts, and once for each time."""
    ids = torch.tensor([[-1, 3, 3, 1, 3, 2]])
    logits = torch.zeros(1, 5)
    count = lambda **options: make_filters(Options(**options), prompt_length=3)[0](ids, logits)[0].tolist()  # noqa: E731
    assert count(presence_penalty=1.0) == [0, -1, -1, -1, 0]
    assert count(frequency_penalty=0.5) == [0, -0.5, -0.5, -1.5, 0]
    assert count(presence_penalty=1.0, frequency_penalty=0.5) == [0, -1.5, -1.5, -2.5, 0]
    assert count(frequency_penalty=1.0, penalty_window=2) == [0, 0, -1, -1, 0]
    assert count(frequency_penalty=1.0, penalty_generated_only=True) == [0, -1, -1, -1, 0]
    ones = torch.ones(1, 5)
    (penalize,) = make_filters(Options(repetition_penalty=2.0, penalty_generated_only=True), prompt_length=3)
    assert penalize(ids, ones)[0].tolist() == [1, 0.5, 0.5, 0.5, 1]
    (penalize,) = make_filters(Options(repetition_penalty=2.0, penalty_window=1), prompt_length=3)
    assert penalize(ids, ones)[0].tolist() == [1, 1, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"typical_p": 0.0}, "typical_p has to be a number above 0 and of at most 1, not 0.0"),
        ({"epsilon_cutoff": 1.0}, "epsilon_cutoff has to be a number below 1 and of at least 0, not 1.0"),
        ({"top_h": 0.0}, "top_h has to be a number above 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size has to be a whole number"),
        ({"bad_words_ids": []}, "bad_words_ids is empty"),
        ({"bad_words_ids": [[]]}, "is not a list of ids"),
        ({"sequence_bias": {(1, 2): 3}}, "pairs ids with a float"),
        ({"sequence_bias": {}}, "sequence_bias is empty"),
        ({"exponential_decay_length_penalty": (1, 2.0)}, "there is no eos_token_id"),
        ({"forced_eos_token_id": [3], "suppress_tokens": [3, 4]}, "forced_eos_token_id forces"),
    ],
    ids=str,
)
def test_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence.replace("(", r"\(")):
        make_filters(Options(do_sample=True, **options))


def test_a_word_outside_the_vocabulary_is_named():
    (filter,) = make_filters(Options(bad_words_ids=[[1, 99]]))
    with pytest.raises(ValueError, match=r"names \[99\], but the vocabulary has 40"):
        filter(IDS["random"], LOGITS["normal"])
