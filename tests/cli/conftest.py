"""Two random checkpoints, and commands that run in this process."""

from __future__ import annotations

import io
import random
import sys

import pytest
from helpers.reference import random_config, save_random
from helpers.tokenizer_files import llama_folder, write

import llama_jp
from llama_jp.checkpoint.chat_template import elyza_template
from llama_jp.cli import main


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A random model with ELYZA's chat template."""
    folder = llama_folder(tmp_path_factory.mktemp("tiny") / "model")
    write(folder, chat_template_jinja=elyza_template().text)
    V = llama_jp.Tokenizer.from_pretrained(folder).vocab_size
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return save_random(folder, 21, vocab_size=V, rms_norm_eps=1e-6, max_position_embeddings=512, **shape)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A random model of another shape, with a context of 400 tokens. It has no chat template."""
    folder = llama_folder(tmp_path_factory.mktemp("cli"))
    V = llama_jp.Tokenizer.from_pretrained(folder).vocab_size
    config = random_config(random.Random(3), "default") | {"vocab_size": V, "max_position_embeddings": 400}
    return save_random(folder, 11, **config)


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Run a command with the first model. Returns the exit status, standard output and standard error."""

    def run(*words: str, stdin: str = "", model=folder) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        capsys.readouterr()
        model_flags = ["--model", str(model)] if words[0] != "convert" else []
        status = main([*words, *model_flags])
        return (status, *capsys.readouterr())

    return run
