"""Many prompts: every answer is the one of its prompt alone, whatever its neighbours are."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from helpers.reference import SEED, least_equal, random_config, save_random

import llama_jp
from llama_jp import Cache, Options, generate, generate_many, stream_many
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.ragged import row_by_row
from llama_jp.generation.runner import ModelRunner
from llama_jp.model import SelfAttention, attend_eager

V = 211


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    config = random_config(random.Random(3), "default") | {
        "vocab_size": V,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
    }
    return save_random(tmp_path_factory.mktemp("many"), 3, **config)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, dtype=torch.float32, device="cpu")


@pytest.fixture(autouse=True)
def quiet():
    """In float32 this CPU's products are not batch-invariant, which the last test is about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*round differently from one row.*")
        yield


def random_prompts(rng: random.Random, number: int) -> list[list[int]]:
    return [[rng.randrange(V) for _ in range(rng.choice((1, 2, 5, 5, 17, 40)))] for _ in range(number)]


def alone(model, prompts, seed: int, **options) -> list[tuple[list[int], str]]:
    if options.get("do_sample"):
        named = [{**options, "seed": [seed + number]} for number in range(len(prompts))]
    else:
        named = [options] * len(prompts)
    answers = [generate(model, [prompt], **own)[0] for prompt, own in zip(prompts, named, strict=True)]
    return [(answer.ids, answer.finish_reason) for answer in answers]


def ids_and_reasons(answers) -> list[tuple[list[int], str]]:
    return [(answer.ids, answer.finish_reason) for answer in answers]


SAMPLED = {"do_sample": True, "temperature": 1.3, "top_p": 0.9}


@pytest.mark.parametrize("part", [3, 64])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
        SAMPLED,
        SAMPLED | {"presence_penalty": 0.5, "penalty_generated_only": True, "exact": False},
    ],
)
def test_every_answer_is_that_of_the_prompt_alone(model, batch, options, part, monkeypatch):
    """Guards against rows that are mixed up, random numbers of a neighbour, and penalties that count its tokens."""
    rng = random.Random(SEED + batch)
    prompts = random_prompts(rng, 11)
    options = options | {"eos_token_id": rng.sample(range(V), 12), "max_new_tokens": 14}
    seed = {"seed": 5} if options.get("do_sample") else {}
    answers = generate_many(model, prompts, batch=batch, **options, **seed)
    assert ids_and_reasons(answers) == alone(model, prompts, 5, **options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bits_keep_every_bit(folder, dtype):
    """Where the batch is batch-invariant, the probabilities are those of the prompt alone to the last bit."""
    model, prompts = load_model(folder, dtype=dtype, device="cpu"), random_prompts(random.Random(SEED), 6)
    runner = ModelRunner(model, torch.ones(8, 1), None)
    if not all(runner.is_batch_invariant(size, 1) for size in (2, 3, 4)):
        pytest.skip("on this CPU, products of several rows round differently from those of one")
    stream = stream_many(model, prompts, batch=4, max_new_tokens=32, eos_token_id=[])
    pairs = [
        pair
        for number, answer in stream
        for pair in zip(
            answer.logprobs,
            generate(model, [prompts[number]], max_new_tokens=32, eos_token_id=[])[0].logprobs,
            strict=True,
        )
    ]
    assert stream.exact and len(pairs) == 192  # so 0.98 leaves room for three
    assert sum(a == b for a, b in pairs) >= least_equal(dtype) * len(pairs)


@pytest.fixture
def calls(model):
    """The new tokens of each call of the model."""
    calls = list[int]()
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(args[0].numel()))
    yield calls
    handle.remove()


def test_the_next_prompt_takes_the_place_of_an_answer_that_ends(model, calls):
    """Guards against rows that wait for the longest one, and against padding: every step has only running rows."""
    limits = [9, 2, 3, 1, 4]
    answers = generate_many(model, [[1]] * 5, batch=2, limits=limits, eos_token_id=[], exact=False)
    assert [len(answer.ids) for answer in answers] == limits
    # the largest limits first: 0 and 4; after four steps 2 joins 0, then 1, which ends with it; 3 is left
    assert calls == [2] * 9 + [1]


def test_prompts_are_processed_in_parts_beside_decoding_rows(model, calls, monkeypatch):
    """Guards against decoding rows that wait for a long prompt, and against parts that lose or repeat a token."""
    monkeypatch.setattr("llama_jp.generation.in_flight.PROMPT_TOKENS", 8)
    prompts = [list(range(1, 6)), list(range(1, 31)), list(range(40, 43))]
    options = {"max_new_tokens": 6, "eos_token_id": [], "exact": False}
    answers = generate_many(model, prompts, batch=3, **options)
    # without a decoding row the first prompt runs whole, and beside it the first tokens of the second
    assert calls == [5 + 3, 1 + 8, 1 + 8, 1 + 8, 1 + 3 + 3, 3, 2, 2, 2, 2]
    assert ids_and_reasons(answers) == alone(model, prompts, 0, **options)
    calls.clear()
    generate_many(model, prompts, batch=3, prefill_chunk_size=4, **options)
    assert max(calls) <= 4 + 3


def test_answers_stream_as_they_end_and_come_back_in_order(model):
    prompts = [[3], [4, 5], [6]]
    order = [number for number, _ in stream_many(model, prompts, batch=2, limits=[6, 2, 2], eos_token_id=[])]
    assert order == [1, 2, 0]
    answers = generate_many(model, prompts, batch=2, limits=[6, 2, 2], eos_token_id=[])
    assert [len(answer.ids) for answer in answers] == [6, 2, 2]


def test_an_interruption_leaves_the_answers_that_have_ended(model):
    """And the model's own attention and rope: guards against a model that stays changed."""
    before = [layer.self_attn.attend for layer in model.layers], model.rope
    finished = []

    def interrupted(ids, scores):
        if len(finished) == 2:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        for number, _ in stream_many(
            model, [[1], [2], [3], [4]], batch=2, limits=[4, 3, 3, 3], eos_token_id=[], stopping_criteria=interrupted
        ):
            finished.append(number)
    assert finished == [1, 0]
    with pytest.raises(KeyboardInterrupt), row_by_row(model, [1], [torch.tensor([[0]])], [None]):
        raise KeyboardInterrupt
    assert ([layer.self_attn.attend for layer in model.layers], model.rope) == before


def test_a_cache_grows_while_others_run(model, monkeypatch):
    monkeypatch.setattr(Cache, "ALLOCATED_AT_ONCE", 8)
    prompts = random_prompts(random.Random(1), 5)
    answers = generate_many(model, prompts, batch=3, max_new_tokens=40, eos_token_id=[])
    assert ids_and_reasons(answers) == alone(model, prompts, 0, max_new_tokens=40, eos_token_id=[])


def test_a_full_context_shifts_in_its_own_row(model):
    options = {"max_new_tokens": 60, "eos_token_id": [], "past_context": "shift"}
    prompts = [list(range(1, 81)), [4, 5], list(range(3, 60))]
    assert ids_and_reasons(generate_many(model, prompts, batch=3, **options)) == alone(model, prompts, 0, **options)


def test_stop_strings_chunks_and_guidance():
    """All that has state of its own: the text, the cache of the negative prompt, the chunks of a prompt."""
    model, tokenizer = llama_jp.load("demo", dtype="float32")
    prompts = [tokenizer.encode(text) for text in ("犬", "猫は長い長い坂を", "水", "犬と猫")]
    (first, *_) = generate(model, prompts[:1], max_new_tokens=12)
    for options in (
        {"stop_strings": tokenizer.decode(first.ids[3:6]), "tokenizer": tokenizer},
        {"guidance_scale": 1.5, "negative_prompt_ids": prompts[2]},
        {"prefill_chunk_size": 2},
    ):
        options = options | {"max_new_tokens": 12}
        many = generate_many(model, prompts, batch=3, **options)
        assert ids_and_reasons(many) == alone(model, prompts, 0, **options)
        assert "stop_strings" not in options or many[0].finish_reason == "stop"


def test_a_prefix_function_gets_the_number_of_the_prompt(model):
    """Guards against number 0 for every prompt, since each row is a batch of its own."""
    allowed = {"prefix_allowed_tokens_fn": lambda number, ids: [3 + number, 40 + number]}
    for number, answer in enumerate(generate_many(model, [[1], [2], [3]], batch=2, max_new_tokens=4, **allowed)):
        assert set(answer.ids) <= {3 + number, 40 + number}


def test_an_attention_function_with_positions_sees_only_its_own_row(folder):
    """Guards against padding in front of a function that looks back a number of keys."""

    def window(q, k, v, mask, positions):
        assert positions.tolist() == [list(range(k.shape[2]))]
        distance = positions[:, -q.shape[2] :, None] - positions[:, None]  # (1, T, S)
        return attend_eager(q, k, v, ((distance >= 0) & (distance < 4))[:, None])

    model = load_model(folder, dtype=torch.float32, device="cpu", attention=window)
    prompts = random_prompts(random.Random(8), 5)
    options = {"max_new_tokens": 6, "eos_token_id": []}
    assert ids_and_reasons(generate_many(model, prompts, batch=4, **options)) == alone(model, prompts, 0, **options)


@pytest.fixture
def dynamic_model(tmp_path):
    config = random_config(random.Random(3), "default") | {
        "vocab_size": V,
        "intermediate_size": 128,
        "max_position_embeddings": 16,
        "rope_scaling": {"rope_type": "dynamic", "factor": 4.0},
    }
    return load_model(save_random(tmp_path, 3, **config), dtype=torch.float32, device="cpu")


def test_dynamic_rope_depends_on_the_row_alone(dynamic_model):
    """Guards against the frequencies of the longest row for all rows."""
    prompts = [[1, 2], list(range(3, 23)), [5]]
    options = {"max_new_tokens": 12, "eos_token_id": []}
    for prompt, answer in zip(prompts, generate_many(dynamic_model, prompts, batch=3, **options), strict=True):
        (single,) = generate(dynamic_model, [prompt], **options)
        assert answer.ids == single.ids and answer.logprobs == pytest.approx(single.logprobs, abs=2e-6)


def test_dynamic_rope_does_not_divide_a_prompt(dynamic_model, monkeypatch):
    """Guards against parts of a prompt with the angles of a shorter text."""
    monkeypatch.setattr("llama_jp.generation.in_flight.PROMPT_TOKENS", 8)
    calls = list[int]()
    dynamic_model.register_forward_pre_hook(lambda module, args: calls.append(args[0].numel()))
    prompts, options = [[1, 2], list(range(3, 33))], {"max_new_tokens": 4, "eos_token_id": [], "exact": False}
    answers = generate_many(dynamic_model, prompts, batch=2, **options)
    assert calls == [2 + 30, 2, 2, 2]
    for prompt, answer in zip(prompts, answers, strict=True):
        (single,) = generate(dynamic_model, [prompt], **options)
        assert answer.ids == single.ids and answer.logprobs == pytest.approx(single.logprobs, abs=2e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_each_prompt_can_have_options_of_its_own(model, exact):
    """Guards against filters, lengths, seeds and ends of a neighbour."""
    prompts = [[3, 4], [5], [6, 7, 8], [9], [10]]
    options = [
        Options(max_new_tokens=7, repetition_penalty=1.4, eos_token_id=[]),
        Options(max_new_tokens=3, suppress_tokens=list(range(100)), eos_token_id=[]),
        Options(max_new_tokens=9, do_sample=True, temperature=1.3, seed=5),
        Options(max_new_tokens=9, eos_token_id=list(range(0, V, 3))),
        Options(max_new_tokens=6, do_sample=True, seed=[5]),
    ]
    answers = ids_and_reasons(generate_many(model, prompts, options, batch=3, exact=exact))
    for prompt, own, answer in zip(prompts, options, answers, strict=True):
        seed = {"seed": [5]} if own.do_sample else {}
        assert [answer] == ids_and_reasons(generate(model, [prompt], own, exact=exact, **seed))
    with pytest.raises(ValueError, match="5 options for 4 prompts; give one object for all, or one for each"):
        generate_many(model, prompts[:4], options)


def test_a_seed_repeats_and_torch_gives_one_without(model):
    prompts, options = [[1], [2], [3]], SAMPLED | {"max_new_tokens": 6, "eos_token_id": []}

    def ids(**named):
        return ids_and_reasons(generate_many(model, prompts, **options, **named))

    listed = ids(batch=2, seed=[7, 8, 9])
    assert listed == ids(batch=3, seed=7)
    torch.manual_seed(3)
    drawn = ids(batch=2)
    torch.manual_seed(3)
    assert ids(batch=1) == drawn != listed


def test_memory_is_stated_before_it_is_used(model):
    c = model.config
    position = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4
    stream = stream_many(model, [[1] * 3, [1] * 9, [1] * 5], batch=2, max_new_tokens=10)
    assert stream.cache_bytes == position * (19 + 15)


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ({"batch": 0}, "batch has to be a whole number of at least 1, not 0"),
        ({"num_beams": 2}, "without beam search"),
        ({"num_return_sequences": 2, "do_sample": True}, "one answer each"),
        ({"prompt_lookup_num_tokens": 3}, "speculation works on one answer at a time"),
        ({"limits": [3]}, "1 limits for 2 prompts"),
        ({"limits": [3, 0]}, "prompt 1: max_new_tokens has to be a whole number of at least 1, not 0"),
        ({"max_new_tokens": 94}, "prompt 1: the prompt has 3 tokens and max_new_tokens is 94"),
        ({"do_sample": True, "seed": [1]}, "1 seeds for 2 prompts"),
        ({"stop_strings": "x"}, "need the tokenizer"),
        ({"do_sample": True, "temperature": 0.0}, "temperature has to be a number above 0"),
    ],
)
def test_a_mistake_is_named_before_the_first_token(model, named, sentence):
    with pytest.raises(ValueError, match=sentence):
        stream_many(model, [[1], [1, 2, 3]], **named)


def test_an_attention_class_of_your_own_is_refused(folder):
    class Own(SelfAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    model = load_model(folder, dtype=torch.float32, device="cpu")
    model.layers[-1].self_attn.__class__ = Own
    with pytest.raises(ValueError, match="Own has a forward of its own"):
        generate_many(model, [[1]])


def test_a_batch_that_rounds_differently_is_said(model, monkeypatch):
    monkeypatch.setattr(ModelRunner, "is_batch_invariant", lambda *args, **kwargs: False)
    prompts = [[1], [2, 3], [4]]
    stream = stream_many(model, prompts, batch=2, max_new_tokens=3, eos_token_id=[])
    with pytest.warns(UserWarning, match="2 rows round differently from one row") as said:
        list(stream)
    assert not stream.exact and len(said) == 1 and said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for named in ({"exact": False}, {"batch": 1}):
            generate_many(model, prompts, **{"batch": 2, "max_new_tokens": 3, "eos_token_id": []} | named)
