"""Values on a boundary: each test guards against one mistake that random comparisons with transformers do not meet."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from helpers.reference import SMALL, save_random, theirs
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.config import parse_config
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.beams import WORST, Beams, may_improve
from llama_jp.generation.filter_chain import make_filters
from llama_jp.generation.filters import allow_only, keep_typical
from llama_jp.generation.guidance import Guidance
from llama_jp.generation.options import Options
from llama_jp.generation.speculation import Draft, PromptLookup
from llama_jp.generation.stop_strings import StopStringBuffer

INF = float("inf")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    folder = save_random(tmp_path_factory.mktemp("long"), 5, **SMALL | {"max_position_embeddings": 400})
    return load_model(folder, dtype="float32", device="cpu")


def test_an_answer_without_a_length_has_256_tokens(model):
    """Against: answers that fill the context when no option sets a length."""
    (answer,) = llama_jp.generate(model, [[1, 2, 3]], eos_token_id=None)
    assert (len(answer.ids), answer.finish_reason) == (256, "length")


def test_the_longest_of_nested_stop_strings_is_cut(tmp_path):
    """Against: 「です。」 and 「。」 both end here; the text stops before the one that begins first."""
    tokenizer = llama_jp.Tokenizer.from_pretrained(llama_folder(tmp_path))
    for strings in (["。", "です。"], ["です。", "。"]):
        text = StopStringBuffer(tokenizer, strings)
        for token in tokenizer.encode("犬です。雨", bos=False):
            if text.push(token):
                break
        assert text.finish() == "犬", strings


def test_filters_that_match_ids_see_the_pad_id():
    """Against: 0 at padding positions whatever pad_token_id is."""
    (filter,) = make_filters(Options(no_repeat_ngram_size=1, pad_token_id=4))
    assert filter(torch.tensor([[-1, 2]]), torch.zeros(1, 6)).isneginf()[0].tolist() == [
        False,
        False,
        True,
        False,
        True,
        False,
    ]


def test_begin_suppress_tokens_wait_for_a_forced_bos():
    """After a prompt of one token with a forced BOS, the first free token is the second."""
    options = Options(forced_bos_token_id=3, begin_suppress_tokens=[1])
    chain = make_filters(options, prompt_length=1)
    suppressed = []
    for length in (1, 2, 3):
        ids, logits = torch.full((1, length), 2), torch.zeros(1, 5)
        for filter in chain[1:]:  # the first forces the BOS
            logits = filter(ids, logits)
        suppressed.append(bool(logits[0, 1].isneginf()))
    assert suppressed == [False, True, False]


def test_allowed_tokens_override_only_where_every_beam_is_stuck():
    """Against: deciding beam by beam. Beam 0 may say only a forbidden token, but beam 1 can go on."""
    logits = torch.zeros(2, 4)
    logits[0, 3] = -INF
    ids = torch.tensor([[0], [1]])
    allowed = lambda prompt, so_far: [3] if so_far[-1] == 0 else [2]  # noqa: E731
    expected = transformers.PrefixConstrainedLogitsProcessor(allowed, 2)(ids, logits)
    assert torch.equal(allow_only(logits, ids, allowed, 2), expected)
    assert expected[0].isneginf().all(), "beam 0 has no token left, and that is right"


def test_never_stops_early_by_the_present_length_for_a_negative_penalty():
    """With a negative length penalty, longer answers are worse: the greatest length is no hope."""
    ids = torch.zeros(1, 1, 3, dtype=torch.long)
    running, done = Beams.start(ids, 2, 0, [-4.0]), Beams.start(ids, 2, 0, [-9.0])
    done.finished[:] = True
    never = Options(early_stopping="never")
    assert bool(may_improve(running, done, 2, 10, -1.0, never)), "-4 * 2 is better than -9"
    assert not bool(may_improve(running, done, 3, 10, -1.0, never)), "-4 * 3 is worse"
    assert bool(may_improve(running, done, 1, 2, 1.0, Options(early_stopping="never")))
    done.finished[:] = False
    assert bool(may_improve(running, done, 3, 10, -1.0, never)) == (WORST < -12.0)


@pytest.mark.parametrize("number", range(4))
def test_beams_go_on_when_every_beam_could_end_in_every_eos(model, number):
    """Against: twice as many candidates as beams, however many EOS ids there are."""
    their, rng = theirs(model.folder, torch.float32), torch.Generator().manual_seed(number)
    prompt = torch.randint(6, 96, (1, 4), generator=rng)
    options = {"num_beams": 3, "max_new_tokens": 7, "eos_token_id": [1, 2, 3, 4, 5], "pad_token_id": 0}
    options |= {
        "sequence_bias": {(eos,): 9.0 for eos in range(1, 6)},
        "num_return_sequences": 3,
        "min_new_tokens": None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    expected = [row[4:].tolist() for row in their.generate(prompt, **options)]
    answers = llama_jp.generate(model, prompt, **options)
    width = max(map(len, expected))
    assert [answer.ids + [0] * (width - len(answer.ids)) for answer in answers] == expected


def test_the_inner_rope_theta_wins():
    config = SMALL | {
        "model_type": "llama",
        "rope_theta": 1.0,
        "rope_parameters": {"rope_theta": 7.0, "rope_type": "default"},
    }
    assert parse_config(config).rope_theta == 7.0


def test_the_context_is_never_shorter_than_max_position_embeddings():
    """Against: trained positions times the factor, where config.json already allows more."""
    scaling = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16}
    config = llama_jp.LlamaConfig(**SMALL | {"max_position_embeddings": 100, "rope_scaling": scaling})
    assert config.context_length == 100
    scaling["factor"] = 8.0
    assert config.context_length == 128


def test_a_saved_cache_of_another_dtype_is_refused(model, tmp_path):
    """Against: float16 keys copied, and rounded, into a float32 cache."""
    cache = model.new_cache(1, 8)
    model(torch.tensor([[1, 2]]), cache)
    cache.keys, cache.values = ([x.half() for x in tensors] for tensors in (cache.keys, cache.values))
    cache.save(tmp_path / "cache.safetensors", [1, 2])
    with pytest.raises(ValueError, match=r"holds torch\.float16"):
        model.new_cache(1, 8).load(tmp_path / "cache.safetensors")


def test_every_eos_of_config_json_ends_an_answer(model, tmp_path):
    """Against: only the first of several ids, where there is no generation_config.json."""
    folder = shutil.copytree(model.folder, tmp_path / "several")
    (folder / "generation_config.json").unlink()
    (plain,) = llama_jp.generate(model, [[1, 2, 3]], max_new_tokens=5, eos_token_id=None)
    config = json.loads((folder / "config.json").read_text())
    other = next(token for token in range(96) if token not in plain.ids)
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": [other, plain.ids[2]]}))
    (answer,) = llama_jp.generate(load_model(folder, dtype="float32"), [[1, 2, 3]], max_new_tokens=5)
    first = plain.ids.index(plain.ids[2])
    assert (answer.ids, answer.finish_reason) == (plain.ids[: first + 1], "eos")


def test_lookup_takes_the_newest_match():
    assert PromptLookup(2, 2).propose([1, 2, 7, 1, 2, 8, 1, 2], 2) == Draft([8, 1])


def test_typical_p_stops_where_the_mass_is_reached():
    """Against: one token more when the probabilities sum to exactly typical_p."""
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.07, 0.03]]).log()
    logp = logits.log_softmax(-1)
    entropy = -(logp * logp.exp()).sum(-1, keepdim=True)
    order = (-logp - entropy).abs().sort().indices
    for count in (1, 2, 3, 4):
        mass = logits.gather(-1, order).softmax(-1).cumsum(-1)[0, count - 1].item()
        kept = keep_typical(logits, mass)
        assert torch.equal(kept, transformers.TypicalLogitsWarper(mass)(None, logits))
        assert int(kept.isfinite().sum()) == count


def test_guidance_mixes_log_probabilities(model):
    """Against: mixing raw logits, which gives the same greedy token but other scores."""
    ids, logits = torch.tensor([[1, 2, 3]]), torch.randn(1, 96)
    without = model(ids[:, -1:])[:, -1].log_softmax(-1)
    expected = 3.0 * (logits.log_softmax(-1) - without) + without
    assert torch.equal(Guidance(model, 3.0, None, 4)(ids, logits), expected)
