"""GPTQ: against the paper's algorithm, and on the demo."""

from __future__ import annotations

import pytest
import torch
from helpers.quantized import INT4, certified_result
from tqdm import tqdm

import llama_jp
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.random_checkpoint import random_config
from llama_jp.evaluation.documents import CALIBRATION, read_text
from llama_jp.linear.layer import linear_modules
from llama_jp.linear.scheme import Scheme
from llama_jp.linear.weight import dequantize, dequantize_int4, unpack_int4
from llama_jp.model import Llama
from llama_jp.quantization.convert import open_original, quantize, quantized_tensors
from llama_jp.quantization.gptq import DAMPING, Calibration, round_gptq, second_moments, skipped, unit_factor
from llama_jp.quantization.rounding import fit_groups, nearest_int4, round_weight


def test_with_uncorrelated_inputs_gptq_rounds_to_nearest():
    weight = torch.randn(20, 160, generator=torch.Generator().manual_seed(0))
    rounded = round_gptq(weight, unit_factor(torch.eye(160), "x"), 32)
    groups = weight.unflatten(1, (-1, 32))
    scale, zero = fit_groups(groups, shrinks=(1.0,))
    assert torch.equal(rounded.scale, scale) and torch.equal(rounded.zero, zero)
    assert torch.equal(unpack_int4(rounded.values), nearest_int4(groups, scale, zero).flatten(1))


def test_gptq_lowers_the_error_of_the_output():
    """On correlated inputs, which real ones are, the output error is much smaller than with round to nearest."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 40, generator=generator) @ torch.randn(40, 160, generator=generator)
    x += 0.5 * torch.randn(500, 160, generator=generator)
    weight = torch.randn(20, 160, generator=generator)
    calibrated = round_gptq(weight, unit_factor(second_moments([x[None]]), "x"), 32)
    nearest = round_weight(Scheme(4, 32), "x", weight)
    errors = [((dequantize(each, torch.float32) - weight) @ x.T).norm() for each in (calibrated, nearest)]
    assert errors[0] < 0.5 * errors[1]  # measured: 0.33


def test_gptq_equals_the_papers_algorithm_on_reversed_columns():
    """Algorithm 1 of the paper, written out with the inverse of H, on the columns in reverse order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 96, generator=generator) @ torch.randn(96, 96, generator=generator)
    weight = torch.randn(20, 96, generator=generator)
    H = x.double().T @ x.double() / 500
    H.diagonal().add_(DAMPING * H.diagonal().mean())
    U = torch.linalg.cholesky(torch.linalg.inv(H.flip(0, 1)), upper=True)
    moved = weight.double().flip(1)
    q = torch.empty_like(weight, dtype=torch.uint8)
    for k in range(96):
        if k % 32 == 0:
            scale, zero = fit_groups(moved[:, None, k : k + 32].float(), shrinks=(1.0,))
        q[:, k] = nearest_int4(moved[:, k, None, None], scale, zero)[:, 0, 0]
        error = (moved[:, k] - dequantize_int4(q[:, k, None], scale, zero)[:, 0]) / U[k, k]
        moved[:, k:] -= error[:, None] * U[k, k:]
    rounded = round_gptq(weight, unit_factor(second_moments([x[None]]), "x"), 32)
    assert torch.equal(unpack_int4(rounded.values), q.flip(1))


def test_moments_by_panels_equal_the_whole_product(monkeypatch):
    monkeypatch.setattr("llama_jp.quantization.gptq.PANEL", 16)
    inputs = [torch.randn(1, T, 40, generator=torch.Generator().manual_seed(T)).bfloat16() for T in (30, 70)]
    x = torch.cat(inputs, 1)[0].double()  # (100, 40)
    H = (x.T @ x / 100).float()
    moments = second_moments(inputs)
    assert torch.allclose(moments.triu(), H.triu(), atol=1e-6)

    full, half = (unit_factor(one, "x") for one in (H, moments))
    assert torch.allclose(full, half, atol=1e-4) and torch.equal(half.diagonal(), torch.ones(40))


def test_a_skipped_module_is_restored_after_an_exception():
    """Guards against a model that stays without a projection when calibration fails."""
    block = Llama(random_config("tiny")).layers[0]
    o_proj = block.self_attn.o_proj
    with pytest.raises(KeyboardInterrupt), skipped(block.self_attn, "o_proj"):
        assert isinstance(block.self_attn.o_proj, torch.nn.Identity)
        raise KeyboardInterrupt
    assert block.self_attn.o_proj is o_proj


def test_each_layer_is_calibrated_on_its_inputs_in_the_quantised_model(quantized_demo):
    """The hidden states of the calibration are bit-identical to those of the quantised model."""
    folder, quantized = demo_folder(), load_model(quantized_demo["gptq"], dtype="float32", device="cpu")
    model, stored = open_original(folder)
    windows = read_text(CALIBRATION, llama_jp.Tokenizer.from_pretrained(folder), model.config).windows
    bar = tqdm(disable=True)
    calibration = Calibration(model, quantized.quantization, windows, torch.float32, bar)
    linear = linear_modules(model, quantized.quantization)
    for _ in quantized_tensors(stored, quantized.quantization, linear, calibration, bar):
        pass
    with torch.inference_mode():
        for window, hidden in zip(windows, calibration.hidden, strict=True):
            assert torch.equal(quantized.lm_head(quantized.norm(hidden)), quantized(window.ids))


def test_calibration_in_bfloat16_is_as_good(quantized_demo, tmp_path, monkeypatch):
    monkeypatch.setattr("llama_jp.quantization.convert.choose_compute_dtype", lambda config: torch.bfloat16)
    monkeypatch.setattr("llama_jp.quantization.certificate.choose_compute_dtype", lambda config: torch.float32)
    quantize("demo", tmp_path / "out", **INT4, method="gptq")
    nearest, calibrated = (certified_result(folder) for folder in (quantized_demo["rtn"], tmp_path / "out"))
    assert calibrated["kl_divergence"] < 0.8 * nearest["kl_divergence"]


def test_a_float32_original_gives_the_same_weights(quantized_demo, tmp_path):
    load_model("demo", dtype="float32", device="cpu").save_pretrained(tmp_path / "float32")
    quantize(tmp_path / "float32", tmp_path / "out", **INT4, method="gptq")
    first, second = (
        load_model(folder, dtype="float32", device="cpu") for folder in (quantized_demo["gptq"], tmp_path / "out")
    )
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
