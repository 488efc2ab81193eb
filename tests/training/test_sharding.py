"""Runs under torchrun: the losses of one process, and states that any number of processes continues."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.training import read_log, save_tiny, weights_of, write_data

from llama_jp.training import finetune

WORKER = Path(__file__).parents[1] / "helpers" / "finetune_worker.py"
SETTINGS = {"steps": 7, "lr": 1e-3, "batch": 3, "accumulate": 2, "length": 96, "save_every": 2, "precision": "float32"}
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def run_ranks(size: int, stop: int, *words: str | Path) -> int:
    """Run the command on some ranks. Returns the exit status of rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    common |= {"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": str(size)}
    command = [sys.executable, str(WORKER), str(stop), "finetune", *map(str, words), *FLAGS, "--device", "cpu"]
    runs = [
        subprocess.Popen(command, env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(size)
    ]
    return [run.wait() for run in runs][0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("sharding") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data.jsonl", 60)


@pytest.fixture(scope="module")
def alone(tiny, data, tmp_path_factory) -> Path:
    """The run in a single process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    finetune(data, out, tiny, device="cpu", progress=False, **SETTINGS)
    return out


def assert_close_runs(one: Path, other: Path) -> None:
    """Losses within 1e-6: two processes add up the same numbers in another order."""
    for ours, theirs in zip(read_log(one), read_log(other), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            tolerance = 1e-5 if key == "gradient_norm" else 1e-6  # measured: 2e-6 and 2e-7
            assert value == pytest.approx(theirs[key], rel=tolerance), (ours["step"], key)
    ours, theirs = weights_of(one), weights_of(other)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-4)  # AdamW's first steps magnify rounding


def test_two_processes_have_the_losses_of_one(tiny, data, alone, tmp_path):
    """Three rows in a call and two ranks: one has more rows than the other. Guards against a mean of means."""
    assert run_ranks(2, 0, data, tmp_path / "out", "--model", tiny) == 0
    assert_close_runs(tmp_path / "out", alone)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {file.name for file in alone.iterdir()}


@pytest.mark.slow
def test_another_number_of_processes_continues_a_run(tiny, data, alone, tmp_path):
    """2 ranks until step 4, then 1 until step 6, then 2."""
    out = tmp_path / "out"
    assert run_ranks(2, 4, data, out, "--model", tiny) == 9
    assert json.loads((out / "training_shares.json").read_text())["step"] == 2
    assert run_ranks(1, 6, data, out, "--model", tiny) == 9
    assert torch.load(out / "training_state.pt", weights_only=True)["step"] == 4
    assert not (out / "training_shares.json").exists() and not list(out.glob("training_shares-*"))
    assert run_ranks(2, 0, data, out, "--model", tiny) == 0
    assert_close_runs(out, alone)
