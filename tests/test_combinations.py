"""Random combinations of options, dtypes, prompts and seeds against `transformers.generate`: no token may differ.

Each guards against everything that a single option's test cannot see: the order of the filters, which of them beam
search applies and to what, what padding counts as, how many random numbers a step uses up.
"""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from reference import ATTENTIONS, CONTEXT, DTYPES, SEED, both, random_config, save_random

import llama_jp
from llama_jp.sampling import as_ids

FAST, ALL = 240, 1200
CHECKPOINTS = 12


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Pairs of (ours, theirs) on demand: random checkpoints in every dtype, with either attention."""
    torch.set_num_threads(1)
    loaded, made = {}, {}

    def get(rng: random.Random):
        number, dtype, attention = rng.randrange(CHECKPOINTS), rng.choice(DTYPES), rng.choice(ATTENTIONS)
        if number not in made:
            folder = tmp_path_factory.mktemp(f"checkpoint{number}")
            # a dynamic rope remembers the longest text in transformers, so that calls depend on earlier ones
            rope_type = rng.choice(["default", "default", "linear", "llama3", "yarn"])
            made[number] = save_random(folder, number, **random_config(random.Random(SEED + number), rope_type))
        if (number, dtype, attention) not in loaded:
            loaded[number, dtype, attention] = both(made[number], dtype, attention)
        return loaded[number, dtype, attention]

    return get


def some(rng: random.Random, V: int, most: int = 6) -> list[int]:
    return [rng.randrange(V) for _ in range(rng.randrange(1, most))]


def random_options(rng: random.Random, V: int, prompts: list[list[int]]) -> dict:
    """Options that transformers takes. Each is there now and then, with values that make a difference."""
    options: dict = {"max_new_tokens": rng.randrange(1, 14)}
    if rng.random() < 0.7:
        options["eos_token_id"] = rng.choice([rng.randrange(V), some(rng, V, 8)])
    if rng.random() < 0.3:
        options["num_beams"] = rng.randrange(2, 5)
        if rng.random() < 0.5:
            options["length_penalty"] = rng.choice([-1.0, 0.0, 0.5, 2.0])
        if rng.random() < 0.6:
            options["early_stopping"] = rng.choice([True, "never"])
        if rng.random() < 0.4:
            options["num_return_sequences"] = rng.randrange(1, options["num_beams"] + 1)
    elif rng.random() < 0.15:
        options |= {"num_return_sequences": rng.randrange(2, 4), "do_sample": True}
    choices = {
        "repetition_penalty": lambda: rng.choice([0.7, 1.2, 3.0]),
        "no_repeat_ngram_size": lambda: rng.randrange(1, 4),
        "encoder_repetition_penalty": lambda: rng.choice([0.6, 1.4]),
        "encoder_no_repeat_ngram_size": lambda: rng.randrange(1, 4),
        "bad_words_ids": lambda: [some(rng, V, 3) for _ in range(rng.randrange(1, 20))] + [[V - 1]],
        "sequence_bias": lambda: {tuple(some(rng, V, 3)): rng.uniform(-8, 8) for _ in range(rng.randrange(1, 30))},
        "min_new_tokens": lambda: rng.randrange(0, 9),
        "min_length": lambda: rng.randrange(0, 30),
        "forced_bos_token_id": lambda: rng.randrange(V),
        "forced_eos_token_id": lambda: rng.choice([rng.randrange(V), some(rng, V, 3)]),
        "remove_invalid_values": lambda: True,
        "suppress_tokens": lambda: some(rng, V, 30),
        "begin_suppress_tokens": lambda: some(rng, V, 30),
        "renormalize_logits": lambda: True,
        "guidance_scale": lambda: rng.choice([0.5, 1.5, 3.0]),
        "prefill_chunk_size": lambda: rng.randrange(1, 8),
    }
    options |= {name: make() for name, make in choices.items() if rng.random() < 0.12}
    if "eos_token_id" in options and rng.random() < 0.12:
        options["exponential_decay_length_penalty"] = (rng.randrange(0, 6), rng.choice([1.05, 1.5]))
    if "guidance_scale" in options and rng.random() < 0.5:
        options["negative_prompt_ids"] = some(rng, V, 8)
    if rng.random() < 0.5 or options.get("do_sample"):
        options["do_sample"] = True
        shapes = {
            "temperature": lambda: rng.choice([0.3, 0.9, 1.7]),
            "top_k": lambda: rng.choice([0, 1, 5, 1000]),
            "top_p": lambda: rng.choice([0.0, 0.3, 0.9, 0.999]),
            "min_p": lambda: rng.choice([0.0, 0.02, 0.3, 1.0]),
            "typical_p": lambda: rng.choice([0.1, 0.8, 0.99]),
            "epsilon_cutoff": lambda: rng.choice([1e-3, 0.05]),
            "eta_cutoff": lambda: rng.choice([1e-3, 0.3]),
            "top_h": lambda: rng.choice([0.1, 0.6, 1.0]),
        }
        options |= {name: make() for name, make in shapes.items() if rng.random() < 0.2}
    return options


def reference_answers(model, prompts: list[list[int]], options: dict, seed: int) -> list[list[int]]:
    """transformers.generate, padded on the left with the pad id, without the padding it adds behind an answer."""
    options = dict(options)
    N = max(map(len, prompts))
    ids = torch.tensor([[0] * (N - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (N - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    if negative := options.pop("negative_prompt_ids", None):
        rows = len(prompts) * max(options.get("num_beams", 1), options.get("num_return_sequences", 1))
        options["negative_prompt_ids"] = torch.tensor([negative]).expand(rows, -1)
    torch.manual_seed(seed)
    out = model.generate(
        ids,
        attention_mask=mask,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        **options,
    )
    new = out.sequences[:, N:].tolist()
    if options.get("num_beams", 1) > 1:
        lengths = (out.beam_indices >= 0).sum(1).tolist()
    else:
        eos = as_ids(options.get("eos_token_id"))
        lengths = [next((i + 1 for i, token in enumerate(row) if token in eos), len(row)) for row in new]
    return [row[:length] for row, length in zip(new, lengths, strict=True)]


def check(rng: random.Random, models) -> str:
    """Run one combination; 'equal', 'refused' (by both), or AssertionError."""
    ours, theirs = models(rng)
    V = ours.config.vocab_size
    prompts = [some(rng, V, 20) for _ in range(rng.choice([1, 1, 2, 3, 6]))]
    if rng.random() < 0.2:
        prompts = [prompt[:1] for prompt in prompts]
    options, seed = random_options(rng, V, prompts), rng.randrange(2**31)
    about = f"{theirs.dtype}, {theirs.config._attn_implementation}, {theirs.config.num_key_value_heads} of "
    about += f"{theirs.config.num_attention_heads} heads, seed {seed}, prompts {prompts}, {options}"
    try:
        expected = reference_answers(theirs, prompts, options, seed)
    except (ValueError, RuntimeError) as error:
        with pytest.raises(ValueError):
            llama_jp.generate(ours, prompts, seed=seed, **options)
            pytest.fail(f"transformers refuses, we do not: {error}\n{about}", pytrace=False)
        return "refused"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [answer.ids for answer in llama_jp.generate(ours, prompts, seed=seed, **options)]
    assert answers == expected, about
    return "equal"


def run(number: int, models, monkeypatch) -> dict[str, int]:
    rng, counts = random.Random(SEED), {"equal": 0, "refused": 0}
    assert CONTEXT >= 20 + 14
    for _ in range(number):
        counts[check(rng, models)] += 1
    print(f"{number} combinations (seed {SEED}): {counts}")
    return counts


def test_random_combinations(models, monkeypatch):
    counts = run(FAST, models, monkeypatch)
    assert counts["equal"] > 0.7 * FAST, "most combinations should be such that transformers takes them"


@pytest.mark.slow
def test_a_thousand_random_combinations(models, monkeypatch):
    assert run(ALL, models, monkeypatch)["equal"] >= 1000
