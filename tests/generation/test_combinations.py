"""Random combinations of options, dtypes, prompts and seeds against `transformers.generate`: no token may differ.

Each guards against everything that a single option's test cannot see: the order of the filters, which of them beam
search applies and to what, what padding counts as, how many random numbers a step uses up.
"""

from __future__ import annotations

import random
import warnings
from functools import partial

import pytest
import torch
import transformers
from helpers.reference import ATTENTIONS, CONTEXT, DTYPES, SEED, SORTS_SAMPLED_BEAMS, both, random_config, save_random
from helpers.tokenizer_files import llama_folder
from transformers import GenerationConfig

import llama_jp
from llama_jp.checkpoint.load import load_model
from llama_jp.generation.checks import as_ids

FAST, ALL = 160, 1200
CHECKPOINTS = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """(ours, theirs, ours in float64) on demand: random checkpoints in every dtype, with either attention."""
    torch.set_num_threads(1)
    loaded, made = {}, {}

    def get(rng: random.Random):
        number, dtype, attention = rng.randrange(CHECKPOINTS), rng.choice(DTYPES), rng.choice(ATTENTIONS)
        if number not in made:
            folder = tmp_path_factory.mktemp(f"checkpoint{number}")
            # a dynamic rope remembers the longest text in transformers, so that calls depend on earlier ones
            rope_type = rng.choice(["default", "default", "linear", "llama3", "yarn"])
            config = random_config(random.Random(SEED + number), rope_type)
            if number % 2:
                config["intermediate_size"] = 64  # only then do rows that have ended leave the batch
            made[number] = save_random(folder, number, **config)
        if (number, dtype, attention) not in loaded:
            precise = load_model(made[number], dtype=torch.float64, device="cpu", attention=attention)
            loaded[number, dtype, attention] = *both(made[number], dtype, attention), precise
        return loaded[number, dtype, attention]

    return get


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """(ours, theirs). Stop strings need one; the models' vocabularies are smaller than its own, or larger."""
    folder = llama_folder(tmp_path_factory.mktemp("tokenizer"))
    return (
        llama_jp.Tokenizer.from_pretrained(folder),
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
    )


def some(rng: random.Random, V: int, most: int = 6) -> list[int]:
    return [rng.randrange(V) for _ in range(rng.randrange(1, most))]


# What ELYZA's generation_config.json files set beside the special ids: 7b and 7b-instruct, then the two fast ones.
DEFAULTS = [{}, {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "max_length": 4096}]


def random_options(rng: random.Random, V: int, longest: int, pieces: list[str]) -> dict:
    """Options that transformers takes: one, a few, or many, with values that make a difference."""
    options: dict = {"max_new_tokens": rng.randrange(1, 14)}
    if rng.random() < 0.15:
        options = {"max_length": longest + options["max_new_tokens"]}
    if rng.random() < 0.7:
        options["eos_token_id"] = rng.choice([rng.randrange(V), some(rng, V, 8)])
    if rng.random() < 0.3:
        options["num_beams"] = rng.randrange(2, 5)
        if rng.random() < 0.5:
            options["length_penalty"] = rng.choice([-1.0, 0.0, 0.5, 2.0, 10.0])
        if rng.random() < 0.6:
            options["early_stopping"] = rng.choice([True, "never"])
        if rng.random() < 0.4:
            options["num_return_sequences"] = rng.randrange(1, options["num_beams"] + 1)
    elif rng.random() < 0.15:
        options |= {"num_return_sequences": rng.randrange(2, 4), "do_sample": True}
    choices = {
        "repetition_penalty": lambda: rng.choice([0.01, 0.7, 1.0, 1.2, 3.0, 1e4]),
        "no_repeat_ngram_size": lambda: rng.randrange(0, 4),
        "encoder_repetition_penalty": lambda: rng.choice([0.6, 1.0, 1.4, 50.0]),
        "encoder_no_repeat_ngram_size": lambda: rng.randrange(0, 4),
        "bad_words_ids": lambda: [some(rng, V, 3) for _ in range(rng.randrange(1, 20))],
        "sequence_bias": lambda: {tuple(some(rng, V, 3)): rng.uniform(-8, 8) for _ in range(rng.randrange(1, 30))},
        "min_new_tokens": lambda: rng.randrange(0, 9),
        "min_length": lambda: rng.randrange(0, 30),
        "forced_bos_token_id": lambda: rng.randrange(V),
        "forced_eos_token_id": lambda: rng.choice([rng.randrange(V), some(rng, V, 3)]),
        "remove_invalid_values": lambda: rng.random() < 0.8,
        "suppress_tokens": lambda: some(rng, V, 30),
        "begin_suppress_tokens": lambda: some(rng, V, 30),
        "renormalize_logits": lambda: rng.random() < 0.8,
        "guidance_scale": lambda: rng.choice([-1.0, 0.0, 0.5, 1, 1.5, 3.0]),
        "prefill_chunk_size": lambda: rng.randrange(1, 8),
        "stop_strings": lambda: rng.sample(pieces, rng.choice([1, 2, 5])),
        "stopping_criteria": lambda: [partial(ends_in, rng.randrange(2, 9))],
        "logits_processor": lambda: [partial(lean, rng.randrange(2, 9))],
        "prefix_allowed_tokens_fn": lambda: partial(every, rng.randrange(1, 5), V),
        "pad_token_id": lambda: rng.randrange(V),
    }
    shapes = {
        "temperature": lambda: rng.choice([0.01, 0.3, 0.9, 1.0, 1.7, 100.0]),
        "top_k": lambda: rng.choice([0, 1, 5, 1000]),
        "top_p": lambda: rng.choice([0.0, 0.3, 0.9, 0.999, 1.0]),
        "min_p": lambda: rng.choice([0.0, 0.02, 0.3, 1.0]),
        "typical_p": lambda: rng.choice([0.1, 0.8, 0.99, 1.0]),
        "epsilon_cutoff": lambda: rng.choice([0.0, 1e-3, 0.05]),
        "eta_cutoff": lambda: rng.choice([0.0, 1e-3, 0.3]),
        "top_h": lambda: rng.choice([0.1, 0.6, 1.0]),
    }
    if rng.random() < 0.5:
        options["do_sample"] = True
    if options.get("do_sample"):
        choices |= shapes
    if rng.random() < 0.3:
        name = rng.choice(list(choices))
        options[name] = choices[name]()
    else:
        share = rng.choice([0.1, 0.2, 0.4])
        options |= {name: make() for name, make in choices.items() if rng.random() < share}
    if "eos_token_id" in options and rng.random() < 0.12:
        options["exponential_decay_length_penalty"] = (rng.randrange(0, 6), rng.choice([0.8, 1.05, 1.5, 3.0]))
    if "guidance_scale" in options and rng.random() < 0.5:
        options["negative_prompt_ids"] = some(rng, V, 8)
    return options


def ends_in(n: int, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A criterion of the caller's."""
    return ids[:, -1] % n == 1


def lean(n: int, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """A filter of the caller's: towards tokens that are the newest one's like, modulo n."""
    return logits + 2.0 * (torch.arange(logits.shape[1]) % n == ids[:, -1:] % n)


def every(n: int, V: int, prompt: int, ids: torch.Tensor) -> list[int]:
    return list(range((int(ids[-1]) + prompt) % n, V, n))


def reference_answers(model, tokenizer, prompts: list[list[int]], options: dict, seed: int) -> list[list[int]]:
    """transformers.generate, padded on the left with the pad id; beams without the padding behind an answer."""
    options = {"pad_token_id": 0} | options
    N, pad = max(map(len, prompts)), options["pad_token_id"]
    ids = torch.tensor([[pad] * (N - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (N - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    if negative := options.pop("negative_prompt_ids", None):
        rows = len(prompts) * max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
        options["negative_prompt_ids"] = torch.tensor([negative]).expand(rows, -1)
    torch.manual_seed(seed)
    out = model.generate(
        ids,
        attention_mask=mask,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        tokenizer=tokenizer,
        **options,
    )
    new = out.sequences[:, N:].tolist()
    if options.get("num_beams", 1) > 1:
        lengths = (out.beam_indices >= 0).sum(1).tolist()
        return [row[:length] for row, length in zip(new, lengths, strict=True)]
    return new


def same(answers: list[list[int]], expected: list[list[int]], pad: int | None) -> bool:
    """Equal up to what transformers writes behind an answer that has ended: padding, or (None) anything."""
    if pad is None and max(map(len, answers)) != max(map(len, expected)):
        return False
    return all(
        ours == theirs[: len(ours)] and (pad is None or set(theirs[len(ours) :]) <= {pad})
        for ours, theirs in zip(answers, expected, strict=True)
    )


def check(rng: random.Random, models, tokenizers) -> str:
    """Run one combination; 'equal', 'refused' (by both), or AssertionError."""
    ours, theirs, precise = models(rng)
    V = ours.config.vocab_size
    prompts = [some(rng, V, 20) for _ in range(rng.choice([1, 1, 2, 3, 6]))]
    if rng.random() < 0.2:
        prompts = [prompt[:1] for prompt in prompts]
    words = tokenizers[0].vocabulary
    pieces = [text for token in range(3, V) if (text := words.piece(token).replace("▁", " "))]
    options, seed = random_options(rng, V, max(map(len, prompts)), pieces), rng.randrange(2**31)
    if SORTS_SAMPLED_BEAMS and "num_beams" in options:
        options["do_sample"] = False
    beams, copies = options.get("num_beams", 1), options.get("num_return_sequences", 1)
    speculation = {}
    if len(prompts) == beams == copies == 1 and not options.get("do_sample") and "guidance_scale" not in options:
        lookup = {"prompt_lookup_num_tokens": rng.randrange(1, 9), "max_matching_ngram_size": rng.randrange(1, 4)}
        draft = {"assistant_model": precise, "num_assistant_tokens": rng.randrange(1, 9)}
        speculation = rng.choice([{}, lookup, draft])
    special = {"bos_token_id": 1, "eos_token_id": rng.choice([None, 2]), "pad_token_id": 0}
    ours.generation_config = precise.generation_config = special | (rng.choice(DEFAULTS) if not speculation else {})
    theirs.generation_config = GenerationConfig(**ours.generation_config)
    about = f"{theirs.dtype}, {theirs.config._attn_implementation}, {theirs.config.num_key_value_heads} of "
    about += f"{theirs.config.num_attention_heads} heads, defaults {ours.generation_config}, seed {seed}, "
    about += f"prompts {prompts}, {options}, {speculation}"
    given = options | {"seed": seed, "tokenizer": tokenizers[0]}
    try:
        expected = reference_answers(theirs, tokenizers[1], prompts, options, seed)
    except (ValueError, RuntimeError) as error:
        if theirs.dtype == torch.float16 and len(set(map(len, prompts))) > 1 and "nan" in str(error):
            return "refused"  # transformers has NaN at padding positions in float16; ours are finite
        with pytest.raises(ValueError):
            llama_jp.generate(ours, prompts, **given)
            pytest.fail(f"transformers refuses, we do not: {error}\n{about}", pytrace=False)
        return "refused"
    with warnings.catch_warnings():  # of options without effect
        warnings.simplefilter("ignore")
        answers = [answer.ids for answer in llama_jp.generate(ours, prompts, **given)]
        if speculation:  # where rounding, which differs for several tokens in one call, decides no tie
            plain, fast = (llama_jp.generate(precise, prompts, **given, **how) for how in ({}, speculation))
            assert [answer.ids for answer in plain] == [answer.ids for answer in fast], f"{about}\n{plain}\n{fast}"
    ends = as_ids(options.get("eos_token_id", special["eos_token_id"]))
    pad = options.get("pad_token_id", 0) if ends else None
    assert answers == expected if beams > 1 else same(answers, expected, pad), f"{about}\n{answers}\n{expected}"
    return "equal"


def run(number: int, models, tokenizers) -> dict[str, int]:
    rng, counts = random.Random(SEED), {"equal": 0, "refused": 0}
    assert CONTEXT >= 20 + 14
    for _ in range(number):
        counts[check(rng, models, tokenizers)] += 1
    print(f"{number} combinations (seed {SEED}): {counts}")
    return counts


@pytest.mark.filterwarnings("ignore")
def test_random_combinations(models, tokenizers):
    counts = run(FAST, models, tokenizers)
    assert counts["equal"] > 0.7 * FAST, "most combinations should be such that transformers takes them"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # transformers': of lengths that cannot be
def test_a_thousand_random_combinations(models, tokenizers):
    assert run(ALL, models, tokenizers)["equal"] >= 1000
