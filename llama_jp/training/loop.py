"""The training loop: steps over packed rows, held-out losses, and a state on the disk from which it goes on.

Step n takes its examples from the seed and n alone. So a run that was killed goes on where its last state was saved,
to the same bits as an undisturbed one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch import Tensor, nn
from tqdm import tqdm

from .data import Batch, JsonlExamples, Rows, TrainingData
from .losses import IGNORE, loss, target_count
from .optimization import learning_rate, update
from .sharding import barrier, rank_and_size, reshard, sum_over_ranks
from .state import LOG_FILE, read_log, save_state, write_log

REPORTS = 10  # in a run: held-out losses, and lines with the losses


@dataclass
class Trainer:
    """A model, its optimizer, its data, and the schedule of its steps."""

    model: nn.Module  # a Llama, or PEFT's wrapper around one
    optimizer: torch.optim.Optimizer
    data: TrainingData
    steps: int
    lr: float  # the peak
    warmup: int  # steps
    batch: int  # rows in one call of the model
    accumulate: int  # calls in a step
    seed: int
    clip: float
    autocast: bool  # bfloat16 products
    progress: bool
    log: list[dict[str, Any]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def train(self, folder: Path, start: int, save_every: int) -> None:
        """Run the steps from `start` on. Each adds an entry to `log` and a line to a file of the folder.

        The state is saved every `save_every` steps, after the last one, and after a step in which SIGINT or SIGTERM
        arrived. The signal then takes effect: SIGINT raises KeyboardInterrupt.
        """
        self.log = read_log(folder, start or -1)  # a run from the beginning evaluates the model first
        rank, _ = rank_and_size()
        if rank == 0:
            write_log(folder, self.log)
        barrier()
        seconds = self.log[-1]["seconds"] if self.log else 0.0
        plan = islice(self.data.steps(self.batch * self.accumulate, self.seed), start, self.steps)
        with (
            (folder / LOG_FILE if rank == 0 else Path(os.devnull)).open("a", encoding="utf-8") as file,
            tqdm(total=self.steps, initial=start, unit=" steps", disable=None if self.progress else True) as bar,
            delayed_interruption() as interruption,
        ):
            if start == 0 and self.data.held_out:
                self.write({"step": 0, "held_out": self.evaluate(), "seconds": 0.0}, file)
            for step, (epoch, rows) in enumerate(plan, start + 1):
                began = time.perf_counter()
                entry = {"step": step, "epoch": epoch} | self.run_step(step, rows)
                duration = time.perf_counter() - began
                seconds += duration
                is_last = step == self.steps
                reports = is_last or step % max(1, self.steps // REPORTS) == 0
                if reports and self.data.held_out:
                    entry["held_out"] = self.evaluate()
                self.write(entry | {"seconds": round(seconds, 3)}, file)
                bar.update()
                bar.set_postfix_str(f"loss {entry['loss']:.4f}, {entry['tokens'] / duration:,.0f} tokens/s")
                if reports:
                    self.say(self.describe_progress())
                stops = bool(sum_over_ranks(bool(interruption), self.device))  # a signal may reach one process first
                if is_last or stops or step % save_every == 0:
                    save_state(folder, self.model, self.optimizer, step)
                if stops:
                    self.say(f"interrupted after step {step} of {self.steps}; the same command goes on")
                    return

    def run_step(self, step: int, rows: Rows) -> dict[str, Any]:
        """One step of the optimizer, with the gradients of the mean loss over all targets in the rows.

        step  from 1
        """
        self.model.train()
        calls = list(self.calls(self.data.examples, rows))
        device = self.device
        count = int(sum_over_ranks(sum(target_count(labels) for _, labels, _ in calls), device))
        total = 0.0
        for call in calls:
            part = self.loss_of(call, count)
            (part * rank_and_size()[1]).backward()  # FSDP divides the sum of all processes' gradients by their number
            total += part.item()
        lr = learning_rate(step - 1, self.lr, self.steps, self.warmup)
        norm = update(self.model, self.optimizer, lr, self.clip)
        tokens = sum(int(mask.bool().sum()) for *_, mask in calls)
        total, tokens = sum_over_ranks(total, device), int(sum_over_ranks(tokens, device))
        return {"loss": total, "lr": lr, "gradient_norm": norm, "tokens": tokens}

    def calls(self, examples: JsonlExamples, rows: Rows) -> Iterator[Batch]:
        """The calls of the model for some rows. Several processes share the rows of each call.

        All processes make equally many calls. One without a row of its own takes the first one, without targets.
        """
        rank, size = rank_and_size()
        for i in range(0, len(rows), self.batch):
            call = rows[i : i + self.batch]
            if own := call[rank::size]:
                yield examples.load(own)
            else:
                ids, labels, mask = examples.load(call[:1])
                yield ids, torch.full_like(labels, IGNORE), torch.zeros_like(mask)

    def loss_of(self, call: Batch, count: int) -> Tensor:
        """The losses of all targets in one call of the model, added up and divided by `count`."""
        ids, labels, mask = (tensor.to(self.device) for tensor in call)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            logits = self.model(ids, mask=mask)
        return loss(logits, labels, count)

    @torch.no_grad()
    def evaluate(self) -> float:
        """The mean loss over all targets of the held-out rows."""
        self.model.eval()
        total, count = 0.0, 0
        for call in self.calls(self.data.evaluation, self.data.held_out):
            total += self.loss_of(call, 1).item()
            count += target_count(call[1])
        reshard(self.model)
        return sum_over_ranks(total, self.device) / sum_over_ranks(count, self.device)

    def write(self, entry: dict[str, Any], file: TextIO) -> None:
        """Add an entry to the log and to its file."""
        self.log.append(entry)
        file.write(json.dumps(entry) + "\n")
        file.flush()

    def describe_progress(self) -> str:
        """One line about the last entry: the mean training loss since the line before, and the held-out loss."""
        entry = self.log[-1]
        recent = [each["loss"] for each in self.log if "loss" in each][-max(1, self.steps // REPORTS) :]
        line = f"step {entry['step']:{len(str(self.steps))}} of {self.steps}   training {sum(recent) / len(recent):.4f}"
        return line + (f"   held-out {entry['held_out']:.4f}" if "held_out" in entry else "")

    def say(self, line: str) -> None:
        if self.progress:
            tqdm.write(line, file=sys.stderr)


class Interruption:
    """The first SIGINT or SIGTERM that arrived; false before."""

    number: int | None = None

    def __bool__(self) -> bool:
        return self.number is not None


@contextmanager
def delayed_interruption() -> Iterator[Interruption]:
    """Inside, the first SIGINT or SIGTERM is only noted, and takes effect at the end; the second one does at once."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        interruption.number = number
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
        if interruption.number is not None:
            signal.raise_signal(interruption.number)
