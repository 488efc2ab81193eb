"""The command line on several processes: `torchrun --nproc-per-node 2 -m llama_jp generate …`.

torchrun starts the same command on every rank. All ranks compute the same tokens, and only rank 0 writes output. Two
things would differ between ranks and are made equal here: the seed and the text on standard input.
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
from typing import TYPE_CHECKING, BinaryIO, TextIO

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from ..checkpoint.load import choose_device
from ..checkpoint.parts import is_function_name
from ..speed.tensor_parallel import ShardedLlama
from ..text.tokenizer import Tokenizer
from .console import decode_input

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

TIMEOUT = timedelta(minutes=10)  # covers the slowest rank's loading; after it a rank that hangs is reported
PATIENCE = 2.0  # seconds for which the other ranks let rank 0 report an error first


def run(main: Callable[[], int], timeout: timedelta = TIMEOUT) -> int:
    """Run the command line as one of the ranks that torchrun started; return the exit status.

    One line on standard error names the failure, whichever rank it happens on. Rank 0 writes it if it can, else the
    first rank that notices.
    """
    if sys.argv[1:2] not in (["generate"], ["finetune"]):
        if os.environ.get("RANK") == "0":
            print(
                "llama-jp: under torchrun only generate and finetune work; start the other commands without torchrun",
                file=sys.stderr,
            )
        return 2
    store, rank = start(timeout)
    status, lost_rank = 1, ""
    with shared_stdin(store), only_rank_0_writes(rank) as hidden:
        try:
            status = main()
        except SystemExit as end:  # from argparse, for --help or wrong usage
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except RuntimeError as error:  # most likely from a collective: another rank has ended or does not answer
            lost_rank = str(error).partition("\n")[0] or type(error).__name__
    if status == 0:
        dist.destroy_process_group()
        return 0
    if rank == 0 and not lost_rank:
        store.add("reported", 1)  # main wrote the error
    elif is_first_to_report(store, rank):
        reason = lost_rank or hidden.getvalue().strip().rpartition("\n")[2].removeprefix("llama-jp: ")
        print(f"llama-jp: rank {rank} of {dist.get_world_size()}: {reason}", file=sys.stderr)
    return status


def start(timeout: timedelta) -> tuple[Store, int]:
    """Connect to the other ranks, and seed the random numbers of all ranks alike. Returns the store and the rank."""
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    nccl = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    seed = from_rank_0(store, "seed", lambda: str(random.randrange(2**31)))
    random.seed(seed)
    torch.manual_seed(int(seed))
    return store, rank


def from_rank_0(store: Store, key: str, make: Callable[[], str]) -> str:
    """The value that rank 0 makes, on every rank."""
    if dist.get_rank() == 0:
        store.set(key, make())
    return store.get(key).decode()


class SharedInput(io.TextIOBase):
    """Standard input for all ranks, which share one pipe: rank 0 reads it and sends the bytes to the others."""

    encoding = "utf-8"  # where standard input has none

    def __init__(self, store: Store, stdin: TextIO):
        self.store, self.stdin = store, stdin
        self.encoding = stdin.encoding or self.encoding

    def isatty(self) -> bool:
        return self.stdin.isatty()

    @property
    def buffer(self) -> BinaryIO:
        """All bytes of standard input."""
        text = from_rank_0(self.store, "standard input", lambda: self.stdin.buffer.read().hex())
        return io.BytesIO(bytes.fromhex(text))

    def read(self, size: int | None = -1, /) -> str:
        """All of standard input. ValueError for a part of it."""
        if size is not None and size >= 0:
            raise ValueError(f"the ranks share standard input as a whole, so read() takes no size, not {size}")
        return decode_input(self.buffer.read(), self.encoding)


@contextlib.contextmanager
def shared_stdin(store: Store) -> Iterator[None]:
    """Replace `sys.stdin` by a `SharedInput`, and restore it at the end."""
    stdin = sys.stdin
    if stdin is not None:  # it is None in a process without standard input
        sys.stdin = SharedInput(store, stdin)
    try:
        yield
    finally:
        sys.stdin = stdin


@contextlib.contextmanager
def only_rank_0_writes(rank: int) -> Iterator[io.StringIO]:
    """Hide the output of the other ranks. Their standard error is kept: it is reported when rank 0 has no error."""
    hidden = io.StringIO()
    if rank == 0:
        yield hidden
        return
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(hidden):
        yield hidden


def is_first_to_report(store: Store, rank: int) -> bool:
    """Whether no other rank has reported the failure. Rank 0 goes first: most errors are the same on all ranks."""
    deadline = time.monotonic() + PATIENCE
    while rank > 0 and time.monotonic() < deadline and not store.check(["reported"]):
        time.sleep(0.05)
    return store.add("reported", 1) == 1


def open_sharded(args: argparse.Namespace) -> tuple[ShardedLlama, Tokenizer]:
    """Load this rank's share of the model, and the tokenizer. ValueError for options that need a single process."""
    for flag, reason in (
        ("max_time", "the clocks of several processes differ"),
        ("cache", "each process has the keys and values of its own heads only"),
        ("prompts", "each process would write the file of answers"),
    ):
        if getattr(args, flag) is not None:
            raise ValueError(f"--{flag.replace('_', '-')} works in a single process: {reason}")
    if is_function_name(args.model):
        raise ValueError(
            f"several processes share a checkpoint, and {args.model} is a function; write its model with "
            f"`llama-jp convert {args.model} FOLDER`, and name the folder"
        )
    mesh = make_mesh(args.device)
    model = ShardedLlama.from_pretrained(
        args.model, args.dtype, mesh=mesh, revision=args.revision, attention=args.attention
    )
    assert model.folder is not None, "from_pretrained fills it"
    return model, Tokenizer.from_pretrained(args.tokenizer or model.folder)


def make_mesh(device: str) -> DeviceMesh:
    """A mesh of one dimension with all ranks, on the CPU or on one GPU each. ValueError names what is missing."""
    ranks_here, rank = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    if ":" in device:
        raise ValueError(f"each process takes a GPU of its own: --device {device.partition(':')[0]}, not {device}")
    gpus = torch.cuda.device_count()
    if rank < gpus:
        torch.cuda.set_device(rank)
    device_type = choose_device(device).type
    if device_type == "cuda" and ranks_here > gpus:
        raise ValueError(
            f"{ranks_here} processes need a GPU each, but this machine has {gpus}; start fewer, or add --device cpu"
        )
    if device_type == "cuda" and not dist.is_nccl_available():
        raise ValueError("this PyTorch has no NCCL, through which the processes communicate; add --device cpu")
    if device_type not in ("cuda", "cpu"):
        raise ValueError(f"several processes run on the CPU or on CUDA, not on {device_type}")
    return init_device_mesh(device_type, (dist.get_world_size(),))
