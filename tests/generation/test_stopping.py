"""When an answer ends, and that the reason given is the true one."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
import transformers
from helpers.reference import SEED, SORTS_SAMPLED_BEAMS, random_config, save_random, theirs
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.generation import stopping
from llama_jp.generation.stopping import LoopDetector, Stopping


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    torch.set_num_threads(1)
    folder = llama_folder(tmp_path_factory.mktemp("talker"))
    tokenizer = llama_jp.Tokenizer.from_pretrained(folder)
    save_random(folder, 11, **random_config(random.Random(3), "default") | {"vocab_size": tokenizer.vocab_size})
    return load_model(folder, dtype="float32", device="cpu"), tokenizer


def test_time_is_up(talker, monkeypatch):
    """Guards against a clock that starts too late or is not checked. The step in progress still completes."""
    model, _ = talker
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(stopping, "time", clock)

    def slow(ids, scores):
        clock.now += 0.25
        return False

    def answer(max_time):
        (answer,) = llama_jp.generate(model, [[1, 2]], max_new_tokens=9, max_time=max_time, stopping_criteria=slow)
        return len(answer.ids), answer.finish_reason

    assert answer(0.0) == (1, "time"), "no clock is too coarse for this"
    assert answer(0.6) == (4, "time")
    assert answer(60.0) == (9, "length")
    with pytest.raises(ValueError, match="max_time is a number of seconds"):
        llama_jp.generate(model, [[1, 2]], max_new_tokens=4, max_time=-1)


def test_a_criterion_of_the_callers(talker):
    """One answer for the batch, or one for each row; ids with the prompt before them, scores after the filters."""
    model, _ = talker
    prompts = [[1, 2, 3], [4]]

    def second_row_after_five(ids, scores):
        assert scores.shape == (2, model.config.vocab_size)
        return torch.tensor([False, ids.shape[1] >= 3 + 5])

    first, second = llama_jp.generate(model, prompts, max_new_tokens=9, stopping_criteria=[second_row_after_five])
    assert (len(first.ids), first.finish_reason) == (9, "length")
    assert (len(second.ids), second.finish_reason) == (5, "criterion")
    answers = llama_jp.generate(model, prompts, max_new_tokens=9, stopping_criteria=lambda ids, scores: True)
    assert [(len(answer.ids), answer.finish_reason) for answer in answers] == [(1, "criterion")] * 2


def test_the_first_true_reason_is_given(talker):
    """A last token that is EOS ends the answer as EOS, also at the maximum length."""
    model, _ = talker
    (plain,) = llama_jp.generate(model, [[1, 2]], max_new_tokens=6)
    (answer,) = llama_jp.generate(model, [[1, 2]], max_new_tokens=6, eos_token_id=plain.ids[-1], max_time=60)
    assert answer.finish_reason == "eos"


@pytest.mark.parametrize("beams", [1, 3])
def test_a_stop_string_of_bytes_and_across_tokens(talker, beams):
    """Guards against looking at tokens one by one: 𠮷 is four byte tokens, and は。 two pieces. Beams stop as well."""
    model, tokenizer = talker
    for string in ("𠮷", "は。", "猫で"):
        text = tokenizer.encode(string, bos=False)
        text = [token for token in text if tokenizer.decode([token]).strip() or len(text) > 2]
        wanted = [*text, 5, 5, 5]

        def dictate(ids, logits, wanted=wanted):
            forced = torch.full_like(logits, -torch.inf)
            forced[:, wanted[min(ids.shape[1] - 2, len(wanted) - 1)]] = 0.0
            return forced

        (answer,) = llama_jp.generate(
            model,
            [[1, 9]],
            tokenizer=tokenizer,
            stop_strings=string,
            max_new_tokens=len(wanted),
            logits_processor=dictate,
            num_beams=beams,
        )
        assert (answer.ids, answer.finish_reason) == (text, "stop"), string


def test_loops_by_hand():
    """Guards against laughter and dots taken for loops, and a loop of long units or with a beginning missed."""
    loop = LoopDetector(times=4, longest=10, least=12)
    assert not loop([7] * 11)
    assert loop([7] * 12)
    assert loop([1, 2, 3] + [4, 5, 6] * 4)
    assert not loop([4, 5, 6] * 3 + [4, 5])
    assert not loop([4, 5, 6] * 4 + [7])
    assert loop(list(range(10)) * 4)
    assert not loop(list(range(11)) * 4), "longer than the longest"
    assert not loop([])


def test_no_loop_where_there_is_none_and_always_one_where_there_is():
    """Against a plain definition, on random texts of few tokens, which repeat themselves all the time."""
    rng = random.Random(SEED)
    for _ in range(2000):
        times, longest, least = rng.randrange(2, 5), rng.randrange(1, 6), rng.randrange(1, 12)
        text = [rng.randrange(2) for _ in range(rng.randrange(0, 20))]
        expected = any(
            text[-unit * n :] == text[-unit:] * n
            for unit in range(1, longest + 1)
            for n in range(times, 30)
            if least <= unit * n <= len(text)
        )
        assert LoopDetector(times, longest, least)(text) == expected, (text, times, longest, least)


def test_loops_are_found_only_when_asked_for(talker):
    model, _ = talker
    stuck = {"logits_processor": lambda ids, logits: logits.index_fill(1, torch.tensor([8]), 1e4)}
    (answer,) = llama_jp.generate(model, [[1, 2]], max_new_tokens=40, **stuck)
    assert (len(answer.ids), answer.finish_reason) == (40, "length")
    (answer,) = llama_jp.generate(model, [[1, 2]], max_new_tokens=40, stop_on_loop=True, **stuck)
    assert (len(answer.ids), answer.finish_reason) == (24, "loop")


def test_time_and_length_stop_all_rows_and_eos_its_own():
    reasons = Stopping(eos=[2], max_time=None, criteria=None, loop=None, last=4)
    ids = torch.tensor([[1, 5, 2], [1, 5, 6]])
    assert reasons(ids, torch.zeros(2, 9), 1) == ["eos", None]
    assert reasons(torch.cat((ids, ids[:, :1]), 1), torch.zeros(2, 9), 1) == ["length", "length"]


def test_stop_strings_end_where_transformers_ends(talker):
    """Random text of pieces, bytes and specials; some of its bytes are the stop strings of a second run.

    Guards against a string that is found a token too late, in the middle of a piece, or not at all: where it is bytes,
    where a special stands in it, where it begins in the prompt; and against one that occurs in the prompt only.
    """
    model, tokenizer = talker
    words = tokenizer.vocabulary
    their = theirs(model.folder, torch.float32)
    their_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(model.folder / "tokenizer.json"))
    rng, N = random.Random(SEED), 5
    ended = {"prompt": 0, "answer": 0, "never": 0}
    while min(ended.values()) < 4:
        prompt, seed = [rng.randrange(tokenizer.vocab_size) for _ in range(N)], rng.randrange(2**31)
        if rng.random() < 0.3:
            prompt[-1] = tokenizer.encode("猫", bos=False)[-1]
        options = {"max_new_tokens": 25, "num_beams": rng.choice([1, 1, 3])}
        if rng.random() < 0.7 and not (SORTS_SAMPLED_BEAMS and options["num_beams"] > 1):
            options |= {"do_sample": True, "temperature": 1.5}
        plain = llama_jp.generate(model, [prompt], seed=seed, **options)[0].ids
        text = [words.token_bytes(token) for token in prompt + plain if token < tokenizer.vocab_size]
        border, whole = len(b"".join(text[:N])), b"".join(text)
        begin = rng.randrange(max(0, border - 8), rng.choice([border + 3, len(whole)]))
        string = whole[begin : begin + rng.randrange(1, 12)]
        kind = "never" if begin + len(string) <= border else "prompt" if begin < border else "answer"
        try:
            strings = [string.decode(), "いらない"]
        except UnicodeDecodeError:
            continue
        if ended[kind] >= 4:  # each further string costs transformers a table of the whole vocabulary
            continue
        torch.manual_seed(seed)
        out = their.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, N, dtype=torch.long),
            stop_strings=strings,
            tokenizer=their_tokenizer,
            pad_token_id=0,
            return_dict_in_generate=True,
            **options,
        )
        n = len(out.sequences[0]) - N
        if options["num_beams"] > 1:
            n = int((out.beam_indices[0] >= 0).sum())
        (answer,) = llama_jp.generate(model, [prompt], seed=seed, stop_strings=strings, tokenizer=tokenizer, **options)
        assert answer.ids == out.sequences[0, N : N + n].tolist(), (prompt, strings, options)
        assert answer.finish_reason == ("stop" if n < 25 else answer.finish_reason)
        stopped = answer.finish_reason == "stop"
        ended["never" if not stopped else "prompt" if begin < border else "answer"] += 1
