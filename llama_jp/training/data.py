"""The examples of a JSONL file, read line by line from disk, and the order in which a run takes them."""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..text.tokenizer import Tokenizer
from .examples import Example, example
from .losses import IGNORE
from .packing import fill_rows, plan_rows

Rows = list[list[int]]  # the examples of each row, by their numbers
Batch = tuple[Tensor, Tensor, Tensor]  # ids, labels and mask, each (B, T) int64

MOST_HELD_OUT = 200  # examples, unless a number is given


class JsonlExamples:
    """The examples of a JSONL file. In memory are the place and the length of each line, not the text.

    file       the path
    sha256     of the file's content
    lines      the number of each example's line, from 1; empty lines are left out
    sizes      tokens of each example, at most `length`
    truncated  numbers of the lines that are longer, of which the rest is cut off
    largest_id of all tokens
    unlearned  numbers of the lines of which `length` tokens hold no answer; they are left out

    Raises FileNotFoundError for a missing file. Raises ValueError with the file and the number of the line for a line
    that is no example, and for a file without examples.
    """

    def __init__(self, file: str | Path, tokenizer: Tokenizer, length: int) -> None:
        self.file, self.tokenizer, self.length = Path(file), tokenizer, length
        self.lines, self.offsets, self.sizes = array("q"), array("q"), array("q")
        self.truncated: list[int] = []
        self.unlearned: list[int] = []
        self.largest_id = 0
        if self.file.is_dir():
            raise ValueError(f"{self.file} is a folder; name a JSONL file")
        digest, offset = hashlib.sha256(), 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                digest.update(line)
                if line.strip():
                    self.add(number, offset, line)
                offset += len(line)
        self.sha256 = digest.hexdigest()
        if not self.lines:
            place = f" with an answer in their first {length} tokens; take a larger length" if self.unlearned else ""
            raise ValueError(f"{self.file} holds no examples{place}")

    def add(self, number: int, offset: int, line: bytes) -> None:
        """Check a line and keep its place."""
        ids, labels = self.encode(number, line)
        if all(label == IGNORE for label in labels[1 : self.length]):
            self.unlearned.append(number)
            return
        if len(ids) > self.length:
            self.truncated.append(number)
        self.largest_id = max(self.largest_id, *ids)
        self.lines.append(number)
        self.offsets.append(offset)
        self.sizes.append(min(len(ids), self.length))

    def encode(self, number: int, line: bytes) -> Example:
        """The example of a line. Raises ValueError with its number."""
        try:
            return example(self.tokenizer, parse_line(line))
        except ValueError as error:
            raise ValueError(f"{self.file}, line {number}: {error}") from error

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> Example:
        """Example `number`, from 0, truncated to `length` tokens."""
        with self.file.open("rb") as lines:
            lines.seek(self.offsets[number])
            ids, labels = self.encode(self.lines[number], lines.readline())
        return Example(ids[: self.length], labels[: self.length])

    def load(self, rows: Rows) -> Batch:
        """Read and pack some rows of examples. Columns that are padding in every row are left out."""
        ids, labels, mask = fill_rows([[self[number] for number in row] for row in rows], self.length)
        used = int(mask.any(0).sum())
        return ids[:, :used], labels[:, :used], mask[:, :used]


def parse_line(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises ValueError with the reason."""
    try:
        content = json.loads(line.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text: byte {error.start} is 0x{line[error.start]:02x}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error.msg} at character {error.pos}; a line is one whole object") from error
    except RecursionError as error:
        raise ValueError("it is not an example: JSON nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"it is a {type(content).__name__} where an object was expected")
    return content


@dataclass(frozen=True)
class TrainingData:
    """The examples of a run: those to train on, and those on which the held-out loss is measured."""

    examples: JsonlExamples
    training: list[int]  # numbers of `examples`
    evaluation: JsonlExamples  # another file, or the same
    held_out: Rows  # of `evaluation`

    def epoch(self, epoch: int, seed: int) -> Rows:
        """The rows of one epoch: the examples in an order of their own."""
        order = list(self.training)
        random.Random(f"epoch {epoch} {seed}").shuffle(order)
        return packed(order, self.examples)

    def steps(self, rows: int, seed: int) -> Iterator[tuple[int, Rows]]:
        """The epoch and the rows of each step, without end. The last step of an epoch may have fewer than `rows`."""
        epoch = 0
        while True:
            plan = self.epoch(epoch, seed)
            for start in range(0, len(plan), rows):
                yield epoch, plan[start : start + rows]
            epoch += 1

    def count_steps(self, epochs: int, rows: int, seed: int) -> int:
        """The number of steps in some epochs."""
        return sum(-(-len(self.epoch(epoch, seed)) // rows) for epoch in range(epochs))


def open_data(
    file: str | Path, evaluation: str | Path | None, held_out: int | None, tokenizer: Tokenizer, length: int, seed: int
) -> TrainingData:
    """Open the data of a run. The arguments are those of `finetune`; the seed chooses the examples to hold out."""
    examples = JsonlExamples(file, tokenizer, length)
    if evaluation is not None:
        others = JsonlExamples(evaluation, tokenizer, length)
        return TrainingData(examples, list(range(len(examples))), others, packed(range(len(others)), others))
    if held_out is None:
        held_out = min(len(examples) // 20, MOST_HELD_OUT)
    if held_out >= len(examples):
        raise ValueError(f"{held_out} of {len(examples)} examples are held out, so none is left to train on")
    kept = set(random.Random(f"held out {seed}").sample(range(len(examples)), held_out))
    training = [number for number in range(len(examples)) if number not in kept]
    return TrainingData(examples, training, examples, packed(sorted(kept), examples))


def packed(numbers: Sequence[int], examples: JsonlExamples) -> Rows:
    """Rows of some examples, in their order."""
    rows = plan_rows((examples.sizes[number] for number in numbers), examples.length)
    return [[numbers[i] for i in row] for row in rows]
