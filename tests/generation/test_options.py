"""Options: where each value comes from, and that all places which list them agree."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import typing
import warnings

import pytest

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.options import SAMPLING_ONLY, OptionFields, Options

NOT_FILTERS = {
    "max_new_tokens", "max_length", "do_sample", "seed", "num_return_sequences", "penalty_window",
    "penalty_generated_only", "guidance_scale", "negative_prompt_ids", "num_beams", "length_penalty", "early_stopping",
    "eos_token_id", "stop_strings", "max_time", "stopping_criteria", "stop_on_loop", "prompt_lookup_num_tokens",
    "max_matching_ngram_size", "num_assistant_tokens", "past_context", "sink_tokens", "prefill_chunk_size",
    "pad_token_id", "exact", "top_logprobs",
}  # fmt: skip


@pytest.fixture
def model(small):
    return load_model(small, dtype="float32")


def test_the_typed_keywords_are_the_fields():
    """Against: an option that type checkers refuse or accept wrongly, since the two classes differ."""
    fields = {field.name: field.type for field in dataclasses.fields(Options)}
    assert {name: ref.__forward_arg__ for name, ref in OptionFields.__annotations__.items()} == fields
    assert OptionFields.__total__ is False


@pytest.mark.parametrize("function", [llama_jp.generate, llama_jp.stream_text, llama_jp.stream_batch])
def test_help_shows_every_option(function):
    """Against: options that no signature shows."""
    parameters = inspect.signature(function).parameters
    assert {field.name for field in dataclasses.fields(Options)} < parameters.keys()
    assert parameters["temperature"].kind is inspect.Parameter.KEYWORD_ONLY
    assert not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    assert "temperature" in str(inspect.signature(function))


def test_order_of_sources(model):
    """By name, then the object, then the checkpoint, then transformers' default."""
    model.generation_config = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    resolved = Options.resolve(model, Options(temperature=0.5, min_p=0.1), {"temperature": 0.4, "top_p": None})
    assert (resolved.temperature, resolved.min_p, resolved.top_p) == (0.4, 0.1, None)
    assert (resolved.do_sample, resolved.eos_token_id, resolved.top_k) == (True, 2, 50)
    assert Options.resolve(model, None, {"eos_token_id": None}).eos == []


def test_an_object_and_names_give_the_same_answer(model):
    options = Options(max_new_tokens=6, do_sample=True, temperature=0.8, seed=3)
    named = {"max_new_tokens": 6, "do_sample": True, "temperature": 0.8, "seed": 3}
    assert llama_jp.generate(model, [[1, 5]], options) == llama_jp.generate(model, [[1, 5]], **named)
    assert llama_jp.generate(model, [[1, 5]], options, seed=4) == llama_jp.generate(
        model, [[1, 5]], **named | {"seed": 4}
    )


def test_the_callers_object_is_not_written_to(model):
    """Against: a second call with the same object that behaves differently."""
    options = Options(max_new_tokens=3, eos_token_id=[5, 6], bad_words_ids=[[7]], num_beams=2)
    before = copy.deepcopy(options)
    first = llama_jp.generate(model, [[1, 2], [3]], options)
    assert options == before
    assert llama_jp.generate(model, [[1, 2], [3]], options) == first


@pytest.mark.parametrize("call", [llama_jp.generate, lambda *args, **named: llama_jp.generate(*args, **named)])
def test_a_warning_points_to_the_callers_line(model, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(model, [[1]], max_new_tokens=1, top_p=0.5)
    (warning,) = caught
    assert warning.filename == __file__ and "no effect without do_sample" in str(warning.message)


def test_a_seed_without_sampling_is_no_silent_wish(model):
    """Against: a greedy answer for somebody who expects another one for each seed."""
    with pytest.warns(UserWarning, match="seed: no effect without do_sample=True"):
        llama_jp.generate(model, [[1]], max_new_tokens=1, do_sample=False, seed=3)


def test_every_filter_option_changes_the_chain():
    """Against: a renamed field whose filter is forgotten. Each option by itself adds exactly its filter."""
    from llama_jp.generation.filter_chain import make_filters

    shaping = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "epsilon_cutoff": 0.1}
    shaping |= {"eta_cutoff": 0.1, "top_h": 0.5}
    others: dict[str, typing.Any] = {
        "sequence_bias": {(3,): 1.0}, "encoder_repetition_penalty": 2.0, "repetition_penalty": 2.0,
        "presence_penalty": 1.0, "frequency_penalty": 1.0, "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 2, "bad_words_ids": [[3]], "min_length": 4, "min_new_tokens": 4,
        "prefix_allowed_tokens_fn": lambda prompt, ids: [1], "forced_bos_token_id": 3, "forced_eos_token_id": 3,
        "remove_invalid_values": True, "exponential_decay_length_penalty": (2, 1.1), "suppress_tokens": [3],
        "begin_suppress_tokens": [3], "logits_processor": lambda ids, logits: logits, "renormalize_logits": True,
    }  # fmt: skip
    for name, value in shaping.items():
        assert len(make_filters(Options(do_sample=True, **{name: value}))) == 1, name
        assert make_filters(Options(**{name: value})) == [], name
    for name, value in others.items():
        assert len(make_filters(Options(eos_token_id=2, **{name: value}))) == 1, name
    assert {*shaping, "seed"} == set(SAMPLING_ONLY)
    names = {field.name for field in dataclasses.fields(Options)}
    assert names - shaping.keys() - others.keys() == NOT_FILTERS, "a new option is a filter, or is listed as none"


def test_num_assistant_tokens_needs_an_assistant(model):
    with pytest.warns(UserWarning, match="num_assistant_tokens: no effect without assistant_model"):
        llama_jp.generate(model, [[1]], max_new_tokens=1, num_assistant_tokens=3)
