"""The mode `tokenizer`: encode a text line by line with two tokenizers, and find their reading of `<s>` in a prompt.

The readings are those of `Tokenizer.encode`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from ...checkpoint.parts import is_function_name
from ...text.template import DEFAULT_SYSTEM_PROMPT
from ...text.tokenizer import SEGMENTATIONS, Tokenizer
from ..comparison import Comparison
from ..run.models import ModelDescription
from .generation import first_difference

Encode = Callable[[str], "list[int]"]
PROMPT = f"<s>[INST] <<SYS>>\n{DEFAULT_SYSTEM_PROMPT}\n<</SYS>>\n\nクマ [/INST] "


@dataclass
class LineDifference:
    """The first line with different ids."""

    where: str
    token: int  # the index of the first id that differs
    line: str
    ids: tuple[list[int], list[int]]
    lines: int  # how many lines differ


def compare_tokenizers(first: str, second: str, folder: Path, lines: list[str]) -> Comparison:
    """Encode every line and ELYZA's prompt with both tokenizers, and show the first line that differs.

    first, second  a checkpoint, or transformers for its tokenizer of the checkpoint in `folder`
    folder         the checkpoint whose vocabulary names the pieces

    Raises ValueError for a function, which has no tokenizer.
    """
    tokenizer = Tokenizer.from_pretrained(folder)
    name_a, encode_a = open_encoder(first, folder)
    name_b, encode_b = open_encoder(second, folder)
    reading_a, reading_b = reading_of(encode_a, tokenizer), reading_of(encode_b, tokenizer)
    models = ModelDescription(name_a, reading=reading_a), ModelDescription(name_b, reading=reading_b)
    found = Comparison("tokenizer", "equal", models)
    found.details["readings"] = {name_a: reading_a, name_b: reading_b}
    found.notes.append(f"reading of a prompt with <s>: {name_a} {reading_a}, {name_b} {reading_b}")
    difference = find_line(encode_a, encode_b, lines)
    if difference is None:
        found.notes.append(f"{len(lines)} lines and ELYZA's prompt have equal ids")
        return found

    documented = explained_by_readings(encode_a, encode_b, (reading_a, reading_b), tokenizer, lines)
    found.verdict = "documented difference" if documented else "bug"
    found.details["tokenizer"] = asdict(difference)
    token, (a, b) = difference.token, difference.ids
    cause = likely_cause(a, b, tokenizer, reading_a, reading_b)
    found.notes += [
        f"{difference.lines} of {len(lines) + 1} lines differ; "
        f"first: {difference.where} at token {token}: {difference.line!r}",
        f"  {name_a}: {show_pieces(tokenizer, a[max(0, token - 2) : token + 6])}",
        f"  {name_b}: {show_pieces(tokenizer, b[max(0, token - 2) : token + 6])}",
        "  documented: both readings are known, and explain every difference (docs/parity.md, The tokenizer)"
        if documented
        else f"  likely cause: {cause}",
    ]
    return found


def explained_by_readings(
    encode_a: Encode, encode_b: Encode, readings: tuple[str, str], tokenizer: Tokenizer, lines: list[str]
) -> bool:
    """Whether the two readings are known and different, and give the ids of every line that differs.

    A text that begins with `<s>` has a second BOS from some tokenizers, and that is part of their reading. An ordinary
    line has not: the one here guards against a BOS too many or too few.
    """
    if readings[0] == readings[1] or "unknown" in readings:
        return False
    for line in [*lines, "クマ", PROMPT]:
        a, b = encode_a(line), encode_b(line)
        if a == b:
            continue
        expected = [encode_as(reading, tokenizer, line) for reading in readings]
        pairs = list(zip((a, b), expected, strict=True))
        if line.startswith("<s>"):
            pairs = [(without_bos(x, tokenizer), without_bos(y, tokenizer)) for x, y in pairs]
        if any(x != y for x, y in pairs):
            return False
    return True


def encode_as(reading: str, tokenizer: Tokenizer, line: str) -> list[int]:
    """The ids of a line in one reading of special tokens."""
    return tokenizer.encode(line, bos=tokenizer.bos_id is not None, parse_special=True, segmentation=reading)


def find_line(encode_a: Encode, encode_b: Encode, lines: list[str]) -> LineDifference | None:
    """The first line or prompt with different ids, and the number of such lines."""
    first: LineDifference | None = None
    for number, line in enumerate([*lines, PROMPT]):
        a, b = encode_a(line), encode_b(line)
        token = first_difference(a, b)
        if token is None:
            continue
        if first is None:
            where = "ELYZA's prompt" if number == len(lines) else f"line {number + 1}"
            first = LineDifference(where, token, line, (a, b), 0)
        first.lines += 1
    return first


def open_encoder(spec: str, folder: Path) -> tuple[str, Encode]:
    """The name and the encode function of a tokenizer. It adds BOS, and parses special tokens in the text."""
    if not spec.startswith("transformers"):
        if is_function_name(spec):
            raise ValueError(f"the mode tokenizer compares checkpoints and transformers; {spec} is a function")
        tokenizer = Tokenizer.from_pretrained(spec)
        return spec, lambda line: tokenizer.encode(line, bos=True, parse_special=True)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ValueError("the reference is transformers, which is not installed: pip install transformers") from None
    try:
        reference = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of many types, for a file that transformers does not take
        raise ValueError(f"transformers cannot load the tokenizer of {folder}: {error}") from error
    return "transformers", lambda line: list(reference(line).input_ids)


def reading_of(encode: Encode, tokenizer: Tokenizer) -> str:
    """The known reading of special tokens that gives the same ids for ELYZA's prompt, leading BOS tokens aside."""
    expected = without_bos(encode(PROMPT), tokenizer)
    for reading in SEGMENTATIONS:
        if without_bos(encode_as(reading, tokenizer, PROMPT), tokenizer) == expected:
            return reading
    return "unknown"


def without_bos(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The ids after the BOS tokens at the start."""
    return ids[count_bos(ids, tokenizer) :]


def count_bos(ids: list[int], tokenizer: Tokenizer) -> int:
    """The number of BOS tokens at the start."""
    return len(list(takewhile(lambda token: token == tokenizer.bos_id, ids)))


def likely_cause(a: list[int], b: list[int], tokenizer: Tokenizer, reading_a: str, reading_b: str) -> str:
    causes = []
    bos_a, bos_b = count_bos(a, tokenizer), count_bos(b, tokenizer)
    if bos_a != bos_b:
        causes.append("double BOS" if max(bos_a, bos_b) > 1 else "BOS in one model only")
    if reading_a != reading_b:
        causes.append(f"different readings of the prompt: {reading_a} and {reading_b}")
    return "; ".join(causes) or "different vocabularies or normalisers"


def show_pieces(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(
        f"{i} {tokenizer.vocabulary.piece(i)!r}" if i < tokenizer.vocab_size else f"{i} (not in the vocabulary)"
        for i in ids
    )
