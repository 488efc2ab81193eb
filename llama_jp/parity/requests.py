"""What was asked for, as plain values: from the command line or from a certificate, to comparisons."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from ..checkpoint.hub import find_checkpoint
from ..checkpoint.random_checkpoint import random_config, random_ids, write_random
from ..text.tokenizer import Tokenizer
from .modes.forward import Comparison, Tolerance, compare
from .modes.generation import compare_generation
from .modes.gradients import compare_gradients
from .modes.tokenizer_mode import compare_tokenizers
from .run.models import Settings, Subject, open_subject
from .run.recording import MODES

ALL_MODES = (*MODES, "greedy", "sampled", "tokenizer", "gradients")


@dataclass
class Request:
    """Two sides, what to run on them, and what may differ."""

    model: str = "demo"
    against: str = "transformers"
    checkpoint: str | None = None  # for sides that name none
    random: str | None = None  # a shape of shapes.py: random weights in place of a checkpoint
    layers: int | None = None
    modes: list[str] = field(default_factory=lambda: ["whole"])
    first: Settings = field(default_factory=Settings)
    second: Settings = field(default_factory=Settings)
    rows: int = 2
    tokens: int = 32
    new_tokens: int = 16
    text: str | None = None  # a file: its beginning is what runs; all its lines in mode tokenizer
    seed: int = 0
    max_ulp: int | None = None
    max_kl: float | None = None

    @classmethod
    def from_dict(cls, values: dict) -> Request:
        sides = {side: Settings(**values[side]) for side in ("first", "second")}
        return cls(**values | sides)

    def as_dict(self) -> dict:
        return asdict(self)


def run_request(request: Request) -> list[Comparison]:
    """One comparison for each mode, on the same two sides."""
    tolerance = Tolerance(request.max_ulp, request.max_kl)
    with checkpoint_of(request) as folder:
        found = []
        if "tokenizer" in request.modes:
            found.append(compare_tokenizers(request.model, request.against, need(folder, request), read_lines(request)))
        modes = [mode for mode in request.modes if mode != "tokenizer"]
        if not modes:
            return found
        ours = request.random and request.model == Request.model  # the default model gives way to the random one
        own = str(folder) if ours else request.model
        first, second = open_subject(own, request.first, folder), open_subject(request.against, request.second, folder)
        first.name = f"llama_jp, random {request.random}" if ours else request.model
        config = second.config or first.config
        if config is None:
            raise ValueError("neither side says what it is made of: give a checkpoint on one of them")
        ids = choose_ids(request, folder, config)
        for mode in modes:
            found.append(run_mode(mode, first, second, ids, config, tolerance, request))
    return found


def run_mode(mode, first: Subject, second: Subject, ids, config, tolerance: Tolerance, request: Request) -> Comparison:
    if mode == "gradients":
        return compare_gradients(first, second, ids, config, tolerance)
    if mode in ("greedy", "sampled"):
        return compare_generation(first, second, ids, request.new_tokens, mode, config, tolerance, request.seed)
    return compare(first, second, ids, mode, config=config, tolerance=tolerance, seed=request.seed)


@contextmanager
def checkpoint_of(request: Request) -> Iterator[Path | None]:
    """The folder that both sides load from: random and temporary, named, or one side's own."""
    named = [request.checkpoint, request.model, request.against]
    named = [name for name in named if name and ":" not in name and not name.startswith("transformers")]
    if request.random:
        if others := [name for name in named if name != Request.model]:
            raise ValueError(f"both sides load the random checkpoint, so {others[0]} cannot be named beside --random")
        with tempfile.TemporaryDirectory(prefix="parity-") as folder:
            config = random_config(request.random, request.layers)
            yield write_random(Path(folder), config, seed=request.seed)
        return
    yield find_checkpoint(named[0]) if named else None


def need(folder: Path | None, request: Request) -> Path:
    if folder is None or request.random:
        raise ValueError("the mode tokenizer needs a checkpoint with a tokenizer; a random one has none")
    return folder


def choose_ids(request: Request, folder: Path | None, config) -> torch.Tensor:
    """Ids (rows, tokens): of the text where one is given, else drawn by the seed."""
    if request.text is None:
        return random_ids(config, request.rows, request.tokens, request.seed)
    ids = Tokenizer.from_pretrained(need(folder, request)).encode("".join(read_lines(request))[:200_000])
    rows = [ids[row * request.tokens : (row + 1) * request.tokens] for row in range(request.rows)]
    if len(rows[-1]) < request.tokens:
        raise ValueError(f"{request.text} has {len(ids)} tokens; {request.rows} × {request.tokens} were asked for")
    return torch.tensor(rows)


def read_lines(request: Request) -> list[str]:
    if request.text is None:
        return []
    try:
        return Path(request.text).read_bytes().decode("utf-8").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"{request.text} is not UTF-8 text: byte {error.start}") from error
