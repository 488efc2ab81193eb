"""The mode `tokenizer`: a text through two tokenizers, line by line, and how each of them reads `<s>` in a prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...text.template import DEFAULT_SYSTEM_PROMPT
from ...text.tokenizer import READINGS, Tokenizer
from ..run.models import is_function
from .forward import Comparison
from .generation import parts_at

Encode = Callable[[str], "list[int]"]
PROBE = f"<s>[INST] <<SYS>>\n{DEFAULT_SYSTEM_PROMPT}\n<</SYS>>\n\nクマ [/INST] "


def compare_tokenizers(first: str, second: str, folder: Path, lines: list[str]) -> Comparison:
    """Encode every line on both sides; the first that differs is shown with its pieces."""
    ours = Tokenizer.from_pretrained(folder)
    sides = [encoder(name, folder) for name in (first, second)]
    described = tuple({"name": name, "reading": reading_of(encode, ours)} for name, encode in sides)
    found = Comparison("tokenizer", "equal", described)
    found.details["readings"] = {each["name"]: each["reading"] for each in described}
    found.notes.append(
        "reading of a prompt with <s>: " + ", ".join(f"{side['name']} {side['reading']}" for side in described)
    )
    different = [
        (number, line, *ids)
        for number, line in enumerate([*lines, PROBE])
        if (ids := [encode(line) for _, encode in sides])[0] != ids[1]
    ]
    if not different:
        found.notes.append(f"{len(lines)} lines and ELYZA's prompt have the same ids")
        return found
    number, line, a, b = different[0]
    at = parts_at(a, b)
    where = "ELYZA's prompt" if number == len(lines) else f"line {number + 1}"
    found.verdict = "bug"
    found.notes.append(f"{len(different)} of {len(lines) + 1} lines differ, first {where} at token {at}: {line!r}")
    for (name, _), ids in zip(sides, (a, b), strict=True):
        found.notes.append(f"  {name}: {show(ours, ids[max(0, at - 2) : at + 6])}")
    found.notes.append(f"  likely cause: {cause(a, b, ours, found.details['readings'])}")
    found.details["tokenizer"] = {"where": where, "token": at, "line": line, "ids": [a, b], "lines": len(different)}
    return found


def encoder(spec: str, folder: Path) -> tuple[str, Encode]:
    """A side's name and its encode: with BOS, specials in the text taken for the tokens."""
    if not spec.startswith("transformers"):
        if is_function(spec):
            raise ValueError(f"the mode tokenizer compares checkpoints and transformers; {spec} is a function")
        tokenizer = Tokenizer.from_pretrained(spec)
        return spec, lambda line: tokenizer.encode(line, bos=True, parse_special=True)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ValueError("the reference is transformers, which is not installed: pip install transformers") from None
    reference = AutoTokenizer.from_pretrained(folder)
    return "transformers", lambda line: list(reference(line).input_ids)


def reading_of(encode: Encode, ours: Tokenizer) -> str:
    """Which of the three known readings of the prompt this side follows."""
    bos = [ours.bos_id] if ours.bos_id is not None else []

    def without_bos(ids: list[int]) -> list[int]:
        while bos and ids[:1] == bos:
            ids = ids[1:]
        return ids

    found = without_bos(encode(PROBE))
    for reading in READINGS:
        if without_bos(ours.encode(PROBE, bos=bool(bos), parse_special=True, reading=reading)) == found:
            return reading
    return "none that is known"


def cause(a: list[int], b: list[int], tokenizer: Tokenizer, readings: dict[str, str]) -> str:
    causes = []
    begins = [sum(1 for _ in take_while(ids, tokenizer.bos_id)) for ids in (a, b)]
    if begins[0] != begins[1]:
        causes.append("double BOS" if max(begins) > 1 else "BOS on one side only")
    if len(set(readings.values())) > 1:
        causes.append(f"different readings of the prompt: {' and '.join(readings.values())}")
    return "; ".join(causes) or "different vocabularies or normalisers"


def take_while(ids: list[int], token: int | None):
    for each in ids:
        if each != token:
            return
        yield each


def show(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(
        f"{i} {tokenizer.vocabulary.piece(i)!r}" if i < tokenizer.vocab_size else f"{i} (not in the vocabulary)"
        for i in ids
    )
