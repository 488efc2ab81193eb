"""A certificate: what was compared, with which settings and versions, and what came out, to be run again later."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...environment import describe_environment, environment_changes
from ..modes.forward import Comparison
from ..requests import Request, run_request

FORMAT = 1


def outcome(comparison: Comparison) -> dict:
    """What has to come out again."""
    logits = comparison.logits
    bug = comparison.bug
    return {
        "mode": comparison.mode,
        "verdict": comparison.verdict,
        "sha256": comparison.details.get("sha256"),
        "max_ulp": None if logits is None else logits.max_ulp,
        "differing": None if logits is None else logits.differing,
        "bug": None if bug is None else bug.operation,
    }


def add_to_certificate(file: Path, request: Request, comparisons: list[Comparison]) -> None:
    """Write a certificate, or add a run to one that was made under the same conditions."""
    here = describe_environment()
    content = {"format": FORMAT, "environment": here, "runs": []}
    if file.exists():
        content = read_certificate(file)
        if changed := environment_changes(content["environment"], here):
            raise ValueError(f"{file} was made under other conditions ({'; '.join(changed)}); write another file")
    content["runs"].append({"request": request.as_dict(), "results": [outcome(each) for each in comparisons]})
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_certificate(file: Path) -> dict:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{file} is no certificate of format {FORMAT}")
    return content


@dataclass
class Replay:
    """One run of a certificate, run again."""

    request: Request
    results: list[tuple[dict, dict]]  # then, now

    @property
    def same(self) -> bool:
        return all(then == now for then, now in self.results)


def replay(file: Path, only: Iterable[int] | None = None) -> tuple[list[Replay], list[str]]:
    """Run a certificate again, or some of its runs; also says what is different about this machine."""
    content = read_certificate(file)
    runs = content["runs"]
    again = []
    for number in range(len(runs)) if only is None else only:
        request = Request.from_dict(runs[number]["request"])
        now = json.loads(json.dumps([outcome(each) for each in run_request(request)]))
        again.append(Replay(request, list(zip(runs[number]["results"], now, strict=True))))
    return again, environment_changes(content["environment"], describe_environment())
