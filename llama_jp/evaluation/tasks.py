"""ELYZA-tasks-100: answer its tasks as ELYZA did, in ELYZA's file format.

https://huggingface.co/datasets/elyza/ELYZA-tasks-100 has the tasks as a CSV file with the columns of COLUMNS, and in
`baseline/preds` the published answers: the same columns and one more, whose name is the model's.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..generation.interface import stream_many
from ..generation.options import Options
from ..model import Llama
from ..text.tokenizer import Tokenizer

COLUMNS = ("input", "output", "eval_aspect")

# The published settings (baseline/scripts/elyza_llama2.py): the default system prompt, this limit, no batches, and all
# else from the checkpoint's generation_config.json. The 7b models are greedy there, and the fast ones sample.
MAX_NEW_TOKENS = 1200

Task = dict[str, str]  # the value of each column


def read_tasks(file: Path) -> list[Task]:
    """The tasks of a CSV or JSONL file. The column "input" is the instruction; the others are kept.

    Raises ValueError for a file that is not UTF-8, holds no tasks, or has a row without an instruction.
    """
    try:
        content = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from error
    if file.suffix == ".jsonl":
        tasks = [read_json_task(file, number, line) for number, line in enumerate(content.split("\n"), 1) if line]
    else:
        tasks = list(csv.DictReader(io.StringIO(content, newline="")))
    for number, task in enumerate(tasks, 1):
        if None in task or None in task.values() or not task.get("input"):
            raise ValueError(
                f'{file}, task {number} is not a row with a text in the column "input" and a value in each other one'
            )
    if not tasks:
        raise ValueError(f"{file} holds no tasks")
    return tasks


def read_json_task(file: Path, number: int, line: str) -> Task:
    try:
        content = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{file}, line {number} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{file}, line {number} is no object with a text in "input"')
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in content.items()}


def write_tasks(tasks: Sequence[Task]) -> str:
    """Tasks as CSV, as `Dataset.to_csv` writes it."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(tasks[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(tasks)
    return content.getvalue()


def encode_task(tokenizer: Tokenizer, task: Mapping[str, str]) -> list[int]:
    """The prompt of a task, by the checkpoint's chat template, or by ELYZA's if it has none."""
    return tokenizer.chat([{"role": "user", "content": task["input"]}])


def answer_tasks(
    model: Llama,
    tokenizer: Tokenizer,
    tasks: Sequence[Task],
    *,
    done: int = 0,
    batch: int = 1,
    max_new_tokens: int = MAX_NEW_TOKENS,
    seeds: Sequence[int] = (),
) -> Iterator[str]:
    """Answer tasks, and iterate over the answers in the order of the tasks.

    done  tasks at the beginning that have an answer already
    batch  tasks at a time; each answer is that of the task alone, apart from rounding (`generate_many`)
    max_new_tokens  at most; fewer where the context ends earlier
    seeds  one for each task, for a checkpoint that samples

    Raises ValueError, before the first answer, for a task that fills the context.
    """
    prompts = [encode_task(tokenizer, task) for task in tasks[done:]]
    rooms = [model.config.context_length - len(prompt) for prompt in prompts]
    for number, room in enumerate(rooms, done + 1):
        if room < 1:
            context = model.config.context_length
            raise ValueError(f"task {number} has {context - room} tokens, but the context holds {context}; shorten it")
    options: dict[str, Any] = {"limits": [min(max_new_tokens, room) for room in rooms]}
    if seeds and Options.resolve(model, None, {}).do_sample:
        options["seed"] = list(seeds[done:])
    ended: dict[int, str] = {}  # answers that wait for an earlier one
    following = 0
    for number, answer in stream_many(model, prompts, batch=batch, **options):
        ended[number] = tokenizer.decode(answer.ids)
        while following in ended:
            yield ended.pop(following)
            following += 1
