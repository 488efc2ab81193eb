"""The mode `tokenizer`: encode a text line by line with two tokenizers, and find their segmentation of a prompt.

The prompt has `<s>` in it. The segmentations are those of `Tokenizer.encode`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path

from ...checkpoint.saved_files import copy_tokenizer
from ...text.template import DEFAULT_SYSTEM_PROMPT
from ...text.tokenizer import SEGMENTATIONS, Tokenizer
from ...text.vocabulary import first_difference
from ..comparison import Comparison
from ..run.models import ModelDescription, spec_kind

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
    segmentation_a, segmentation_b = segmentation_of(encode_a, tokenizer), segmentation_of(encode_b, tokenizer)
    models = (
        ModelDescription(name_a, segmentation=segmentation_a),
        ModelDescription(name_b, segmentation=segmentation_b),
    )
    found = Comparison("tokenizer", "equal", models)
    found.details["segmentations"] = {name_a: segmentation_a, name_b: segmentation_b}
    found.notes.append(f"segmentation of a prompt with <s>: {name_a} {segmentation_a}, {name_b} {segmentation_b}")
    difference = find_line(encode_a, encode_b, lines)
    if difference is None:
        found.notes.append(f"{len(lines)} lines and ELYZA's prompt have equal ids")
        return found

    documented = explained_by_segmentations(encode_a, encode_b, (segmentation_a, segmentation_b), tokenizer, lines)
    found.verdict = "documented difference" if documented else "bug"
    found.details["tokenizer"] = asdict(difference)
    token, (a, b) = difference.token, difference.ids
    cause = likely_cause(a, b, tokenizer, segmentation_a, segmentation_b)
    found.notes += [
        f"{difference.lines} of {len(lines) + 1} lines differ; "
        f"first: {difference.where} at token {token}: {difference.line!r}",
        f"  {name_a}: {show_pieces(tokenizer, a[max(0, token - 2) : token + 6])}",
        f"  {name_b}: {show_pieces(tokenizer, b[max(0, token - 2) : token + 6])}",
        "  documented: both segmentations are known, and explain every difference (docs/parity.md, The tokenizer)"
        if documented
        else f"  likely cause: {cause}",
    ]
    return found


def explained_by_segmentations(
    encode_a: Encode, encode_b: Encode, segmentations: tuple[str, str], tokenizer: Tokenizer, lines: list[str]
) -> bool:
    """Whether the two segmentations are known and different, and give the ids of every line that differs.

    Some tokenizers put a second BOS before a text that begins with `<s>`, as part of their segmentation. They put none
    before an ordinary line: the one here guards against a BOS too many or too few.
    """
    if segmentations[0] == segmentations[1] or "unknown" in segmentations:
        return False
    for line in [*lines, "クマ", PROMPT]:
        a, b = encode_a(line), encode_b(line)
        if a == b:
            continue
        expected = [encode_as(segmentation, tokenizer, line) for segmentation in segmentations]
        pairs = list(zip((a, b), expected, strict=True))
        if line.startswith("<s>"):
            pairs = [(without_bos(x, tokenizer), without_bos(y, tokenizer)) for x, y in pairs]
        if any(x != y for x, y in pairs):
            return False
    return True


def encode_as(segmentation: str, tokenizer: Tokenizer, line: str) -> list[int]:
    """The ids of a line in one segmentation."""
    return tokenizer.encode(line, bos=tokenizer.adds_bos, parse_special=True, segmentation=segmentation)


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
    if spec_kind(spec) != "transformers":
        others = {"function": "a function", "llama.cpp": "a model in llama.cpp", "checkout": "a checkout"}
        if kind := others.get(spec_kind(spec)):
            raise ValueError(f"the mode tokenizer compares checkpoints and transformers; {spec} is {kind}")
        tokenizer = Tokenizer.from_pretrained(spec)
        return spec, lambda line: tokenizer.encode(line, parse_special=True)
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise ValueError("the reference is transformers, which is not installed: pip install transformers") from None
    try:
        with tempfile.TemporaryDirectory() as derived:
            if folder.is_file():  # a GGUF file; transformers' own reader loses rules of its vocabulary
                copy_tokenizer(folder, Path(derived))
                folder = Path(derived)
            reference = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # of many types, for a file that transformers does not take
        raise ValueError(f"transformers cannot load the tokenizer of {folder}: {error}") from error
    return "transformers", lambda line: list(reference(line).input_ids)


def segmentation_of(encode: Encode, tokenizer: Tokenizer) -> str:
    """The known segmentation that gives the same ids for ELYZA's prompt, without the BOS tokens at the start."""
    expected = without_bos(encode(PROMPT), tokenizer)
    for segmentation in SEGMENTATIONS:
        if without_bos(encode_as(segmentation, tokenizer, PROMPT), tokenizer) == expected:
            return segmentation
    return "unknown"


def without_bos(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """The ids after the BOS tokens at the start."""
    return ids[count_bos(ids, tokenizer) :]


def count_bos(ids: list[int], tokenizer: Tokenizer) -> int:
    """The number of BOS tokens at the start."""
    return len(list(takewhile(lambda token: token == tokenizer.bos_id, ids)))


def likely_cause(a: list[int], b: list[int], tokenizer: Tokenizer, segmentation_a: str, segmentation_b: str) -> str:
    causes = []
    bos_a, bos_b = count_bos(a, tokenizer), count_bos(b, tokenizer)
    if bos_a != bos_b:
        causes.append("double BOS" if max(bos_a, bos_b) > 1 else "BOS in one model only")
    if segmentation_a != segmentation_b:
        causes.append(f"different segmentations of the prompt: {segmentation_a} and {segmentation_b}")
    return "; ".join(causes) or "different vocabularies or normalisers"


def show_pieces(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(
        f"{i} {tokenizer.vocabulary.display(i)!r}" if i < tokenizer.vocab_size else f"{i} (not in the vocabulary)"
        for i in ids
    )
