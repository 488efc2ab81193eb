"""Fine-tune a model on a JSONL file: the settings of a run, and what it leaves in its folder.

finetune("stories.jsonl", "my-model", "demo", epochs=3)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from ..checkpoint.config import dtype_name, read_config, read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.load import choose_device, multiplies_bfloat16, named_dtype
from ..checkpoint.parts import is_function_name
from ..checkpoint.recognise import shorten
from ..loading import load
from ..model import Llama
from ..text.tokenizer import Tokenizer
from .adapters import add_lora, save_adapter
from .curve import draw_curve
from .data import TrainingData, open_data
from .loop import Trainer
from .memory import check_memory, estimate_memory
from .optimization import checkpoint_activations, make_optimizer
from .sharding import barrier, own_device, rank_and_size, shard, whole
from .state import check_folder, check_settings, finish_run, load_state, read_log, replace_file, start_run

PRECISIONS = ("auto", "float32", "autocast", "bfloat16")
CURVE_FILE = "loss.svg"
EPOCHS, LENGTH = 3, 1024


@dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run, which goes on only with equal settings."""

    data: str
    data_sha256: str
    evaluation: str | None
    evaluation_sha256: str | None
    held_out: int
    model: str
    tokenizer: str | None
    revision: str | None
    lora: int | None
    steps: int
    lr: float
    batch: int
    length: int
    accumulate: int
    seed: int
    warmup: int
    weight_decay: float
    clip: float
    precision: str
    attention: str
    device: str


class Result(NamedTuple):
    """What a finished run has reached: losses in nats per token."""

    folder: Path
    steps: int
    loss: float  # of the last step
    held_out: float | None


def finetune(
    data: str | Path,
    out: str | Path,
    model: str | Path = "demo",
    *,
    lora: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch: int = 4,
    length: int | None = None,
    accumulate: int = 1,
    seed: int = 0,
    warmup: int | None = None,
    weight_decay: float = 0.0,
    clip: float = 1.0,
    precision: str = "auto",
    evaluation: str | Path | None = None,
    held_out: int | None = None,
    save_every: int = 100,
    checkpointing: bool = False,
    attention: str = "sdpa",
    device: str | torch.device = "auto",
    revision: str | None = None,
    trust_parts: bool = False,
    tokenizer: str | Path | None = None,
    progress: bool = True,
) -> Result:
    """Fine-tune a model on a JSONL file, and write a checkpoint, or an adapter with `lora`, to a folder.

    data           a file with one example per line: see `training.example`
    out            the folder; a run that was interrupted goes on in it, with the same settings
    model          as in `llama_jp.load`; a quantised model needs `lora`
    lora           the rank of a LoRA adapter on every linear layer of the blocks; None trains all weights
    steps, epochs  the length of the run, one of the two (default: 3 epochs)
    lr             the peak learning rate (default: 2e-5, with LoRA 2e-4): linear warm-up, then a cosine to a tenth
    batch          rows in one call of the model
    length         tokens in a row (default: 1024, or the model's context if it is shorter). Whole examples are packed
                   into rows. A longer example is truncated; a message counts these and names their lines
    accumulate     calls in a step. Every token of a step has the same weight, as in one larger batch
    seed           of the order of the examples, of the held-out part, and of the adapter
    warmup         steps of the warm-up (default: 3 % of the steps)
    weight_decay   AdamW's, of matrices only
    clip           the largest norm of the gradients of a step
    precision      "float32"; "autocast": float32 weights, bfloat16 products; "bfloat16": everything bfloat16, half the
                   memory and rougher updates. "auto": autocast, or bfloat16 with LoRA, where the device multiplies
                   bfloat16 natively, else float32. An adapter is float32 in any case
    evaluation     another JSONL file, on which the held-out loss is measured
    held_out       the number of examples of `data` that are held out instead (default: a twentieth, at most 200)
    save_every     steps between two states on the disk. SIGINT and SIGTERM save one more, at the end of their step
    checkpointing  keep only the inputs of the blocks for the backward pass: less memory, more time, same bits
    progress       False prints nothing

    attention, device, revision, trust_parts and tokenizer are those of `llama_jp.load`.

    The folder then holds a checkpoint in the dtype of the source, with the tokenizer of the run, or the adapter as PEFT
    writes it; and training.json (the settings), training_log.jsonl (one line per step) and loss.svg.

    Raises ValueError for a wrong line of the data, with its number; for settings that differ from those of the run in
    `out`; for a run that does not fit into the memory; for a loss that is not finite.
    """
    check_least(1, lora=lora, steps=steps, epochs=epochs, batch=batch, length=length)
    check_least(1, accumulate=accumulate, save_every=save_every)
    check_least(0, lr=lr, warmup=warmup, weight_decay=weight_decay, clip=clip, held_out=held_out)
    check_one_given(steps=steps, epochs=epochs)
    check_one_given(evaluation=evaluation, held_out=held_out)
    rank, size = rank_and_size()
    is_first = rank == 0
    if size > 1 and lora is not None:
        raise ValueError("an adapter is trained in a single process; start the command without torchrun")
    folder, device = Path(out), own_device(choose_device(device))
    check_folder(folder)
    precision = choose_precision(precision, device, lora)
    loader: dict[str, Any] = {"dtype": "bfloat16" if precision == "bfloat16" else "float32", "device": device}
    loader |= {"revision": revision, "attention": attention, "trust_parts": trust_parts, "tokenizer": tokenizer}
    llama: Llama | None = None
    if is_function_name(model):
        llama, chosen = load(model, **loader)
        config, scheme = llama.config, getattr(llama, "quantization", None)
    else:
        source = find_checkpoint(model, revision, weights=False)
        chosen = Tokenizer.from_pretrained(source if tokenizer is None else tokenizer)
        config, scheme = read_config(source, changed_ok=True), read_scheme(source)
    if scheme is not None and lora is None:
        raise ValueError(f"{model} is quantised, and its weights cannot be trained; train an adapter with LoRA")
    context = config.max_position_embeddings
    length = length or min(LENGTH, context)
    if length > context:
        raise ValueError(f"length {length} is more than the model's context of {context} tokens; choose a smaller one")

    opened = open_data(data, evaluation, held_out, chosen, length, seed)
    if (largest := max(opened.examples.largest_id, opened.evaluation.largest_id)) >= config.vocab_size:
        raise ValueError(
            f"the tokenizer gives id {largest}, but the model has {config.vocab_size} ids; "
            "use the tokenizer of this model"
        )
    if steps is None:
        steps = opened.count_steps(epochs or EPOCHS, batch * accumulate, seed)
    settings = Settings(
        data=str(data),
        data_sha256=opened.examples.sha256,
        evaluation=None if evaluation is None else str(evaluation),
        evaluation_sha256=opened.evaluation.sha256,
        held_out=len(opened.examples) - len(opened.training),
        model=str(model),
        tokenizer=None if tokenizer is None else str(tokenizer),
        revision=revision,
        lora=lora,
        steps=steps,
        lr=(2e-5 if lora is None else 2e-4) if lr is None else lr,
        batch=batch,
        length=length,
        accumulate=accumulate,
        seed=seed,
        warmup=math.ceil(steps * 0.03) if warmup is None else warmup,
        weight_decay=weight_decay,
        clip=clip,
        precision=precision,
        attention=attention,
        device=device.type,
    )
    finished = check_settings(folder, asdict(settings))
    if not finished:
        if llama is None:
            need = estimate_memory(config, scheme, precision, lora, batch * length, checkpointing)
            check_memory(need, device, lora, size)
            llama, _ = load(model, **loader)
        if tokenizer is not None:
            llama.folder = chosen.folder  # a save copies the tokenizer files of this folder
        if checkpointing:
            checkpoint_activations(llama)
        shard(llama, device, precision == "autocast")
        trainer = make_trainer(llama, opened, settings, progress)
        start = load_state(folder, trainer.model, trainer.optimizer)
        if is_first:
            start_run(folder, asdict(settings))
        for line in describe_run(opened, settings, start):
            trainer.say(line)
        trainer.train(folder, start, save_every)
        write_result(trainer.model, llama, folder, lora)
        if is_first:
            curve = draw_curve(trainer.log, f"{model} + {Path(data).name}")
            replace_file(folder / CURVE_FILE, lambda file: file.write_text(curve, encoding="utf-8"))
            finish_run(folder, asdict(settings))
        barrier()
    log = read_log(folder, steps)
    return Result(folder, steps, log[-1]["loss"], log[-1].get("held_out"))


def check_least(least: int, **given: float | None) -> None:
    """Raise ValueError for a number that is too small. None is a default."""
    for name, value in given.items():
        if value is not None and not value >= least:
            raise ValueError(f"{name} is {value}; at least {least} is needed")


def check_one_given(**given: object) -> None:
    """Raise ValueError if more than one argument is given."""
    if sum(value is not None for value in given.values()) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other; leave one of them out")


def choose_precision(precision: str, device: torch.device, lora: int | None) -> str:
    """The precision of a run; "auto" as in `finetune`. ValueError for an unknown one."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it can be {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    if device.type == "cpu" and not multiplies_bfloat16():
        return "float32"
    return "autocast" if lora is None else "bfloat16"


def make_trainer(llama: Llama, data: TrainingData, settings: Settings, progress: bool) -> Trainer:
    """The trainer of a run, with a new adapter if the settings name a rank."""
    model: nn.Module = llama
    if settings.lora is not None:
        model = add_lora(llama, settings.lora, seed=settings.seed)
    return Trainer(
        model=model,
        optimizer=make_optimizer(model, settings.lr, settings.weight_decay),
        data=data,
        steps=settings.steps,
        lr=settings.lr,
        warmup=settings.warmup,
        batch=settings.batch,
        accumulate=settings.accumulate,
        seed=settings.seed,
        clip=settings.clip,
        autocast=settings.precision == "autocast",
        progress=progress,
    )


def describe_run(data: TrainingData, settings: Settings, start: int) -> Iterator[str]:
    """Lines for people: what is trained, on how much, and which examples were cut."""
    s = settings
    what = "all weights" if s.lora is None else f"a LoRA adapter of rank {s.lora}"
    yield f"{s.model}: {what}, {s.precision} on {s.device}; {s.steps} steps of {s.batch * s.accumulate} rows" + (
        f", from step {start + 1} on" if start else ""
    )
    held_out = sum(map(len, data.held_out))
    yield (
        f"{s.data}: {len(data.training):,} examples{f', {held_out:,} held out' if held_out else ''}; "
        f"a row is {s.length} tokens, an epoch {len(data.epoch(0, s.seed)):,} rows"
    )
    for examples in dict.fromkeys([data.examples, data.evaluation]):
        for lines, what in (
            (examples.truncated, f"longer than {s.length} tokens and truncated"),
            (examples.unlearned, f"left out, without an answer in their first {s.length} tokens"),
        ):
            if lines:
                yield f"{examples.file}: {len(lines)} {what}: line {shorten([str(line) for line in lines])}"


def write_result(model: nn.Module, llama: Llama, folder: Path, lora: int | None) -> None:
    """Write the adapter, or the whole checkpoint in the dtype of its source.

    Weights that are too large for that dtype are written as they were trained, and a warning says so.
    """
    if lora is not None:
        save_adapter(model, folder)
        return
    if llama.config.torch_dtype is not None:
        stored = named_dtype(llama.config.torch_dtype)
        limit = torch.finfo(stored).max
        if all(whole(parameter.detach().abs().max()) <= limit for parameter in llama.parameters()):
            llama.to(stored)
        else:
            warnings.warn(f"weights are too large for {dtype_name(stored)}, and are written as trained", stacklevel=2)
    llama.save_pretrained(folder)
