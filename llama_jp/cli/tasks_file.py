"""evaluate --tasks and --published: answer a file of tasks such as ELYZA-tasks-100, and compare with its answers."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..evaluation.perplexity import FirstDifference
from ..evaluation.published_answers import compare_with_answer
from ..evaluation.tasks import COLUMNS, MAX_NEW_TOKENS, Task, answer_tasks, encode_task, read_tasks, write_tasks
from ..generation.options import Options
from ..text_files import check_file_target, write_whole
from .arguments import positive_int
from .columns import visible
from .console import note
from .models import model_name, open_model
from .output import count


def add_tasks_arguments(parser: argparse.ArgumentParser, subject: argparse._MutuallyExclusiveGroup) -> None:
    """The flags of tasks. `subject` is the group of what is evaluated."""
    subject.add_argument(
        "--tasks", type=Path, metavar="FILE", help="answer ELYZA-tasks-100, or other tasks in its form: CSV or JSONL"
    )
    subject.add_argument(
        "--published",
        type=Path,
        metavar="FILE.csv",
        help="compare greedy decoding with the answers in the last column of FILE: the first different token of each",
    )
    add = parser.add_argument_group(
        "with --tasks and --published",
        "Answers are made as ELYZA made its own: the checkpoint's chat template and generation_config.json, one\n"
        "task at a time. The file is written after every answer; the same command continues an unfinished one.",
    ).add_argument
    add("--out", type=Path, metavar="FILE.csv", help="with --tasks: write the tasks and a column with the answers")
    add(
        "--max-new-tokens",
        type=positive_int,
        metavar="N",
        help=f"tokens of an answer at most (default: {MAX_NEW_TOKENS}, ELYZA's, or what the context holds)",
    )
    add("--batch", type=positive_int, metavar="N", help="with --tasks: tasks at a time (default: 1)")
    add(
        "--seed",
        type=int,
        metavar="N",
        help="with --tasks: seed of the first task of a checkpoint that samples; the next task has N + 1 (default: 0)",
    )


def answer_file(args: argparse.Namespace) -> int:
    """Answer the tasks without an answer, and return the exit status."""
    if args.out is None:
        args.parser.error("--tasks needs --out FILE.csv for the answers")
    tasks = read_tasks(args.tasks)
    check_file_target(args.out, "answers.csv")
    done = read_answers(args.out, tasks, model_name(args))
    if len(done) == len(tasks):
        note(f"{args.out}: all {len(tasks)} tasks are answered already")
        return 0
    model, tokenizer = open_model(args, rows=args.batch)
    if args.seed is not None and not Options.resolve(model, None, {}).do_sample:
        raise ValueError("--seed has no effect: generation_config.json of this checkpoint does not sample")
    if tokenizer.chat_template is None:
        note("prompt: ELYZA's chat template, because the checkpoint has none")
    begun, new = time.perf_counter(), len(tasks) - len(done)
    answers = answer_tasks(
        model,
        tokenizer,
        tasks,
        done=len(done),
        batch=args.batch or 1,
        max_new_tokens=args.max_new_tokens or MAX_NEW_TOKENS,
        seeds=[(args.seed or 0) + number for number in range(len(tasks))],
    )
    with tqdm(total=len(tasks), initial=len(done), unit=" tasks", disable=None, leave=False) as bar:
        try:
            for answer in answers:
                done.append(tasks[len(done)] | {model_name(args): answer})
                write_whole(args.out, write_tasks(done))
                bar.update()
        except ValueError as error:
            raise ValueError(f"{args.tasks}: {error}") from error
    seconds = time.perf_counter() - begun
    note(f"{args.out}: {count(len(done), 'answer')}, {new} of them new, after {seconds:.2f} s")
    return 0


def read_answers(file: Path, tasks: list[Task], column: str) -> list[Task]:
    """The answered tasks of an earlier run. Raises ValueError for a file that holds something else."""
    if column in tasks[0]:
        raise ValueError(f"the tasks have a column {column} already; they are answers, which --published compares")
    if not file.exists():
        return []
    answered = read_tasks(file)
    tasks_of_answers = [{name: value for name, value in task.items() if name != column} for task in answered]
    if column not in answered[0] or tasks_of_answers != tasks[: len(answered)]:
        raise ValueError(f"{file} has no answers of {column} to these tasks; choose another --out, or remove it")
    return answered


def compare_file(args: argparse.Namespace) -> int:
    """Compare the model with published answers, print the differences, and return the exit status."""
    tasks = read_tasks(args.published)
    column = list(tasks[0])[-1]
    if column in COLUMNS:
        raise ValueError(f"{args.published} has no answers: its last column is {column}, not a model's name")
    model, tokenizer = open_model(args)
    if Options.resolve(model, None, {}).do_sample:
        note("the checkpoint samples its answers; they are compared with greedy decoding")
    found: list[FirstDifference | None] = []
    limit = args.max_new_tokens or MAX_NEW_TOKENS
    for number, task in enumerate(tqdm(tasks, unit=" tasks", disable=None, leave=False), 1):
        try:
            found.append(compare_with_answer(model, tokenizer, encode_task(tokenizer, task), task[column], limit))
        except ValueError as error:
            raise ValueError(f"{args.published}, task {number}: {error}") from error
        if not args.json:
            tqdm.write(f"task {number:3}  {difference_line(found[-1])}")
    equal = found.count(None)
    if args.json:
        rows = [
            {"task": number, "first_difference": None if each is None else asdict(each)}
            for number, each in enumerate(found, 1)
        ]
        content: dict[str, Any] = {"model": model_name(args), "answers": column, "equal": equal, "tasks": rows}
        print(json.dumps(content, ensure_ascii=False))
    else:
        print(f"{equal} of {count(len(tasks), 'answer')} of {column} equal")
    return 0


def difference_line(first: FirstDifference | None) -> str:
    """A difference in one line for people."""
    if first is None:
        return "none"
    return (
        f"token {first.position}: '{visible(first.piece)}' in place of '{visible(first.reference_piece)}', margin "
        f"{first.margin:.4f} nats, after '{visible(first.text_before)}'"
    )
