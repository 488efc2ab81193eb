"""Training against transformers: loss, gradients and weights after steps of AdamW are equal to the bit."""

from __future__ import annotations

import os
import random

import pytest
import torch
from helpers.reference import ATTENTIONS, SEED, both, random_config, save_random

from llama_jp.training import loss, pack
from llama_jp.training.losses import IGNORE, target_count
from llama_jp.training.optimization import make_optimizer, update

STEPS = int(os.environ.get("LLAMA_JP_STEPS", 4))
LENGTH = 40


def documents(rng: random.Random, vocab_size: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Random documents with a masked prompt, up to a whole row long."""
    made = []
    for _ in range(count):
        ids = [rng.randrange(vocab_size) for _ in range(rng.choice([2, 3, 7, 15, LENGTH]))]
        prompt = rng.randrange(len(ids) - 1)
        made.append((ids, [IGNORE] * prompt + ids[prompt:]))
    return made


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Positions that begin at 0 in each document: by them, transformers knows packed rows. Padding is a document."""
    positions = torch.zeros_like(mask)
    for i in range(1, mask.shape[1]):
        positions[:, i] = torch.where(mask[:, i] == mask[:, i - 1], positions[:, i - 1] + 1, 0)
    return positions


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_after_steps_of_adamw_are_those_of_transformers(tmp_path, dtype, attention):
    """Packed rows, masked prompts, accumulation, clipping. Guards against a loss that is a mean of means."""
    rng = random.Random(f"{SEED} training {dtype} {attention}")
    folder = save_random(tmp_path / "model", rng.randrange(10**6), **random_config(rng, "default"))
    our, their = both(folder, dtype, attention)
    our.train(), their.train()
    optimizers = [make_optimizer(model, 1e-2, weight_decay=0.1) for model in (our, their)]
    names = dict(their.named_parameters())
    for step in range(STEPS):
        calls = [pack(documents(rng, our.config.vocab_size, rng.choice([1, 5])), LENGTH) for _ in range(2)]
        count = sum(target_count(labels) for _, labels, _ in calls)
        for ids, labels, mask in calls:
            ours = loss(our(ids, mask=mask), labels, count)
            theirs = their(
                ids,
                labels=labels,
                position_ids=positions_of(mask),
                use_cache=False,
                num_items_in_batch=torch.tensor(count),
            ).loss
            assert torch.equal(ours, theirs), (SEED, step)
            ours.backward(), theirs.backward()
        for name, parameter in our.named_parameters():
            reference = names["lm_head.weight" if name == "lm_head.weight" else f"model.{name}"]
            assert torch.equal(parameter.grad, reference.grad), (SEED, step, name)
        norms = [update(model, optimizer, 1e-2) for model, optimizer in zip((our, their), optimizers, strict=True)]
        assert norms[0] == norms[1]
    for name, parameter in our.named_parameters():
        reference = names["lm_head.weight" if name == "lm_head.weight" else f"model.{name}"]
        assert torch.equal(parameter, reference), (SEED, name)
