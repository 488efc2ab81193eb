"""The bundled model in float32, in this project and in transformers."""

from __future__ import annotations

import pytest
import torch
import transformers

import llama_jp
from llama_jp.checkpoint.hub import demo_folder

TEXT = "".join(
    f"むかしむかし、{name}が海辺に行きました。貝がらを{number}つ拾って、友達に見せました。\n"
    for number, name in enumerate(("クマ", "アザラシ", "犬", "ニワトリ", "カンガルー", "猫"), 3)
)


@pytest.fixture(scope="session")
def demo():
    """(model, tokenizer), float32 on the CPU."""
    return llama_jp.load("demo", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def reference():
    """(model, tokenizer) of transformers."""
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=torch.float32)
    return model, transformers.AutoTokenizer.from_pretrained(demo_folder())


@pytest.fixture
def text() -> str:
    return TEXT
