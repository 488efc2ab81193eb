"""The part of a prompt that a KV cache already holds."""

from __future__ import annotations

import torch

from llama_jp.cli.prompt_cache import common_prefix_length, open_cache
from llama_jp.model import Llama


def test_common_prefix_by_hand():
    assert common_prefix_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix_length([1, 2, 3], [1, 2, 3]) == 2, "the last token is processed again: its logits are needed"
    assert common_prefix_length([], [1]) == common_prefix_length([2], [1, 2]) == 0


@torch.no_grad()
def test_a_saved_cache_is_cropped_to_the_common_prefix(small, tmp_path):
    """Guards against keys and values of another text behind the common prefix."""
    model, file = Llama.from_pretrained(small), tmp_path / "cache.safetensors"
    cache, cached = open_cache(file, model, [1, 2, 3])
    assert (cache.length, cached) == (0, 0)
    model(torch.tensor([[1, 2, 3, 4]]), cache)
    cache.save(file, [1, 2, 3, 4])
    cache, cached = open_cache(file, model, [1, 2, 9, 4])
    assert (cache.length, cached) == (2, 2)
