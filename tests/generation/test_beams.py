"""Beam search and several answers: scores, alternatives, and what is refused. Tokens: see test_combinations.py."""

from __future__ import annotations

import random

import pytest
import torch
from helpers.reference import SEED, both, random_config, save_random

import llama_jp


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    torch.set_num_threads(1)
    config = random_config(random.Random(3), "default")
    return both(save_random(tmp_path_factory.mktemp("beams"), 3, **config), torch.float32)


def their_output(model, prompt: list[int], seed: int = 0, **options):
    torch.manual_seed(seed)
    return model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )


PROMPT = [1, 20, 3, 14]
EOS = list(range(2, 40, 5))


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.0])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_sequence_and_transition_scores(pair, length_penalty, early_stopping):
    """Guards against a length penalty by the prompt's length too, and scores that follow the wrong beam's past."""
    ours, theirs = pair
    options = {
        "num_beams": 4,
        "num_return_sequences": 4,
        "max_new_tokens": 9,
        "eos_token_id": EOS,
        "repetition_penalty": 1.4,
        "length_penalty": length_penalty,
        "early_stopping": early_stopping,
    }
    out = their_output(theirs, PROMPT, **options)
    transitions = theirs.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
    answers = llama_jp.generate(ours, [PROMPT], **options)
    for row, answer in enumerate(answers):
        n = len(answer.ids)
        assert answer.ids == out.sequences[row, len(PROMPT) :].tolist()[:n]
        assert answer.sequence_score == out.sequences_scores[row].item()
        assert answer.scores == transitions[row, :n].tolist()
        assert answer.finish_reason == ("eos" if answer.ids[-1] in EOS else "length")


def test_scores_of_drawn_tokens(pair):
    """Guards against scores from before the filters, and log-probabilities from after."""
    ours, theirs = pair
    options = {"do_sample": True, "temperature": 0.7, "top_k": 5, "max_new_tokens": 12}
    out = their_output(theirs, PROMPT, seed=SEED, **options)
    (answer,) = llama_jp.generate(ours, [PROMPT], seed=SEED, top_logprobs=3, **options)
    assert answer.ids == out.sequences[0, len(PROMPT) :].tolist()
    assert answer.scores == theirs.compute_transition_scores(out.sequences, out.scores)[0].tolist()
    for step, (token, logprob, top) in enumerate(zip(answer.ids, answer.logprobs, answer.top_logprobs, strict=True)):
        expected = out.logits[step][0].log_softmax(-1)
        assert logprob == expected[token].item()
        best = expected.topk(3)
        assert top == list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def test_alternatives_along_a_beam_are_its_own(pair):
    """One call for the whole text of the best beam gives the alternatives that beam search recorded."""
    ours, _ = pair
    (answer,) = llama_jp.generate(ours, [PROMPT], num_beams=3, max_new_tokens=8, top_logprobs=2)
    with torch.no_grad():
        logprobs = ours(torch.tensor([PROMPT + answer.ids]))[0].float().log_softmax(-1)[len(PROMPT) - 1 : -1]
    best = logprobs.topk(2)
    assert [[token for token, _ in top] for top in answer.top_logprobs] == best.indices.tolist()
    expected = logprobs.gather(1, torch.tensor(answer.ids)[:, None])[:, 0].tolist()
    assert answer.logprobs == pytest.approx(expected, abs=1e-5)  # one call against many steps


def test_one_beam_is_greedy_and_all_beams_are_exhaustive(pair):
    """With as many beams as there are beginnings, and no length penalty, nothing is lost: the best answer is the best
    of all, found by trying them."""
    ours, _ = pair
    V = ours.config.vocab_size
    (answer,) = llama_jp.generate(ours, [PROMPT], num_beams=V, max_new_tokens=2, length_penalty=0.0)
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    with torch.no_grad():
        logits = ours(torch.cat((torch.tensor(PROMPT).expand(len(pairs), -1), pairs), dim=1)).float()
    logprobs = logits[:, len(PROMPT) - 1 : -1].log_softmax(-1)
    totals = logprobs.gather(2, pairs[..., None]).sum((1, 2))
    assert answer.ids == pairs[totals.argmax()].tolist()
    assert answer.sequence_score == pytest.approx(totals.max().item(), abs=1e-4)


def test_stop_strings_and_criteria_end_beams(pair, tmp_path):
    """A criterion of the caller's ends beams as it does in transformers."""
    ours, theirs = pair

    def third_token_is_even(ids, scores):
        return (ids.shape[1] > len(PROMPT) + 2) & (ids[:, -1] % 2 == 0)

    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 9}
    out = their_output(theirs, PROMPT, stopping_criteria=[third_token_is_even], **options)
    lengths = (out.beam_indices >= 0).sum(1).tolist()
    expected = [row[:n] for row, n in zip(out.sequences[:, len(PROMPT) :].tolist(), lengths, strict=True)]
    answers = llama_jp.generate(ours, [PROMPT], stopping_criteria=[third_token_is_even], **options)
    assert [answer.ids for answer in answers] == expected
    assert any(answer.finish_reason == "criterion" for answer in answers)


def test_a_callable_and_allowed_tokens_join_the_chain_where_the_reference_has_them(pair):
    """The caller's own filter comes before temperature, and sees the ids as transformers shows them."""
    ours, theirs = pair
    seen: list[list] = [[], []]

    def own(log):
        def filter(ids, logits):
            log.append(ids.tolist())
            return logits.masked_fill(logits > logits.topk(3).values[:, -1:], 0.5)

        return filter

    def allowed(prompt, ids):
        return list(range(int(ids[-1]) % 7, 40, 2))

    options = {
        "do_sample": True,
        "temperature": 0.2,
        "top_k": 9,
        "max_new_tokens": 8,
        "prefix_allowed_tokens_fn": allowed,
    }
    out = their_output(theirs, PROMPT, seed=SEED, logits_processor=[own(seen[0])], **options)
    (answer,) = llama_jp.generate(ours, [PROMPT], seed=SEED, logits_processor=own(seen[1]), **options)
    assert answer.ids == out.sequences[0, len(PROMPT) :].tolist()
    assert seen[0] == seen[1]


def test_seeds_of_their_own_for_beams_and_copies(pair):
    ours, _ = pair
    prompts, seeds = [[1, 2, 3], [4, 5, 6]], [11, 12]
    options = {"do_sample": True, "num_beams": 3, "max_new_tokens": 6}
    together = llama_jp.generate(ours, prompts, seed=seeds, **options)
    single = [llama_jp.generate(ours, [p], seed=[s], **options)[0] for p, s in zip(prompts, seeds, strict=True)]
    assert [answer.ids for answer in together] == [answer.ids for answer in single]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_return_sequences": 2}, "greedy decoding has one answer"),
        ({"num_beams": 2, "num_return_sequences": 3}, "there are only 2 beams to return"),
        ({"num_beams": 2, "early_stopping": "soon"}, "early_stopping is True, False or"),
        ({"num_beams": 0}, "num_beams has to be a whole number"),
        ({"num_beams": 2, "past_context": "shift"}, "cannot be combined with beam search"),
        ({"past_context": "wrap"}, "past_context is"),
        ({"past_context": "shift", "sink_tokens": 999}, "sink_tokens is 999, but the context holds"),
        ({"past_context": "shift", "sink_tokens": -1}, "sink_tokens has to be a whole number of at least 0"),
        ({"top_logprobs": -1}, "top_logprobs has to be a whole number"),
        ({"num_assistant_tokens": 0}, "num_assistant_tokens has to be a whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale has to be a number"),
        ({"guidance_scale": 2, "negative_prompt_ids": [-1]}, r"negative_prompt_ids has \[-1\]"),
        ({"eos_token_id": 999}, r"eos_token_id has \[999\], but ids are whole numbers from 0 to"),
        ({"forced_bos_token_id": -1}, r"forced_bos_token_id has \[-1\]"),
        ({"suppress_tokens": [3, "a"]}, r"suppress_tokens has \['a'\]"),
        ({"bad_words_ids": [["a"]]}, r"bad_words_ids has \['a'\], but ids are whole numbers from 0 on"),
        ({"sequence_bias": [[[5, -1], 1.0]]}, r"sequence_bias has \[-1\]"),
        ({"sequence_bias": [5]}, "sequence_bias pairs ids with a float, .*, not 5"),
        ({"eos_token_id": 2, "exponential_decay_length_penalty": [1]}, r"is \(tokens, factor\), as in .*, not \[1\]"),
        ({"eos_token_id": 2, "exponential_decay_length_penalty": (1, "a")}, r"is \(tokens, factor\)"),
        ({"do_sample": True, "seed": 2**70}, "seed has to be a whole number"),
    ],
)
def test_refused_by_name(pair, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        llama_jp.generate(pair[0], [PROMPT], max_new_tokens=3, **options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"length_penalty": 2.0}, "length_penalty: no effect without num_beams"),
        ({"max_matching_ngram_size": 3}, "no effect without prompt_lookup_num_tokens"),
        ({"negative_prompt_ids": [3]}, "no effect without guidance_scale"),
        ({"max_length": 9}, "max_length: no effect together with max_new_tokens"),
    ],
)
def test_what_has_no_effect_is_said(pair, options, sentence):
    with pytest.warns(UserWarning, match=sentence):
        llama_jp.generate(pair[0], [PROMPT], max_new_tokens=1, **options)
