"""A tiny random checkpoint in this project's model and in the reference, for comparisons."""

from __future__ import annotations

from pathlib import Path

from llama_jp import cli
from llama_jp.checkpoint.random_checkpoint import random_config, random_ids
from llama_jp.model import Llama
from llama_jp.parity import ComparedModel, Settings, open_model

CONFIG = random_config("tiny")
IDS = random_ids(CONFIG, 3, 14)


def here(folder: Path, dtype: str = "float32", attention: str = "sdpa") -> Llama:
    """This project's model."""
    return Llama.from_pretrained(folder, dtype=dtype, device="cpu", attention=attention)


def reference(folder: Path, dtype: str = "float32", attention: str = "sdpa") -> ComparedModel:
    """transformers' model."""
    return open_model("transformers", Settings(dtype, attention), folder)


def parity(*arguments: str) -> int:
    """The exit status of `llama-jp parity`."""
    return cli.main(["parity", *arguments])
