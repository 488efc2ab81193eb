"""A small model with the demo's tokenizer, lines to train on, and a run in a process of its own."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from llama_jp import Llama, LlamaConfig
from llama_jp.training import initialise

DEMO = Path(__file__).resolve().parents[2] / "weights" / "demo"
WORDS = ["クマ", "ネコ", "海辺", "森", "友達", "家", "お城", "雪"]


def save_tiny(folder: Path, **changes) -> Path:
    """A model that trains in milliseconds, with the demo's tokenizer and chat template."""
    folder.mkdir(parents=True)
    for file in DEMO.glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    sizes = {
        "vocab_size": 3072,
        "max_position_embeddings": 256,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    model = Llama(LlamaConfig(rms_norm_eps=1e-6, **(sizes | changes)))
    initialise(model, 0)
    model.folder = folder
    model.save_pretrained(folder)
    return folder


def write_data(file: Path, count: int, seed: int = 0) -> Path:
    """Instructions whose answers repeat their first word."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        words = rng.choices(WORDS, k=rng.randrange(2, 9))
        lines.append({"instruction": "と".join(words), "output": f"{words[0]}です。"})
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return file


def start(*words: str | Path) -> subprocess.Popen:
    """`llama-jp finetune` as a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "llama_jp", "finetune", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next(folder.glob("*.safetensors")))


def assert_equal_runs(one: Path, other: Path) -> None:
    """Weights and losses of two finished runs are equal to the bit."""
    ours, theirs = weights_of(one), weights_of(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert read_log(one) == read_log(other)


def read_log(folder: Path) -> list[dict]:
    """The log of a run without its times."""
    lines = (folder / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
