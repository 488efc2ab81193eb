"""A comparison as plain values, from the command line or from a certificate, and the code that runs it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.hub import find_checkpoint
from ..checkpoint.parts import describe_failure, own_frame
from ..checkpoint.random_checkpoint import random_config, random_ids, write_random
from ..model import LlamaConfig
from ..text.tokenizer import Tokenizer
from ..text_files import read_text_file
from .comparison import Comparison, Tolerance
from .modes.forward import compare
from .modes.generation import GENERATION_MODES, compare_generation
from .modes.gradients import compare_gradients
from .modes.tokenizer_mode import compare_tokenizers
from .run.models import LLAMA_CPP, ComparedModel, Settings, common_config, open_model, spec_kind
from .run.recording import FORWARD_MODES

MODES = (*FORWARD_MODES, *GENERATION_MODES, "tokenizer", "gradients")
TEXT_LIMIT = 200_000  # characters of a text file that are encoded for ids


@dataclass
class Request:
    """Two models, the modes to compare them in, and the tolerance. Certificates keep every field."""

    model: str = "demo"
    against: str = "transformers"
    checkpoint: str | None = None  # for models that name none
    random: str | None = None  # a key of SHAPES: random weights in place of a checkpoint
    layers: int | None = None  # of the random model
    modes: list[str] = field(default_factory=lambda: ["whole"])
    first: Settings = field(default_factory=Settings)
    second: Settings = field(default_factory=Settings)
    rows: int = 2
    tokens: int = 32
    new_tokens: int = 16
    text: str | None = None  # a file: its first tokens are the ids; the mode tokenizer encodes all of its lines
    seed: int = 0
    max_ulp: int | None = None
    max_kl: float | None = None
    expect: list[str] = field(default_factory=list)  # operations that may be wrong, see `compare`

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Request:
        """The inverse of `as_dict`."""
        settings = {"first": Settings(**values["first"]), "second": Settings(**values["second"])}
        return cls(**values | settings)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_request(request: Request, trust_parts: bool = False) -> list[Comparison]:
    """Run one comparison for each mode, on the same two models. The mode tokenizer comes first.

    trust_parts  import the parts that the checkpoint of a changed model names, as in `llama_jp.load`. Certificates do
                 not keep it, so a replay runs no code that its caller does not trust

    Raises ValueError when a model, a checkpoint or a text cannot be used for the request, and when the model of a
    function fails while it runs.
    """
    try:
        return run_modes(request, trust_parts)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        foreign = ("function", "checkout")
        functions = [spec for spec in (request.model, request.against) if spec_kind(spec) in foreign]
        is_refusal = isinstance(error, (ValueError, OSError)) and own_frame(error) is None
        if not functions or is_refusal:
            raise
        raise ValueError(f"the model of {' or '.join(functions)} failed: {describe_failure(error)}") from error


def run_modes(request: Request, trust_parts: bool) -> list[Comparison]:
    tolerance = Tolerance(request.max_ulp, request.max_kl)
    comparisons = []
    with checkpoint_of(request) as folder:
        if "tokenizer" in request.modes:
            tokenizer_folder = require_tokenizer(folder, request)
            lines = read_lines(request.text) if request.text is not None else []
            comparisons.append(compare_tokenizers(request.model, request.against, tokenizer_folder, lines))
        modes = [mode for mode in request.modes if mode != "tokenizer"]
        if not modes:
            return comparisons
        of_first, of_second = settings_of(request)
        is_random = request.random is not None and request.model == Request.model  # no other first model is named
        first = open_model(str(folder) if is_random else request.model, of_first, folder, trust_parts)
        second = open_model(request.against, of_second, folder, trust_parts)
        first.name = f"llama_jp, random {request.random}" if is_random else request.model
        config = common_config((first, second))
        if config is None:
            raise ValueError("neither model has a configuration: name a checkpoint for one of them")
        ids = choose_ids(request, folder, config)
        for mode in modes:
            comparisons.append(run_mode(mode, first, second, ids, config, tolerance, request))
    return comparisons


def settings_of(request: Request) -> tuple[Settings, Settings]:
    """The settings of both models. The dtype "auto" is float32 beside llama.cpp, which computes in it."""
    settings = request.first, request.second
    if not any(spec_kind(spec) == "llama.cpp" for spec in (request.model, request.against)):
        return settings
    first, second = (replace(each, dtype="float32") if each.dtype == "auto" else each for each in settings)
    return first, second


def run_mode(
    mode: str,
    first: ComparedModel,
    second: ComparedModel,
    ids: Tensor,
    config: LlamaConfig,
    tolerance: Tolerance,
    request: Request,
) -> Comparison:
    """Run one mode other than `tokenizer` on ids (B, T)."""
    if mode == "gradients":
        return compare_gradients(first, second, ids, config, tolerance)
    if mode in GENERATION_MODES:
        return compare_generation(
            first, second, ids, request.new_tokens, mode, config, tolerance, request.seed, request.expect
        )
    return compare(
        first, second, ids, mode, config=config, tolerance=tolerance, seed=request.seed, expect=request.expect
    )


@contextmanager
def checkpoint_of(request: Request) -> Iterator[Path | None]:
    """The folder of the common checkpoint: a random one for the time of the `with` block, a named one, or None."""
    specs = (request.checkpoint, request.model, request.against)
    named = [spec for spec in specs if spec and spec_kind(spec) == "checkpoint"]
    files = [spec.removeprefix(LLAMA_CPP) for spec in specs if spec and spec_kind(spec) == "llama.cpp"]
    if request.random is None:
        named += files  # of two GGUF files, or of one and a function, the file has the tokenizer
        yield find_checkpoint(named[0]) if named else None
        return
    if files:
        raise ValueError(f"the weights are random, so the file {files[0]} cannot be compared with --random")
    if others := [name for name in named if name != Request.model or name in (request.checkpoint, request.against)]:
        raise ValueError(f"both models load the random checkpoint, so {others[0]} cannot be named with --random")
    with tempfile.TemporaryDirectory(prefix="parity-") as folder:
        config = random_config(request.random, request.layers)
        yield write_random(Path(folder), config, seed=request.seed)


def require_tokenizer(folder: Path | None, request: Request) -> Path:
    """The folder, or ValueError where it has no tokenizer."""
    if folder is None or request.random:
        raise ValueError("--text and the mode tokenizer need a checkpoint with a tokenizer; a random one has none")
    return folder


def choose_ids(request: Request, folder: Path | None, config: LlamaConfig) -> Tensor:
    """The ids (rows, tokens): of the text if there is one, otherwise random ids from the seed."""
    if request.text is None:
        return random_ids(config, request.rows, request.tokens, request.seed)
    text = "".join(read_lines(request.text))[:TEXT_LIMIT]
    ids = Tokenizer.from_pretrained(require_tokenizer(folder, request)).encode(text)
    needed = request.rows * request.tokens
    if len(ids) < needed:
        raise ValueError(
            f"{request.text} has {len(ids)} tokens, but {request.rows} rows of {request.tokens} tokens need {needed}; "
            "give a longer text, or fewer --rows or --tokens"
        )
    return torch.tensor(ids[:needed]).view(request.rows, request.tokens)


def read_lines(file: str) -> list[str]:
    """The lines of a UTF-8 file with their line ends."""
    return read_text_file(file).splitlines(keepends=True)
