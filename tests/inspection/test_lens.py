"""The logit lens, beside the model's own logits."""

from __future__ import annotations

import torch

import llama_jp
from llama_jp.inspection.lens import logit_lens


def test_the_last_row_is_the_model(demo):
    """Against: a lens without the last norm, or one row off."""
    model, tokenizer = demo
    ids = torch.tensor([tokenizer.encode("クマは海辺に行きました。")])
    with llama_jp.trace(model, ["embed_tokens", "layers.*"]) as seen:
        p = model(ids)[0].softmax(-1)
    following = torch.cat((ids[0, 1:], p[-1:].argmax(-1)))
    lens = logit_lens(
        model, [seen[name][0] for name in ["embed_tokens", *(f"layers.{i}" for i in range(6))]], following
    )
    best = p.topk(5)
    assert torch.equal(lens.ids[-1], best.indices) and torch.equal(lens.probabilities[-1], best.values)
    assert torch.equal(lens.of_next[-1], p.gather(-1, following[:, None])[:, 0])
    assert lens.rank_of_next[-1, -1] == 0 and lens.ids.shape == (7, ids.shape[1], 5)


def test_it_is_not_part_of_a_trace(demo):
    with llama_jp.trace(demo[0], ["lm_head"]) as seen:
        logit_lens(demo[0], [torch.zeros(2, 256)], torch.tensor([1, 2]))
    assert len(seen) == 0
