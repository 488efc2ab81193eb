"""Layer by layer: the same logits as the whole model, and the dtype of the computation."""

from __future__ import annotations

import pytest
import torch
from helpers.quantized import INT4, NO_TOKENIZER, SHAPE
from helpers.reference import save_random

from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.random_checkpoint import random_config
from llama_jp.evaluation.documents import Window
from llama_jp.evaluation.layerwise import choose_compute_dtype, logits_by_layer
from llama_jp.quantization.convert import quantize


@NO_TOKENIZER
@torch.inference_mode()
@pytest.mark.parametrize("tied", [False, True])
def test_logits_by_layer_equal_the_models_logits(tmp_path, tied):
    """Original and quantised logits are bit-identical, with biases and grouped heads."""
    folder = save_random(tmp_path / "model", 33, attention_bias=True, tie_word_embeddings=tied, **SHAPE)
    quantize(folder, tmp_path / "int4", **INT4)
    windows = [Window(torch.arange(1, T)[None], torch.ones(T - 2, dtype=torch.bool)) for T in (20, 50)]
    for name in ("model", "int4"):
        model = load_model(tmp_path / name, "float32", "cpu")
        for window, logits in zip(windows, logits_by_layer(tmp_path / name, windows, torch.float32, name), strict=True):
            assert torch.equal(logits, model(window.ids)[0])


def test_large_models_run_in_the_dtype_that_the_cpu_multiplies(monkeypatch):
    demo = load_model("demo").config
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("llama_jp.evaluation.layerwise.multiplies_bfloat16", lambda native=native: native)
        assert choose_compute_dtype(random_config("7b")) == dtype and choose_compute_dtype(demo) == torch.float32
