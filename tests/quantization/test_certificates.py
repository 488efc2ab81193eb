"""Certificates: the measured accuracy of the demo, repeated measurements, and files that do not match."""

from __future__ import annotations

import pytest
import torch
from helpers.quantized import certified_result, rewrite_json, rewrite_tensors

from llama_jp.checkpoint.hub import demo_folder
from llama_jp.quantization.certificate import verify
from llama_jp.quantization.convert import quantize


def test_accuracy_of_the_quantised_demo(quantized_demo):
    """Limits for the numerical deviation on held-out stories. They guard against a worse rounding method."""
    int8, rtn, calibrated = (certified_result(quantized_demo[name]) for name in ("int8", "rtn", "gptq"))
    assert int8["kl_divergence"] <= 0.001 and int8["top1_agreement"] > 0.995
    for int4 in (rtn, calibrated):
        assert int4["perplexity"]["quantized"] <= 1.03 * int4["perplexity"]["original"]
    assert calibrated["kl_divergence"] < 0.8 * rtn["kl_divergence"]
    assert int8["kl_divergence"] < calibrated["kl_divergence"]


def test_a_certificate_in_bfloat16(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_jp.quantization.certificate.choose_compute_dtype", lambda config: torch.bfloat16)
    certificate = quantize("demo", tmp_path / "out")
    assert certificate["arithmetic"]["dtype"] == "bfloat16" and certificate["result"]["kl_divergence"] < 0.001
    monkeypatch.undo()
    assert verify(tmp_path / "out").exactly


def test_the_tolerance_covers_the_rounding_of_another_cpu(quantized_copy):
    def nudge(certificate):
        certificate["result"]["kl_divergence"] *= 1.001

    rewrite_json(quantized_copy / "certificate.json", nudge)
    verdict = verify(quantized_copy)
    assert verdict.equal and not verdict.exactly


def test_a_certificate_is_for_one_set_of_weights(quantized_copy):
    rewrite_tensors(quantized_copy, lambda t: t["lm_head.weight"][0].add_(1))
    with pytest.raises(ValueError, match="the certificate has another sha256 for model.safetensors in"):
        verify(quantized_copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format=2), "has format 2; supported is 1"),
        (lambda c: c["result"].pop("perplexity"), "is incomplete: it has no result.perplexity.original"),
        (lambda c: c["result"].update(kl_divergence="0"), "has '0' for result.kl_divergence, but a number is needed"),
        (lambda c: c["arithmetic"].update(dtype="int8"), "has the dtype 'int8'; supported are float32, bfloat16"),
    ],
)
def test_a_damaged_certificate_is_refused(quantized_copy, change, message):
    rewrite_json(quantized_copy / "certificate.json", change)
    with pytest.raises(ValueError, match=message):
        verify(quantized_copy)


def test_an_original_in_a_local_folder_must_be_named(quantized_demo, tmp_path):
    """The certificate is public, so it names no local path."""
    quantize(demo_folder(), tmp_path / "out")
    assert str(demo_folder()) not in (tmp_path / "out" / "certificate.json").read_text()
    with pytest.raises(ValueError, match="does not name the source of the original; use --against"):
        verify(tmp_path / "out")
