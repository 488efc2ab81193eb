"""The command line on several processes: `torchrun --nproc-per-node 2 -m llama_jp generate …`.

torchrun starts the same command on every rank. All of them compute the same tokens; rank 0 alone speaks. What has to be
the same everywhere and is not by itself is made so here: the seed, and what stands on standard input.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..checkpoint.load import choose_device
from ..speed.tensor_parallel import ShardedLlama
from ..text.tokenizer import Tokenizer

TIMEOUT = timedelta(minutes=10)  # for the slowest rank to read its weights, and for one that hangs to be noticed
PATIENCE = 2.0  # seconds in which rank 0 may say itself what another rank would have to say


def run(main: Callable[[], int], timeout: timedelta = TIMEOUT) -> int:
    """Run the command line as one of the ranks that torchrun has started; returns the exit status.

    One line says what failed, whichever rank it was: rank 0 where it can, else the first that noticed.
    """
    if sys.argv[1:2] != ["generate"]:
        if os.environ.get("RANK") == "0":
            print("llama-jp: under torchrun there is only the command generate; start others without", file=sys.stderr)
        return 2
    store, rank = start(timeout)
    status, lost = 1, None
    with only_rank_0_speaks(rank) as unsaid:
        try:
            status = main()
        except SystemExit as end:  # from argparse: --help, or wrong usage
            status = end.code
        except RuntimeError as error:  # most likely from a collective: another rank has gone, or does not answer
            lost = str(error).splitlines()[0]
    if status == 0:
        dist.destroy_process_group()
        return 0
    if rank == 0 and lost is None:
        store.add("said", 1)  # by main
    elif first_to_say(store, rank):
        reason = lost or unsaid.getvalue().strip().rpartition("\n")[2].removeprefix("llama-jp: ")
        print(f"llama-jp: rank {rank} of {dist.get_world_size()}: {reason}", file=sys.stderr)
    return status


def start(timeout: timedelta) -> tuple[dist.Store, int]:
    """Meet the other ranks. From here on all of them draw the same random numbers and read the same input."""
    store, rank, world_size = next(dist.rendezvous("env://", timeout=timeout))
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    seed = from_rank_0(store, "seed", lambda: str(random.randrange(2**31)))
    random.seed(seed)
    torch.manual_seed(int(seed))
    if sys.stdin is not None:
        sys.stdin = SharedInput(store)
    return store, rank


def from_rank_0(store: dist.Store, key: str, make: Callable[[], str]) -> str:
    """What rank 0 makes, on every rank."""
    if dist.get_rank() == 0:
        store.set(key, make())
    return store.get(key).decode()


class SharedInput:
    """Standard input for all ranks, which share one pipe: rank 0 reads it and tells the others."""

    def __init__(self, store: dist.Store):
        self.store, self.stdin = store, sys.stdin

    def isatty(self) -> bool:
        return self.stdin.isatty()

    @property
    def encoding(self) -> str:
        return self.stdin.encoding

    @property
    def buffer(self) -> SharedInput:
        return self

    def read(self) -> bytes:
        return bytes.fromhex(from_rank_0(self.store, "standard input", lambda: self.stdin.buffer.read().hex()))


@contextlib.contextmanager
def only_rank_0_speaks(rank: int) -> Iterator[io.StringIO]:
    """Keep what the other ranks write; their errors are needed when rank 0 has none."""
    unsaid = io.StringIO()
    if rank == 0:
        yield unsaid
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(unsaid):
        yield unsaid


def first_to_say(store: dist.Store, rank: int) -> bool:
    """Has nobody else said what went wrong? Rank 0 goes first, for most errors are the same on all ranks."""
    deadline = time.monotonic() + PATIENCE
    while rank > 0 and time.monotonic() < deadline and not store.check(["said"]):
        time.sleep(0.05)
    return store.add("said", 1) == 1


def open_sharded(args: argparse.Namespace) -> tuple[ShardedLlama, Tokenizer]:
    """This rank's share of the model that was asked for, and the tokenizer."""
    for flag, why in (
        ("max_time", "the clocks of several processes differ"),
        ("cache", "each process has the keys and values of its own heads only"),
        ("prompts", "each process would write the file of answers"),
    ):
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')} works in a single process: {why}")
    mesh = make_mesh(args.device)
    model = ShardedLlama.from_pretrained(
        args.model, args.dtype, mesh=mesh, revision=args.revision, attention=args.attention
    )
    return model, Tokenizer.from_pretrained(model.folder)


def make_mesh(device: str) -> DeviceMesh:
    """All ranks in a row, on the CPU or each with a GPU of its own."""
    here, rank = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if ":" in device:
        raise ValueError(f"each process takes a GPU of its own: --device {device.partition(':')[0]}, not {device}")
    gpus = torch.cuda.device_count()
    if rank < gpus:
        torch.cuda.set_device(rank)
    kind = choose_device(device).type
    if kind == "cuda" and here > gpus:
        raise ValueError(
            f"{here} processes want a GPU each, but this machine has {gpus}; start fewer, or add --device cpu"
        )
    if kind == "cuda" and not dist.is_nccl_available():
        raise ValueError("this PyTorch has no NCCL, which GPUs talk through; add --device cpu")
    if kind not in ("cuda", "cpu"):
        raise ValueError(f"several processes run on the CPU or on CUDA GPUs, not on {kind}")
    return init_device_mesh(kind, (dist.get_world_size(),))
