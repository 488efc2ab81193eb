"""Logits equal to transformers' to the bit, however a model is shaped and however it is called."""

from __future__ import annotations

import random

import pytest
import torch
import transformers
from helpers.reference import (
    ATTENTIONS,
    DTYPES,
    ROPES,
    SEED,
    both,
    first_difference,
    publish,
    random_config,
    save_random,
)

from llama_jp.bridge import CACHE
from llama_jp.rope import ROPE_TYPES

MODELS_PER_CASE = 3


def test_every_rope_type_is_compared():
    """Against: a rope type that the tests below leave out."""
    assert set(ROPES) - {"default"} == set(ROPE_TYPES)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rope_type", ROPES)
def test_random_models_are_equal_to_the_bit(tmp_path, rope_type, dtype, attention):
    rng = random.Random(f"{SEED} {rope_type} {dtype} {attention}")
    for number in range(MODELS_PER_CASE):
        config = random_config(rng, rope_type)
        stored = rng.choice(DTYPES)
        folder = save_random(tmp_path / str(number), rng.randrange(10**6), stored, **config)
        if rng.random() < 0.4:
            folder = publish(folder, tmp_path / f"{number}-published", shards=rng.choice([1, 2, 3]))
        torch.set_num_threads(rng.choice([1, 2]))
        difference = first_difference(*both(folder, dtype, attention), seed=rng.randrange(10**6))
        assert difference is None, f"{difference}\nstored as {stored}, {config}"


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("kv_heads", [1, 2, 8], ids=["one head", "grouped", "all heads"])
def test_elyza_head_size(tmp_path, kv_heads, attention):
    """D = 128 as in the 7b models, with a slice of a long cache against transformers' growing one."""
    config = random_config(random.Random(0), "default") | {
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": kv_heads,
        "head_dim": 128,
        "tie_word_embeddings": False,
    }
    folder = save_random(tmp_path, seed=3, **config)
    for dtype in DTYPES:
        our, their = both(folder, dtype, attention)
        assert first_difference(our, their, seed=SEED) is None, (dtype, SEED)


def test_dynamic_rope_keeps_growing_step_by_step(small, tmp_path):
    """Beyond the context each step has its own frequencies; cached keys keep those of their step."""
    config = random_config(random.Random(1), "dynamic") | {"max_position_embeddings": 8}
    folder = save_random(tmp_path, seed=4, **config)
    our, their = both(folder, torch.float32)
    ids = torch.randint(0, config["vocab_size"], (1, 40))
    cache, past = our.new_cache(1, 40), transformers.DynamicCache(config=their.config)
    with torch.no_grad():
        for i in range(40):
            step = ids[:, i : i + 1]
            assert torch.equal(our(step, cache), their(step, **{CACHE: past}, use_cache=True).logits), i


def test_gradients_are_equal(small):
    """The same operations forward have the same gradients backward, so a training run gives the same weights."""
    our, their = both(small, torch.float32)
    ids = torch.randint(0, 96, (2, 17))
    for model, logits in ((our, our(ids)), (their, their(ids).logits)):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        assert model.lm_head.weight.grad is not None
    reference = {name.removeprefix("model."): parameter.grad for name, parameter in their.named_parameters()}
    for name, parameter in our.named_parameters():
        assert torch.equal(parameter.grad, reference[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_elyza_layer_width(tmp_path, attention):
    """Two layers of ELYZA's real width, 4096 / 11008, with the larger vocabulary, in the published form."""
    config = {
        "vocab_size": 45043,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 2,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
    }
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).to(torch.float16)
    model.save_pretrained(tmp_path / "saved")
    del model
    folder = publish(tmp_path / "saved", tmp_path / "published")
    for dtype in DTYPES:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            our, their = both(folder, dtype, attention)
            assert first_difference(our, their, seed=5) is None, (dtype, threads)
            del our, their


@pytest.mark.parametrize("pad_token_id", [None, 0, 7])
def test_the_embedding_of_the_pad_id_has_the_gradient_of_the_reference(tmp_path, pad_token_id):
    """transformers gives the row of pad_token_id no gradient, wherever that id stands. ELYZA's is 0."""
    config = random_config(random.Random(1), "default") | {"pad_token_id": pad_token_id, "tie_word_embeddings": False}
    our, their = both(save_random(tmp_path, seed=4, **config), torch.float32)
    ids = torch.tensor([[1, 7, 0, 9, 7, 3]])
    our(ids).float().square().sum().backward()
    their(ids).logits.float().square().sum().backward()
    gradient = our.embed_tokens.weight.grad
    assert torch.equal(gradient, their.model.embed_tokens.weight.grad)
    assert all(bool(gradient[row].any()) == (row != pad_token_id) for row in (0, 7, 9))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_packed_documents_are_equal_in_logits_loss_and_gradients(tmp_path, dtype, attention):
    """transformers packs by position_ids that start again at 0; we take the number of each token's document."""
    rng = random.Random(f"{SEED} packed {dtype} {attention}")
    for number in range(4 * MODELS_PER_CASE):
        config = random_config(rng, "default")
        if number % 2:  # one key head for each query head: the memory layout of the keys counts in eager attention
            config |= {"num_key_value_heads": config["num_attention_heads"], "attention_bias": True}
        folder = save_random(tmp_path / str(number), rng.randrange(10**6), **config)
        our, their = both(folder, dtype, attention)
        their.train()  # evaluation mode and no cache would be as good; training is what packing is for
        B, T = rng.randrange(1, 4), rng.randrange(2, 60)
        ids = torch.randint(0, our.config.vocab_size, (B, T))
        documents, positions = torch.zeros(2, B, T, dtype=torch.long)
        for row in range(B):
            starts = {0, *rng.sample(range(T), rng.randrange(T))}
            for i in range(T):
                begins = i in starts
                documents[row, i] = documents[row, i - 1] + 1 if begins and i else documents[row, i - 1] if i else 1
                positions[row, i] = 0 if begins else positions[row, i - 1] + 1
        losses = []
        for model, logits in (
            (our, our(ids, mask=documents)),
            (their, their(ids, position_ids=positions, use_cache=False).logits),
        ):
            losses.append((logits, torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids.flatten())))
            losses[-1][1].backward()
            assert model.lm_head.weight.grad is not None
        assert torch.equal(losses[0][0], losses[1][0]) and torch.equal(losses[0][1], losses[1][1]), (SEED, number)
        reference = {name.removeprefix("model."): parameter.grad for name, parameter in their.named_parameters()}
        for name, parameter in our.named_parameters():
            assert torch.equal(parameter.grad, reference[name]), (SEED, number, name)
