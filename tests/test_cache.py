"""The cache: the only position there is. Most caches in the wild fail where a text is cut into other calls."""

from __future__ import annotations

import pytest
import torch
from helpers.reference import SMALL

import llama_jp
from llama_jp import Llama, LlamaConfig


@pytest.fixture(scope="module")
def model() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(**SMALL)).eval().requires_grad_(False)


IDS = torch.arange(2, 26).view(2, 12)


def test_length_counts_the_tokens(model):
    cache = model.new_cache(batch_size=2, max_length=12)
    for begin, end in ((0, 1), (1, 6), (6, 12)):
        model(IDS[:, begin:end], cache)
        assert cache.length == end


def test_overflow_is_refused_with_the_numbers_and_changes_nothing(model):
    cache = model.new_cache(2, 12)
    model(IDS[:, :10], cache)
    keys = [key.clone() for key in cache.keys]
    with pytest.raises(
        ValueError, match="holds 12 positions, 10 are used and 3 more are needed; make it with a larger"
    ):
        model(IDS[:, 9:], cache)
    assert cache.length == 10
    assert all(torch.equal(now[:, :, :10], before[:, :, :10]) for now, before in zip(cache.keys, keys, strict=True))
    model(IDS[:, 10:], cache)  # what fits still fits


def test_a_batch_of_another_size_is_refused(model):
    with pytest.raises(ValueError, match="batch_size=3, but the ids have 2 rows"):
        model(IDS, model.new_cache(3, 12))


def test_crop_goes_back(model):
    """After a crop the logits are those of a text without the removed tokens."""
    cache = model.new_cache(2, 20)
    first = model(IDS, cache)
    cache.crop(5)
    model(torch.zeros(2, 4, dtype=torch.long), cache)
    cache.crop(5)
    again = model(IDS[:, 5:], cache)
    straight = model.new_cache(2, 20)
    model(IDS, straight)
    straight.crop(5)
    assert torch.equal(again, model(IDS[:, 5:], straight))
    assert torch.equal(again.argmax(-1), first[:, 5:].argmax(-1))
    for length in (-1, 13):
        with pytest.raises(ValueError, match=f"cannot crop a cache of 12 tokens to {length}"):
            cache.crop(length)
    cache.crop(0)
    assert cache.length == 0


def test_an_interrupted_call_leaves_the_cache_as_it_was(model):
    """Ctrl-C between two layers: some have written, but the length has not moved, so the next call is right."""
    cache = model.new_cache(2, 12)
    model(IDS[:, :5], cache)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.layers[1].register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(torch.zeros(2, 3, dtype=torch.long), cache)
    handle.remove()
    assert cache.length == 5
    straight = model.new_cache(2, 12)
    model(IDS[:, :5], straight)
    assert torch.equal(model(IDS[:, 5:], cache), model(IDS[:, 5:], straight))


def test_sizes_and_defaults(model):
    cache = model.new_cache()
    assert (cache.batch_size, cache.max_length) == (1, SMALL["max_position_embeddings"])
    assert len(cache.keys) == 3 and cache.keys[0].shape == (1, 2, 128, 8)
    assert model.bfloat16().new_cache(1, 4).keys[0].dtype == torch.bfloat16
    model.float()
    for batch_size, max_length in ((0, 4), (1, 0)):
        with pytest.raises(ValueError, match="at least 1, not 0"):
            model.new_cache(batch_size, max_length)


def test_a_layer_taken_out_takes_its_cache_along():
    """The module tree is yours: a model with a layer less works with a cache made for it."""
    model = Llama(LlamaConfig(**SMALL)).requires_grad_(False)
    del model.layers[1]
    cache = model.new_cache(2, 12)
    assert len(cache.keys) == 2
    model(IDS[:, :7], cache)
    assert torch.equal(model(IDS[:, 7:], cache).argmax(-1), model(IDS)[:, 7:].argmax(-1))


def test_a_file_that_is_no_cache_is_named(model, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.txt is damaged or not a saved cache"):
        model.new_cache(1, 4).load(tmp_path / "notes.txt")


def test_a_long_cache_grows_with_use(model, monkeypatch):
    """Against: 64 GiB for a context of 128k before the first token. The bits are those of a cache of full size."""
    monkeypatch.setattr(llama_jp.Cache, "ALLOCATED_AT_ONCE", 4)
    ids = torch.arange(1, 20)[None]
    whole = model(ids)
    cache, logits = model.new_cache(1, 10**9), []
    sizes = []
    for part in ids.split([3, 1, 1, 7, 7], dim=1):
        logits.append(model(part, cache))
        sizes.append(cache.keys[0].shape[2])
    assert sizes == [4, 4, 8, 16, 32] and cache.length == 19
    monkeypatch.undo()
    preallocated, expected = model.new_cache(1, 32), []
    for part in ids.split([3, 1, 1, 7, 7], dim=1):
        expected.append(model(part, preallocated))
    assert all(torch.equal(a, b) for a, b in zip(logits, expected, strict=True))
    torch.testing.assert_close(torch.cat(logits, 1), whole)


def test_a_growing_cache_can_be_forked_cropped_saved_and_loaded(model, monkeypatch, tmp_path):
    monkeypatch.setattr(llama_jp.Cache, "ALLOCATED_AT_ONCE", 2)
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    cache = model.new_cache(1, 40)
    model(ids, cache)
    cache.save(tmp_path / "cache.safetensors", ids[0].tolist())
    loaded, fork = model.new_cache(1, 40), cache.fork([0, 0])
    assert loaded.load(tmp_path / "cache.safetensors") == [1, 2, 3, 4, 5]
    cache.crop(5)
    step = torch.tensor([[7]])
    expected = model(step, cache)
    assert torch.equal(model(step, loaded), expected)
    torch.testing.assert_close(model(step.expand(2, 1), fork), expected.expand(2, 1, -1))
