"""The part of a prompt that a KV cache already holds."""

from __future__ import annotations

import shutil

import pytest
import torch
from helpers.changed_models import attend_window, no_rope
from helpers.checkpoint_files import edit_tensors

from llama_jp.checkpoint.load import load_model
from llama_jp.cli import main
from llama_jp.cli.prompt_cache import common_prefix_length, fingerprint, open_cache
from llama_jp.long_context import extend_context
from llama_jp.model import Llama


def test_common_prefix_by_hand():
    assert common_prefix_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix_length([1, 2, 3], [1, 2, 3]) == 2, "the last token is processed again: its logits are needed"
    assert common_prefix_length([], [1]) == common_prefix_length([2], [1, 2]) == 0


@torch.no_grad()
def test_a_saved_cache_is_cropped_to_the_common_prefix(small, tmp_path):
    """Guards against keys and values of another text behind the common prefix."""
    model, file = Llama.from_pretrained(small), tmp_path / "cache.safetensors"
    cache, cached = open_cache(file, model, [1, 2, 3], "this model")
    assert (cache.length, cached) == (0, 0)
    model(torch.tensor([[1, 2, 3, 4]]), cache)
    cache.save(file, [1, 2, 3, 4], "this model")
    cache, cached = open_cache(file, model, [1, 2, 9, 4], "this model")
    assert (cache.length, cached) == (2, 2)


def change_a_weight(tensors):
    tensors["model.layers.1.mlp.up_proj.weight"] *= 2


def test_the_cache_of_another_model_is_refused(folder, tmp_path, capsys):
    """Guards against an answer from the keys and values of another model with equal shapes, or of an unknown one."""
    file, other = tmp_path / "cache", tmp_path / "other"
    shutil.copytree(folder, other)
    edit_tensors(other, change_a_weight)

    def generate(model) -> tuple[int, str]:
        words = ["generate", "犬", "--model", str(model), "--max-new-tokens", "2", "--cache", str(file)]
        return main(words), capsys.readouterr().err

    assert generate(folder)[0] == 0 and " 0 prompt tokens reused" not in generate(folder)[1]
    before = file.read_bytes()
    status, err = generate(other)
    assert (status, err) == (
        1,
        f"llama-jp: {file} was written by another model of the same shape; choose another file\n",
    )
    assert file.read_bytes() == before
    cache = load_model(folder).new_cache(1, 512)
    cache.load(file)
    cache.save(file)
    status, err = generate(folder)
    sentence = "does not name the model that wrote it; remove it, and write it again"
    assert (status, err) == (1, f"llama-jp: {file} {sentence}\n")


def test_the_fingerprint_follows_what_decides_the_keys_and_values(small, tmp_path):
    """Guards against a change that the fingerprint does not see, and against a refusal of the same model."""
    changed = shutil.copytree(small, tmp_path / "changed")
    edit_tensors(changed, change_a_weight)
    longer = load_model(small)
    extend_context(longer, "linear", 2)
    same = [load_model(small), load_model(small), load_model(small, attention="eager")]
    others = [load_model(changed), longer, load_model(small, attention=attend_window), load_model(small, rope=no_rope)]
    assert len({fingerprint(model) for model in same}) == 1
    assert len({fingerprint(model) for model in [*same, *others]}) == 5
    model = same[0]
    assert fingerprint(model) == fingerprint(model), "it is a pure function"


@pytest.mark.parametrize("level", ["exact", "close"])
def test_an_optimised_model_reuses_its_cache(folder, tmp_path, capsys, level):
    """Guards against a fingerprint of packed weights, which would refuse the cache of the same checkpoint."""
    words = ["generate", "犬", "--model", str(folder), "--max-new-tokens", "2", "--cache", str(tmp_path / "cache")]
    assert main(words) == 0
    assert main([*words, "--optimize", level]) == 0
    assert " 0 prompt tokens reused" not in capsys.readouterr().err.splitlines()[-1]
