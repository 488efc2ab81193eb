"""The outcome of a comparison: verdict and tolerance."""

from __future__ import annotations

import pytest
import torch
from helpers.compared_models import IDS, here, reference

import llama_jp
from llama_jp.parity import compare
from llama_jp.parity.comparison import Tolerance


def test_compare_is_a_public_name_of_the_package():
    assert llama_jp.compare is compare


@pytest.mark.parametrize(("change", "verdict"), [(0.0, "equal"), (1.0, "unknown")])
def test_different_logits_that_nothing_can_judge_are_unknown(change, verdict):
    """Guards against the verdict "equal" where there is no configuration, and so no finding."""
    logits = torch.randn(*IDS.shape, 7)
    found = compare(lambda ids: logits + change, lambda ids: logits, IDS)
    assert found.verdict == verdict and found.passed == (verdict == "equal") and not found.findings


def test_equal_numbers_in_two_dtypes_are_rounding():
    """Guards against the verdict "equal" for logits that are not bit-identical."""
    logits = torch.randn(*IDS.shape, 7)
    found = compare(lambda ids: logits.bfloat16(), lambda ids: logits, IDS)
    assert found.verdict == "rounding" and not found.passed


def test_a_tolerance_decides_whether_rounding_passes(folder):
    models = here(folder, attention="eager"), reference(folder)
    found = compare(*models, IDS)
    assert found.verdict == "rounding" and not found.passed
    assert compare(*models, IDS, tolerance=Tolerance(max_ulp=found.logits.max_ulp)).passed
    assert not compare(*models, IDS, tolerance=Tolerance(max_ulp=found.logits.max_ulp - 1)).passed
    assert compare(*models, IDS, tolerance=Tolerance(max_kl=1e-6)).passed
