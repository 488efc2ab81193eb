"""Generation: token for token what transformers generates, and text that ends where it should."""

from __future__ import annotations

import json
import random

import pytest
import torch
from helpers.reference import DTYPES, SEED, both, random_config, save_random, theirs
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.interface import generate, stream_text
from llama_jp.generation.stop_strings import StopStringBuffer, overlap
from llama_jp.text.streaming import TextStream
from llama_jp.text.vocabulary import Vocabulary


def their_answers(model, prompts, seed, **options) -> list[list[int]]:
    """transformers' new tokens, each row cut behind its EOS."""
    N = max(map(len, prompts))
    ids = torch.tensor([[0] * (N - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (N - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    torch.manual_seed(seed)
    sequences = model.generate(ids, attention_mask=mask, **options)[:, N:].tolist()
    eos = options.get("eos_token_id")
    eos = set() if eos is None else {eos} if isinstance(eos, int) else set(eos)
    ends = [next((i + 1 for i, token in enumerate(row) if token in eos), len(row)) for row in sequences]
    return [row[:end] for row, end in zip(sequences, ends, strict=True)]


def random_prompts(rng: random.Random, vocabulary: int, rows: int) -> list[list[int]]:
    return [[rng.randrange(vocabulary) for _ in range(rng.randrange(1, 16))] for _ in range(rows)]


def random_options(rng: random.Random, vocabulary: int) -> dict:
    options = {"max_new_tokens": rng.randrange(1, 20), "do_sample": rng.random() < 0.7}
    if options["do_sample"]:
        maybe = {
            "temperature": rng.choice([0.1, 0.6, 1.0, 1.7]),
            "top_k": rng.choice([0, 1, 5, 50, 10_000]),
            "top_p": rng.choice([0.0, 0.3, 0.9, 1.0]),
            "min_p": rng.choice([0.0, 0.05, 0.5, 1.0]),
        }
        options |= {name: value for name, value in maybe.items() if rng.random() < 0.5}
    if rng.random() < 0.4:
        options["repetition_penalty"] = rng.choice([0.8, 1.2, 3.0])
    if rng.random() < 0.6:
        options["eos_token_id"] = rng.sample(range(vocabulary), rng.choice([1, 3, 12]))
    return options


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tokens_are_those_of_transformers(tmp_path, dtype):
    """Greedy and sampled, single prompts and ragged batches, every filter, several EOS.

    The same seed, the same tokens.
    """
    rng = random.Random(f"{SEED} {dtype}")
    for number in range(4):
        config = random_config(rng, rng.choice(["default", "llama3", "yarn"]))
        folder = save_random(tmp_path / str(number), rng.randrange(10**6), **config)
        our, their = both(folder, dtype, rng.choice(["sdpa", "eager"]))
        for _ in range(8):
            prompts = random_prompts(rng, config["vocab_size"], rng.choice([1, 1, 2, 4]))
            options, seed = random_options(rng, config["vocab_size"]), rng.randrange(10**6)
            expected = their_answers(their, prompts, seed, pad_token_id=0, **options)
            answers = generate(our, prompts, seed=seed, **options)
            assert [answer.ids for answer in answers] == expected, (config, options, prompts, seed)
            for answer in answers:
                ended = answer.ids[-1] in options.get("eos_token_id", [])
                assert answer.finish_reason == ("eos" if ended else "length")


def test_the_checkpoint_sets_the_defaults(tmp_path, small):
    """By default 7b-fast samples, with transformers' top_k of 50, and 7b is greedy.

    The caller's options override both.
    """
    folder = copy_with_generation_config(
        small, tmp_path / "fast", do_sample=True, temperature=0.6, top_p=0.9, max_length=60
    )
    our, their = load_model(folder, dtype="float32"), theirs(folder, torch.float32)
    prompt = [[1, 5, 9, 70]]
    expected = their_answers(their, prompt, 3, max_new_tokens=12)
    assert generate(our, prompt, seed=3, max_new_tokens=12)[0].ids == expected[0]
    expected = their_answers(their, prompt, 3, max_new_tokens=12, do_sample=False)
    assert generate(our, prompt, max_new_tokens=12, do_sample=False)[0].ids == expected[0]
    assert len(generate(our, prompt, seed=3, eos_token_id=None)[0].ids) == 60 - 4, "max_length counts the prompt"
    greedy = load_model(small, dtype="float32")
    assert generate(greedy, prompt, max_new_tokens=12)[0].ids == expected[0], "no sampling keys means greedy"


def copy_with_generation_config(folder, out, **values):
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    (out / "generation_config.json").write_text(json.dumps(values))
    return out


def test_use_cache_false_in_generation_config_changes_nothing(tmp_path, small):
    """The published 7b has it. It must not slow generation down, and must not be refused."""
    folder = copy_with_generation_config(small, tmp_path / "7b", use_cache=False)
    calls = []
    our = load_model(folder, dtype="float32")
    our.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape[1]))
    generate(our, [[1, 2, 3]], max_new_tokens=4, eos_token_id=None)
    assert calls == [3, 1, 1, 1]


def test_an_option_of_the_checkpoint_that_is_not_supported_is_refused_by_name(tmp_path, small):
    folder = copy_with_generation_config(small, tmp_path / "odd", penalty_alpha=0.6)
    with pytest.raises(ValueError, match="sets penalty_alpha to 0.6"):
        generate(load_model(folder, dtype="float32"), [[1]], max_new_tokens=1)


def test_seeds_of_their_own_make_rows_independent(small):
    """A list of seeds: the samples of a row do not depend on its neighbours."""
    model = load_model(small, dtype="float32")
    prompts, options = (
        [[1, 4, 5], [1, 8], [1, 4, 5, 6, 7, 8]],
        {"max_new_tokens": 10, "do_sample": True, "eos_token_id": None},
    )
    together = generate(model, prompts, seed=[7, 8, 9], **options)
    single = [
        generate(model, [prompt], seed=[seed], **options)[0] for prompt, seed in zip(prompts, [7, 8, 9], strict=True)
    ]
    assert [answer.ids for answer in together] == [answer.ids for answer in single]
    assert single[0].ids == generate(model, [prompts[0]], seed=7, **options)[0].ids, "one row: an int or a list"
    with pytest.raises(ValueError, match="2 seeds for 3 rows"):
        generate(model, prompts, seed=[1, 2], **options)


def test_generating_leaves_the_global_generator_alone(small):
    model = load_model(small, dtype="float32")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    generate(model, [[1, 2]], max_new_tokens=3, do_sample=True, seed=1)
    assert torch.equal(before, torch.get_rng_state())


def test_logprobs_are_the_models_own(small):
    """Natural logarithms of the unfiltered distribution, one for each new token."""
    model = load_model(small, dtype="float32")
    answer = generate(model, [[1, 2, 3]], max_new_tokens=5, do_sample=True, temperature=0.3, top_k=5, seed=2)[0]
    with torch.no_grad():
        logits = model(torch.tensor([[1, 2, 3] + answer.ids]))[0, 2:-1]
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(answer.ids)[:, None])[:, 0]
    assert len(answer.logprobs) == len(answer.ids)
    # one call against many steps: float32 sums of other lengths; measured: up to 1e-6
    torch.testing.assert_close(torch.tensor(answer.logprobs), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("prompts", "options", "sentence"),
    [
        ([], {}, "there are no prompts"),
        ([[]], {}, "prompt 0 is empty"),
        ([[1], [96]], {}, "prompt 1 has the id 96, but the model's vocabulary has ids 0 to 95"),
        ([[1], [-1]], {}, r"prompt 1 has \[-1\], but ids are whole numbers"),
        ([1, 2], {}, "prompts are lists of ids"),
        ([[1] * 128], {}, "the prompt has 128 tokens, but the context holds 128"),
        (
            [[1] * 120],
            {"max_new_tokens": 9},
            "120 tokens and max_new_tokens is 9, but the context holds 128; ask for at most 8",
        ),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens has to be a whole number of at least 1, not 0"),
        ([[1]], {"temperature": 0.0, "do_sample": True}, "temperature has to be a number above 0, not 0.0; for greedy"),
        ([[1]], {"top_p": 1.5, "do_sample": True}, "top_p has to be a number of at least 0 and of at most 1, not 1.5"),
        ([[1]], {"top_k": 2.5, "do_sample": True}, "top_k has to be a whole number"),
        ([[1]], {"repetition_penalty": -1.0}, "repetition_penalty has to be a number above 0"),
        ([[1]], {"stop_strings": ["a"]}, "pass tokenizer="),
    ],
)
def test_what_does_not_fit_is_refused_before_the_first_token(small, prompts, options, sentence):
    model = load_model(small, dtype="float32")
    model.register_forward_pre_hook(lambda *_: pytest.fail("the model was called"))
    with pytest.raises(ValueError, match=sentence):
        generate(model, prompts, **options)


def test_an_unknown_option_is_named(small):
    with pytest.raises(TypeError, match="unknown generation option max_tokens"):
        generate(load_model(small, dtype="float32"), [[1]], max_tokens=3)


def test_a_sampling_option_without_sampling_warns(small):
    with pytest.warns(UserWarning, match="temperature: no effect without do_sample=True"):
        generate(load_model(small, dtype="float32"), [[1]], max_new_tokens=1, temperature=0.5)


# ---- text


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A random model that has as many rows as its tokenizer has pieces, and some more without text."""
    folder = llama_folder(tmp_path_factory.mktemp("talker"))
    tokenizer = llama_jp.Tokenizer.from_pretrained(folder)
    config = {
        "vocab_size": tokenizer.vocab_size + 5,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 256,
    }
    save_random(folder, seed=11, **config)
    return load_model(folder, dtype="float32"), tokenizer


def test_streamed_text_is_the_decoded_text(talker):
    """Random ids are the hardest text: bytes in every order, specials, rows without text.

    Pieces never end inside a character.
    """
    model, tokenizer = talker
    for seed in range(6):
        stream = stream_text(
            model, tokenizer, [1, 9], do_sample=True, temperature=3.0, top_k=0, seed=seed, max_new_tokens=60
        )
        pieces = list(stream)
        ids = [token for token in stream.generation.ids if token < tokenizer.vocab_size]
        assert "".join(pieces) == tokenizer.decode(ids)
        assert "" not in pieces


def test_stop_strings_end_the_text_before_them(talker):
    """A stop string is found across token borders, is not shown, and nothing that was shown is taken back."""
    model, tokenizer = talker
    options = {"do_sample": True, "seed": 4, "max_new_tokens": 60, "eos_token_id": None, "suppress_tokens": [0, 1, 2]}
    whole = "".join(stream_text(model, tokenizer, [1, 9], **options))
    for begin in range(3, len(whole) - 4, 5):
        stop = whole[begin : begin + 3]
        if "\ufffd" in stop:  # stands for bytes that are no text
            continue
        stream = stream_text(model, tokenizer, [1, 9], stop_strings=stop, **options)
        assert "".join(stream) == whole[: whole.find(stop)]
        assert stream.generation.finish_reason == "stop"
        answer = generate(model, [[1, 9]], tokenizer=tokenizer, stop_strings=[stop], **options)[0]
        assert answer.ids == stream.generation.ids and answer.finish_reason == "stop"


class Letters:
    """A tokenizer whose ids are the letters themselves; 0 is special."""

    vocab_size = 128
    vocabulary = Vocabulary({0: "<s>"} | {i: chr(i) for i in range(1, 128)}, {}, frozenset([0]), (), 1)

    def stream(self):
        return TextStream(self.vocabulary)


def shown(strings: list[str], answer: str, prompt: str = "") -> list[str]:
    """What is shown after each letter, and at the end; "0" is the special token."""
    ids = [[0 if letter == "0" else ord(letter) for letter in text] for text in (prompt, answer)]
    text = StopStringBuffer(Letters(), strings, ids[0])
    return [(text.push(token), text.take())[1] for token in ids[1]] + [text.finish()]


def test_the_beginning_of_a_stop_string_is_held_back_and_given_back():
    """Guards against text that is taken back, or never given."""
    assert shown(["abcd", "cx"], "aabcabc!") == ["", "a", "", "", "abc", "", "", "abc!", ""]
    assert shown(["abcd"], "xyabc") == ["x", "y", "", "", "", "abc"], "the end of the answer releases the held text"


def test_a_stop_string_may_begin_in_the_prompt():
    """As in transformers. Its part in the answer is not shown; one that occurs in the prompt only ends nothing."""
    assert shown(["abcd"], "cd!", prompt="xab") == ["", "", "", ""]
    assert shown(["abcd"], "ce!", prompt="xab") == ["", "ce", "!", ""]
    assert shown(["abcd"], "cabcd", prompt="ab") == ["", "c", "", "", "", ""]
    assert shown(["ab"], "xb", prompt="ab") == ["x", "b", ""]
    assert shown(["b"], "xb", prompt="ab") == ["x", "", ""]


def test_stop_strings_see_spaces_and_specials_that_are_not_shown():
    """An answer's first space is not shown (the text of an answer has none), a special never is; both are matched."""
    assert shown([" b"], " b!") == ["", "", "", ""]
    assert shown([" b"], " c") == ["", "c", ""]
    assert shown(["<s>"], "ab0c") == ["a", "b", "", "", ""]
    assert shown(["b<s>"], "ab0c") == ["a", "", "", "", ""]
    assert shown(["ab"], "a0b") == ["", "", "ab", ""], "with a special between them they do not meet"


def test_overlap():
    assert overlap("xxab", "abc") == 2
    assert overlap("aaa", "aab") == 2
    assert overlap("abc", "abc") == 0, "a whole stop string is not a beginning"
    assert overlap("", "abc") == 0


def test_a_cache_that_holds_the_beginning_of_the_prompt_is_not_filled_again(talker):
    model, tokenizer = talker
    prompt, options = list(range(1, 30)), {"max_new_tokens": 8, "eos_token_id": None}
    expected = stream_text(model, tokenizer, prompt, **options)
    list(expected)
    cache = model.new_cache(1, 64)
    with torch.no_grad():
        model(torch.tensor([prompt[:20]]), cache)
    seen = []
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    stream = stream_text(model, tokenizer, prompt, cache=cache, **options)
    list(stream)
    handle.remove()
    assert seen == [9] + [1] * 7
    assert stream.generation.ids == expected.generation.ids
    assert cache.length == len(prompt) + 7


@pytest.mark.parametrize("form", [torch.tensor, lambda ids: [torch.tensor(row) for row in ids], tuple])
def test_prompts_may_be_tensors(small, form):
    """Against: "Boolean value of Tensor … is ambiguous"."""
    model, ids = load_model(small, dtype="float32"), [[1, 5, 9], [1, 4, 2]]
    assert generate(model, form(ids), max_new_tokens=4) == generate(model, ids, max_new_tokens=4)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        (torch.tensor([1, 2]), "prompt 0 is 1"),
        (torch.tensor([[0.5, 1.0]]), r"prompt 0 has \[0.5, 1.0\], but ids are whole numbers"),
        ([[1], [1, -3]], r"prompt 1 has \[-3\]"),
        (torch.zeros(0, 3, dtype=torch.long), "there are no prompts"),
        ([["犬"]], "prompt 0 has"),
    ],
)
def test_wrong_prompts_are_refused_in_one_sentence(small, prompts, sentence):
    with pytest.raises(ValueError, match=sentence):
        generate(load_model(small, dtype="float32"), prompts, max_new_tokens=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}, {"prompt_lookup_num_tokens": 2}])
def test_logits_that_are_not_finite_are_a_finding(small, value, options):
    """Against: a blank answer, or any answer, from a model whose numbers are broken."""
    model = load_model(small, dtype="float32")
    with torch.no_grad():
        model.lm_head.weight[3, 5] = value
    with pytest.raises(ValueError, match="logits are not finite after 2 tokens in float32"):
        generate(model, [[1, 2]], max_new_tokens=3, eos_token_id=None, **options)
    answers = generate(model, [[1, 2]], max_new_tokens=3, eos_token_id=None, remove_invalid_values=True, **options)
    assert len(answers[0].ids) == 3, "with the option, the filter replaces them"


def test_greedy_decoding_ignores_values_for_sampling(tmp_path, small):
    """transformers answers greedily with temperature 0 in generation_config.json; sampling with it is refused."""
    folder = copy_with_generation_config(small, tmp_path / "zero", temperature=0.0, top_p=7)
    model = load_model(folder, dtype="float32")
    assert len(generate(model, [[1, 2]], max_new_tokens=2)[0].ids) == 2
    with pytest.raises(ValueError, match="temperature has to be a number above 0"):
        generate(model, [[1, 2]], max_new_tokens=2, do_sample=True)
