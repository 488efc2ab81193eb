"""Traces around `generate`: which calls are points of the text, and edits that act in one step only."""

from __future__ import annotations

import pytest
from helpers.traced import IDS, here

import llama_jp
from llama_jp.generation.interface import generate, stream_text
from llama_jp.tracing import trace

PROMPT = IDS[0].tolist()
OPTIONS = {"max_new_tokens": 6, "min_new_tokens": 6}


def ids_of(answers):
    return [answer.ids for answer in answers]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": True, "seed": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 3},
        {"do_sample": True, "seed": 3, "num_return_sequences": 3},
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recording_changes_no_answer(folder, options, dtype):
    model = here(folder, dtype)
    expected = ids_of(generate(model, [PROMPT], **OPTIONS, **options))
    with trace(model, ["**"]) as seen:
        assert ids_of(generate(model, [PROMPT], **OPTIONS, **options)) == expected
    assert seen.calls("layers.1")[0].shape[1] == len(PROMPT)


def test_one_call_is_the_prefill_and_one_is_each_further_step():
    """Guards against records of the calls that measure batch invariance, which belong to no text."""
    model, _ = llama_jp.load("demo", dtype="bfloat16")
    calls = []
    handle = model.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))
    with trace(model, ["layers.1"]) as seen:
        answers = generate(model, [PROMPT], do_sample=True, seed=3, num_return_sequences=4, **OPTIONS)
    handle.remove()
    shapes = [tuple(x.shape[:2]) for x in seen.calls("layers.1")]
    assert len(answers) == 4 and [T for _, T in shapes] == [len(PROMPT), 1, 1, 1, 1, 1]
    assert len(calls) > len(shapes), "nothing was measured"


@pytest.mark.parametrize("step", [0, 3])
def test_an_edit_acts_in_one_step_only(folder, step):
    """Guards against a call number that counts anything but the calls of this text."""
    model = here(folder)

    def edit(x, point):
        return x.flip(-1) if point.call == step else x

    plain = generate(model, [PROMPT], **OPTIONS, top_logprobs=1)[0]
    with trace(model, ["layers.2"], edit={"layers.2": edit}) as seen:
        edited = generate(model, [PROMPT], **OPTIONS, top_logprobs=1)[0]
    assert len(seen.calls("layers.2")) == 6
    same = [a == b for a, b in zip(plain.logprobs, edited.logprobs, strict=True)]
    assert same.index(False) == step


def test_a_stream_is_traced_inside_the_block():
    model, tokenizer = llama_jp.load("demo", dtype="float32")
    with trace(model, ["layers.3"]) as seen:
        stream = stream_text(model, tokenizer, tokenizer.encode("むかしむかし、"), max_new_tokens=8)
        next(pieces := iter(stream))
    during = len(seen.calls("layers.3"))
    assert len(list(pieces)) > 3
    assert len(seen.calls("layers.3")) == during < 8
