"""Prefill and decoding steps: finished rows, caches that are continued, forked or saved, chunks, long texts."""

from __future__ import annotations

import random
from functools import partial
from os.path import commonprefix

import pytest
import torch
from helpers.reference import SEED, least_equal, random_config, save_random
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.runner import ModelRunner, pad_left


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.set_num_threads(1)
    config = random_config(random.Random(3), "default") | {"intermediate_size": 128}
    return save_random(tmp_path_factory.mktemp("runner"), 3, **config)


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder, dtype=torch.float32, device="cpu")


def calls_of(model, run) -> list[tuple[int, int]]:
    """(rows, tokens) of every call that goes to a cache."""
    calls = []

    def hook(module, args):
        if len(args) > 1:
            calls.append(tuple(args[0].shape))

    handle = model.register_forward_pre_hook(hook)
    run()
    handle.remove()
    return calls


def held(cache) -> list[torch.Tensor]:
    return [layer[:, :, : cache.length].clone() for layer in cache.keys]


def random_batch(rng: random.Random, V: int, rows: int) -> dict:
    prompts = [[rng.randrange(V) for _ in range(rng.randrange(1, 9))] for _ in range(rows)]
    return {"prompts": prompts, "eos_token_id": rng.sample(range(V), V // 6), "seed": rng.randrange(2**31)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_finished_rows_leave_without_changing_the_others(folder, dtype):
    """Guards against rows that are mixed up when the batch shrinks, random numbers that belong to another row, and a
    batch that rounds differently once it is smaller."""
    model = load_model(folder, dtype=dtype, device="cpu")
    rng, left, pairs = random.Random(SEED), 0, []
    for _ in range(12):
        batch = random_batch(rng, model.config.vocab_size, 8)
        answers, stayed = [], []
        options = {"do_sample": True, "max_new_tokens": 14}
        calls = calls_of(model, lambda: answers.extend(llama_jp.generate(model, **batch, **options)))  # noqa: B023
        # the caller's cache keeps all its rows, so no row leaves
        cache = model.new_cache(8, 30)
        calls_of(model, lambda: stayed.extend(llama_jp.generate(model, cache=cache, **batch, **options)))  # noqa: B023
        assert [(a.ids, a.finish_reason) for a in answers] == [(a.ids, a.finish_reason) for a in stayed]
        pairs += [
            pair for a, b in zip(answers, stayed, strict=True) for pair in zip(a.logprobs, b.logprobs, strict=True)
        ]
        left += sum(rows < 8 for rows, _ in calls)
    assert left > 0, "no row has left"
    assert sum(a == b for a, b in pairs) >= least_equal(dtype) * len(pairs)  # two tokens are measured before
    assert all(a == pytest.approx(b, abs=0.01) for a, b in pairs)


def test_no_row_leaves_where_silu_would_round_differently(tmp_path):
    """silu processes several numbers at once, and rounds the remainder at the end of a batch by other code."""
    config = random_config(random.Random(3), "default") | {"intermediate_size": 100}
    model = load_model(save_random(tmp_path, 3, **config), dtype=torch.bfloat16, device="cpu")
    batch = random_batch(random.Random(SEED), model.config.vocab_size, 8)
    calls = calls_of(model, lambda: llama_jp.generate(model, **batch, do_sample=True, max_new_tokens=14))
    assert {rows for rows, _ in calls} == {8}


def test_without_exactness_every_row_leaves(model):
    batch = random_batch(random.Random(SEED), model.config.vocab_size, 8)
    answers = []
    calls = calls_of(
        model,
        lambda: answers.extend(llama_jp.generate(model, **batch, do_sample=True, exact=False, max_new_tokens=14)),
    )
    running = [sum(len(answer.ids) > step for answer in answers) for step in range(len(calls))]
    assert [rows for rows, _ in calls] == running


def test_without_exactness_one_prefill_serves_all_answers(model):
    """In float32 the tokens are those of exact=True, unless the probabilities of two differ in the last bit only."""
    prompt = [1, 2, 3, 4, 5]
    for kind in ({"do_sample": True, "num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 3}):
        fast, options = [], {**kind, "max_new_tokens": 6, "seed": 5}
        run = partial(llama_jp.generate, model, [prompt, prompt[:3]], **options)
        calls = calls_of(model, lambda: fast.extend(run(exact=False)))  # noqa: B023
        assert calls[:2] == [(2, 5), (6, 1)]
        assert [answer.ids for answer in fast] == [answer.ids for answer in run()]


def test_without_exactness_padding_costs_little(model):
    """Guards against padding every prompt to the longest, and against mixing up rows."""
    rng = random.Random(SEED)
    lengths = [40, 3, 20, 33, 4, 19, 2]
    prompts = [[rng.randrange(model.config.vocab_size) for _ in range(length)] for length in lengths]
    answers, options = [], {"max_new_tokens": 5, "eos_token_id": []}
    calls = calls_of(model, lambda: answers.extend(llama_jp.generate(model, prompts, **options, exact=False)))
    assert calls[:3] == [(2, 40), (3, 20), (2, 3)] and set(calls[3:]) == {(7, 1)}
    for prompt, answer in zip(prompts, answers, strict=True):
        (single,) = llama_jp.generate(model, [prompt], **options)
        upto = len(commonprefix([answer.ids, single.ids])) + 1  # a near tie may be decided differently
        assert answer.logprobs[:upto] == pytest.approx(single.logprobs[:upto], abs=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_one_prefill_for_all_answers_is_bit_identical_in_sixteen_bits(folder, dtype, monkeypatch):
    """Guards against one prefill for each answer, and against other bits after a shared prefill."""
    model, prompts = load_model(folder, dtype=dtype, device="cpu"), [[1, 2, 3, 4, 5], [6, 7, 8]]
    ones = torch.ones(6, 1)
    if not ModelRunner(model, ones, None).prefill_is_batch_invariant(6, 2):
        pytest.skip("on this CPU, products of several rows round differently from those of one")
    for kind in ({"do_sample": True, "num_return_sequences": 3}, {"num_beams": 3, "num_return_sequences": 3}):
        once, run = [], partial(llama_jp.generate, model, prompts, **kind, max_new_tokens=6, seed=5)
        calls = calls_of(model, lambda: once.extend(run()))  # noqa: B023
        assert calls[:2] == [(2, 5), (6, 1)]
        with monkeypatch.context() as patch:
            patch.setattr(ModelRunner, "prefill_is_batch_invariant", lambda *_: False)
            thrice = []
            calls = calls_of(model, lambda: thrice.extend(run()))  # noqa: B023
        assert calls[:2] == [(6, 5), (6, 1)]
        assert once == thrice


def test_more_tokens_than_fit_into_the_memory_are_refused(monkeypatch):
    """Against: a system that promises memory which it does not have, and kills the process that fills it."""
    monkeypatch.setattr("llama_jp.generation.runner.available_memory", lambda device: 1 << 28)
    with pytest.raises(MemoryError, match=r"33554433 tokens for each answer: tried to allocate \d+ bytes"):
        pad_left([[1]], 1 << 25, torch.device("cpu"))


def test_chunks_limit_the_tokens_of_a_call(model):
    calls = calls_of(model, lambda: llama_jp.generate(model, [[1] * 17], max_new_tokens=3, prefill_chunk_size=5))
    assert calls == [(1, 5), (1, 5), (1, 5), (1, 2), (1, 1), (1, 1)]


def test_a_cache_is_continued_forked_and_cropped(model):
    """A cache of the beginning serves several answers, and does not change."""
    prompt = [1, 2, 3, 4, 5, 6, 7]
    cache = model.new_cache(1, 30)
    with torch.no_grad():
        model(torch.tensor([prompt[:5]]), cache)
    keys = held(cache)
    answers = []
    options = {"do_sample": True, "num_return_sequences": 3, "max_new_tokens": 5, "seed": [1, 2, 3]}
    calls = calls_of(model, lambda: answers.extend(llama_jp.generate(model, [prompt], cache=cache, **options)))
    assert calls[0] == (3, 2), "only tokens outside the cache are computed"
    assert [a.ids for a in answers] == [a.ids for a in llama_jp.generate(model, [prompt], **options)]
    assert cache.length == 5 and all(torch.equal(a, b) for a, b in zip(keys, held(cache), strict=True))

    copy = cache.fork([0, 0])
    assert (copy.batch_size, copy.length, copy.max_length) == (2, 5, 30)
    copy.crop(2)
    copy.keys[0].zero_()
    assert cache.length == 5 and torch.equal(keys[0], held(cache)[0])


def test_a_cache_in_a_file(model, tmp_path):
    """A saved cache loads unchanged into a longer one; a cache of another shape is refused by name."""
    prompt = [1, 2, 3, 4, 5, 6, 7]
    cache = model.new_cache(1, 20)
    (before,) = llama_jp.generate(model, [prompt], cache=cache, max_new_tokens=6)
    file = tmp_path / "conversation.safetensors"
    cache.save(file, prompt + before.ids)
    other = model.new_cache(1, 40)
    ids = other.load(file)
    assert ids == (prompt + before.ids)[:-1] and other.length == len(ids)
    text = [*prompt, *before.ids, 9]
    (continued,) = llama_jp.generate(model, [text], cache=other, max_new_tokens=6)
    assert continued.ids == llama_jp.generate(model, [text], max_new_tokens=6)[0].ids

    with pytest.raises(ValueError, match=r"holds 12 tokens, but this cache holds at most 5"):
        model.new_cache(1, 5).load(file)
    with pytest.raises(ValueError, match="does not fit a cache of"):
        model.new_cache(2, 40).load(file)


def test_past_the_context_is_a_choice(model):
    """Refused by default. With "shift" generation continues, and the model gets the first tokens and the newest."""
    context, sinks = model.config.max_position_embeddings, 3
    prompt = list(range(1, 9))
    with pytest.raises(ValueError, match=f"the context holds {context}"):
        llama_jp.generate(model, [prompt], max_new_tokens=3 * context)
    options = {"past_context": "shift", "sink_tokens": sinks}
    answers = []
    calls = calls_of(model, lambda: answers.extend(llama_jp.generate(model, [prompt], max_new_tokens=130, **options)))
    assert len(answers[0].ids) == 130

    # by hand: compute the whole window of the option again at each step
    window, text = list(prompt), list(prompt)
    with torch.no_grad():
        for token, logprob in zip(answers[0].ids, answers[0].logprobs, strict=True):
            if len(window) > context:
                window = text[:sinks] + text[-((context - sinks) // 2) :]
            expected = model(torch.tensor([window]), last_only=True)[0, -1].log_softmax(-1)
            assert expected.argmax() == token
            assert logprob == pytest.approx(expected[token].item(), abs=1e-4)  # one call against many steps
            window.append(token)
            text.append(token)
    recomputed = [tokens for _, tokens in calls[1:] if tokens > 1]
    assert len(recomputed) == 4 and max(recomputed) <= sinks + (context - sinks) // 2


def test_a_prompt_longer_than_the_context_and_a_ragged_batch_shift_too(model):
    context = model.config.max_position_embeddings
    prompts = [[1 + i % 30 for i in range(context + 20)], [7, 8, 9]]
    both = llama_jp.generate(model, prompts, max_new_tokens=60, past_context="shift")
    assert [len(answer.ids) for answer in both] == [60, 60]


def test_stretching_makes_room(folder):
    model = load_model(folder, dtype=torch.float32, device="cpu")
    from llama_jp.long_context import extend_context

    context = model.config.context_length
    extend_context(model, "linear", 2)
    assert model.config.context_length == 2 * context
    assert len(llama_jp.generate(model, [[1, 2]], max_new_tokens=2 * context - 2)[0].ids) == 2 * context - 2
    with pytest.raises(ValueError, match="its own rope_scaling"):
        extend_context(model, "linear", 2)


def test_a_batch_streams_what_each_row_would(tmp_path):
    """The pieces of each row, joined, are its text; rows do not wait for each other."""
    folder = llama_folder(tmp_path)
    tokenizer = llama_jp.Tokenizer.from_pretrained(folder)
    save_random(folder, 11, **random_config(random.Random(3), "default") | {"vocab_size": tokenizer.vocab_size})
    model = load_model(folder, dtype="float32", device="cpu")
    prompts = [tokenizer.encode(text) for text in ("吾輩は", "猫である。名前は", "x")]
    stream = llama_jp.stream_batch(model, tokenizer, prompts, max_new_tokens=12, do_sample=True, seed=[1, 2, 3])
    texts, order = [""] * 3, []
    for row, piece in stream:
        texts[row] += piece
        order.append(row)
    for row, prompt in enumerate(prompts):
        alone = llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=12, do_sample=True, seed=[row + 1])
        assert texts[row] == "".join(alone)
        assert stream.generations[row].ids == alone.generation.ids
    assert order != sorted(order), "rows came one after the other"


def test_batch_invariance_is_measured_again_when_the_code_changes(small):
    """Against: an old answer for a model whose attention now depends on its place in the batch."""
    model = load_model(small, dtype="float32")
    model.config.intermediate_size = 64  # a multiple of the vector width, so that the model is measured
    runner = ModelRunner(model, torch.ones(1, 1), None)
    before = [layer.self_attn.attend for layer in model.layers]

    def by_row(q, k, v, mask):
        return before[0](q, k, v, mask) * torch.arange(1.0, len(q) + 1)[:, None, None, None]

    with torch.no_grad():
        logits = [model(torch.full((2, 1), token)) for token in (0, model.config.vocab_size // 2)]
    if not all(torch.equal(*each) for each in logits):
        pytest.skip("on this CPU, the two rows of a product round differently")
    assert runner.is_batch_invariant(2, 2)
    for layer in model.layers:
        layer.self_attn.attend = by_row
    assert not runner.is_batch_invariant(2, 2)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    assert not runner.is_batch_invariant(2, 2) and calls, "a new hook is new code"
    calls.clear()
    assert not runner.is_batch_invariant(2, 2) and not calls, "the same code is not measured twice"
    handle.remove()
    for layer, attend in zip(model.layers, before, strict=True):
        layer.self_attn.attend = attend
    assert runner.is_batch_invariant(2, 2)


def test_each_model_is_measured_for_itself(small):
    """The measurements lie on the model itself: another model of the same shape measures for itself."""
    first, second = load_model(small, dtype="float32"), load_model(small, dtype="float32")
    for model in (first, second):
        model.config.intermediate_size = 64
    ModelRunner(first, torch.ones(1, 1), None).is_batch_invariant(1, 1)
    calls = []
    second.embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    ModelRunner(second, torch.ones(1, 1), None).is_batch_invariant(1, 1)
    assert calls
