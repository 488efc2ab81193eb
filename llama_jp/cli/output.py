"""An answer as streamed text, as a whole text and as JSON; the report of its length and speed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.recognise import FILE_SUFFIXES
from ..generation.interface import TextGeneration
from ..generation.results import Generation
from ..generation.stop_strings import StopStringBuffer
from ..text.tokenizer import Tokenizer
from .language import translate


def write_pieces(pieces: Iterable[str]) -> None:
    """Write each piece of text to standard output as soon as it is there, then a line end."""
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print(flush=True)


def speed_report(
    stream: TextGeneration,
    prompt_tokens: int,
    options: Mapping[str, Any],
    *,
    cached: int = 0,
    interrupted: bool = False,
) -> str:
    """One line: tokens of the prompt and of the answer, finish reason, seconds to the first token, tokens per second.

    cached  the number of prompt tokens that came from the KV cache
    """
    answer, (first, rest) = stream.generation, stream.seconds
    reason = "interrupted" if interrupted else answer.finish_reason
    parts = [f"{prompt_tokens} prompt tokens" + (f" ({cached} cached)" if cached else "")]
    parts.append(f"{len(answer.ids)} new ({reason})")
    if answer.ids:
        parts.append(f"first after {first:.2f} s")
    if rest > 0:
        parts.append(f"{(len(answer.ids) - 1) / rest:.1f} tokens/s")
    if answer.drafted:
        parts.append(f"{answer.accepted} of {answer.drafted} draft tokens accepted in {answer.passes} model calls")
    if "seed" in options:
        parts.append(f"seed {options['seed']}")
    return translate(", ").join(map(translate, parts))


def answer_text(tokenizer: Tokenizer, prompt: list[int], answer: Generation, stop_strings: list[str] | None) -> str:
    """The text of an answer, without its stop string."""
    buffer = StopStringBuffer(tokenizer, stop_strings, prompt)
    for token in answer.ids:
        buffer.push(token)
    return buffer.finish()


def as_dict(answer: Generation, text: str) -> dict[str, Any]:
    """An answer for JSON. Fields that this kind of generation does not fill are left out."""
    content: dict[str, Any] = {"text": text, "finish_reason": answer.finish_reason}
    content |= {"ids": answer.ids, "logprobs": answer.logprobs}
    if answer.top_logprobs:
        content["top_logprobs"] = answer.top_logprobs
    if answer.sequence_score is not None:
        content["sequence_score"] = answer.sequence_score
    if answer.drafted:
        content |= {"drafted": answer.drafted, "accepted": answer.accepted, "passes": answer.passes}
    return content


def check_writable(target: Path) -> None:
    """Raise ValueError if nothing can be written beside the target: before hours of work, not after."""
    target = target.absolute()
    folder = next((folder for folder in target.parents if folder.exists()), target)  # "/" has no parents
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        kind = "is not writable" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} {kind}, so {target.name} cannot be written there; choose another place")


def check_folder_name(target: Path, gguf: str) -> None:
    """Raise ValueError for a folder with the name of a weight file, which a person means to write.

    gguf  the end of the sentence for a GGUF file: "; " and how to write one
    """
    suffix = target.suffix.lower()
    if suffix in FILE_SUFFIXES:
        way_out = gguf if suffix == ".gguf" else ""
        raise ValueError(f"{target} names a file, but a folder is written; name it {target.with_suffix('')}{way_out}")


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 turn, 2 turns."""
    return f"{number} {noun}{'s' * (number != 1)}"
