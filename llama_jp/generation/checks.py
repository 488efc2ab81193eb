"""Checks of option values: one sentence for each mistake."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsIndex


def check_range(
    name: str,
    value: float | None,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    whole: bool = False,
    hint: str = "",
) -> None:
    """Raise ValueError for a number outside its range. None means "not set" and passes."""
    if value is None:
        return
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not number or not (value > above and least <= value <= most and value < below):
        kind = "a whole number" if whole else "a number"
        limits = [f"above {above:g}"] * (above > -math.inf) + [f"below {below:g}"] * (below < math.inf)
        limits += [f"of at least {least:g}"] * (least > -math.inf) + [f"of at most {most:g}"] * (most < math.inf)
        needed = f"{kind} {' and '.join(limits)}".strip()
        raise ValueError(f"{name} has to be {needed}, not {value!r}{hint}")


def check_ids(name: str, ids: Sequence[int], V: int | None = None) -> None:
    """Raise ValueError for a value that is not an id, or not an id of a vocabulary of V."""
    limit = math.inf if V is None else V
    wrong = [token for token in ids if not isinstance(token, SupportsIndex) or not 0 <= int(token) < limit]
    if wrong:
        numbers = "whole numbers from 0 on" if V is None else f"whole numbers from 0 to {V - 1}"
        raise ValueError(f"{name} has {wrong}, but ids are {numbers}")


def check_forced(name: str, forced: int | Sequence[int] | None, suppressed: Sequence[int] | None) -> None:
    """Raise ValueError for a token that is forced and suppressed: no token would be left."""
    ids = as_ids(forced)
    if ids and set(ids) <= set(suppressed or ()):
        raise ValueError(f"{name} forces {ids}, but suppress_tokens forbids it; remove one of the two")


def as_ids(given: int | Sequence[int] | None) -> list[int]:
    """One id, several or none, as a list."""
    return [] if given is None else [given] if isinstance(given, int) else list(given)
