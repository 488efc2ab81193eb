"""Certificates: a comparison's settings, library versions and results in a file, to be replayed later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...environment import describe_environment, environment_changes
from ...text_files import parse_json, read_text_file, write_whole
from ..comparison import Comparison
from ..requests import Request, run_request

FORMAT = 1  # the version of the file format; increment on incompatible changes


def outcome(comparison: Comparison) -> dict[str, Any]:
    """The results that a replay must reproduce, as values for JSON."""
    logits = comparison.logits
    bug = comparison.bug
    return {
        "mode": comparison.mode,
        "verdict": comparison.verdict,
        "sha256": comparison.sha256,
        "max_ulp": None if logits is None else logits.max_ulp,
        "differing": None if logits is None else logits.differing,
        "bug": None if bug is None else bug.operation,
    }


def add_to_certificate(file: Path, request: Request, comparisons: list[Comparison]) -> None:
    """Write a certificate, or add a run to an existing one.

    Raises ValueError when the existing one has another format or was made with other versions or on another CPU.
    """
    environment = describe_environment()
    content: dict[str, Any] = {"format": FORMAT, "environment": environment, "runs": []}
    if file.is_file():
        content = read_certificate(file)
        if changes := environment_changes(content["environment"], environment):
            raise ValueError(f"{file} was made under other conditions ({'; '.join(changes)}); write another file")
    content["runs"].append({"request": request.as_dict(), "results": [outcome(each) for each in comparisons]})
    write_whole(file, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_certificate(file: Path) -> dict[str, Any]:
    """The content of a certificate. ValueError: the file is not a certificate of this format."""
    text = read_text_file(file)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} is not a certificate of format {FORMAT}")
    if not isinstance(content.get("runs"), list) or not isinstance(content.get("environment"), dict):
        raise ValueError(f"{file} is a damaged certificate: it needs a list of runs and an environment")
    return content


def read_request(file: Path, run: dict[str, Any]) -> Request:
    """The request of a run. ValueError: the run is damaged, or has a setting of another version of this program."""
    try:
        return Request.from_dict(run["request"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} has a run that cannot be repeated: {type(error).__name__}: {error}") from error


@dataclass
class Replay:
    """One run of a certificate with its certified and its new results."""

    request: Request
    results: list[tuple[dict[str, Any], dict[str, Any]]]  # (then, now) for each mode

    @property
    def same(self) -> bool:
        return all(then == now for then, now in self.results)


def replay(file: Path, only: Iterable[int] | None = None, trust_parts: bool = False) -> tuple[list[Replay], list[str]]:
    """Replay a certificate, or only its runs with these numbers.

    Returns the runs, and a sentence for each difference of this machine that may change bits.
    """
    content = read_certificate(file)
    runs = content["runs"]
    replays = []
    for number in range(len(runs)) if only is None else only:
        request = read_request(file, runs[number])
        now = json.loads(json.dumps([outcome(each) for each in run_request(request, trust_parts)]))
        replays.append(Replay(request, list(zip(runs[number]["results"], now, strict=True))))
    return replays, environment_changes(content["environment"], describe_environment())
