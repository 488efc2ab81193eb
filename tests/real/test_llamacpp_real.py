"""llama.cpp with a model that nobody here made."""

from __future__ import annotations

import pytest
import torch

from llama_jp.parity import Settings, compare, open_model

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; the extra `peers` has it")


@pytest.mark.slow
def test_llama_cpp_with_smollm2_is_no_bug(smollm2_file):
    """Guards against a bound that forgets activations of thousands, which random models do not have."""
    ids = torch.randint(3, 49152, (1, 24), generator=torch.Generator().manual_seed(0))
    found = compare(open_model(str(smollm2_file), Settings("float32")), open_model(f"llama.cpp:{smollm2_file}"), ids)
    assert found.verdict == "rounding", found.bug
