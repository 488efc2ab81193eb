"""Texts for calibration and evaluation, as windows of token ids.

A text is any UTF-8 file. A line of four hyphens ends a document; `<s>` and `</s>` stand for the tokens. A request,
`[INST] … [/INST]`, is context only: its tokens are not scored, because a model answers requests and never writes them.

Three texts come with the package (`llama_jp/evaluation/texts`), written by `weights/demo/make_texts.py`. Two have
stories in the form of the demo model's training data, and one has plain prose.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..model import LlamaConfig
from ..text.tokenizer import Tokenizer
from ..text_files import decode_text

TEXTS = Path(__file__).resolve().parent / "texts"

CALIBRATION, HELD_OUT = "calibration.ja.txt", "held-out.ja.txt"

WINDOW_LENGTH = 512  # tokens; a longer document continues in a new window

MIN_SCORED_TOKENS = 200  # fewer give no meaningful mean

REQUEST = re.compile(r"(<s>)?\[INST\].*?\[/INST\] ?", re.DOTALL)


class Window(NamedTuple):
    """A document, or a part of one, that a model processes in one call."""

    ids: Tensor  # (1, T) int64
    scored: Tensor  # (T - 1,) bool: whether the prediction of token t + 1 counts


@dataclass
class Text:
    """A tokenized text file."""

    file: str  # its name without folders
    sha256: str
    windows: list[Window]

    @property
    def scored_tokens(self) -> int:
        """The number of tokens whose prediction counts."""
        return sum(int(window.scored.sum()) for window in self.windows)


def find_text(name: str | Path) -> Path:
    """The path of a text: a file, or the name of a text of the package.

    Raises FileNotFoundError with the names of these texts, and ValueError for a folder.
    """
    for file in (Path(name).expanduser(), TEXTS / Path(name).name):
        if file.is_file():
            return file
    if Path(name).is_dir():
        raise ValueError(f"{name} is a folder; name a text file")
    bundled = ", ".join(sorted(file.name for file in TEXTS.glob("*.txt")))
    raise FileNotFoundError(f"there is no file {name}; the texts of the package are {bundled}")


def read_text(name: str | Path, tokenizer: Tokenizer, config: LlamaConfig) -> Text:
    """Tokenize a text file and split it into windows.

    name    a file, or the name of a text of the package
    config  of the model: it limits the window length and the largest token id

    Raises FileNotFoundError for an unknown name. Raises ValueError when the file is not UTF-8, has too few tokens, or
    gives ids outside the model's vocabulary.
    """
    file = find_text(name)
    content = file.read_bytes()
    documents = split_into_documents(decode_text(content, str(file)))
    length = min(WINDOW_LENGTH, config.max_position_embeddings)
    windows = [window for document in documents for window in split_into_windows(document, tokenizer, length)]
    text = Text(file.name, hashlib.sha256(content).hexdigest(), windows)
    if text.scored_tokens < MIN_SCORED_TOKENS:
        raise ValueError(
            f"{file} has {text.scored_tokens} tokens to predict; at least {MIN_SCORED_TOKENS} are needed, "
            "so use a longer text"
        )
    largest = max(int(window.ids.max()) for window in windows)
    if largest >= config.vocab_size:
        raise ValueError(
            f"the tokenizer gives id {largest}, but the model has {config.vocab_size} ids; "
            "use the tokenizer of this model"
        )
    return text


def split_into_documents(content: str) -> list[str]:
    """The documents of a text, which lines of four hyphens separate."""
    return [document.strip("\n") for document in content.split("\n----\n")]


def split_into_turns(document: str) -> list[tuple[str, str]]:
    """The turns of a document, each as (the whole text, the request at its beginning or "")."""
    turns = re.split("(?=<s>)", document)
    return [(turn, request[0] if (request := REQUEST.match(turn)) else "") for turn in turns]


def scored_text(document: str) -> str:
    """The text of a document whose tokens are scored, without special tokens."""
    return re.sub("</?s>", "", "".join(turn.removeprefix(request) for turn, request in split_into_turns(document)))


def split_into_windows(document: str, tokenizer: Tokenizer, length: int) -> Iterator[Window]:
    """Tokenize one document and split it into windows of at most `length` tokens, each with BOS if there is one."""
    ids: list[int] = []
    scored: list[bool] = []
    # The tokenizer encodes the text between two special tokens by itself, so a split at <s> does not change the ids.
    for turn, request in split_into_turns(document):
        turn_ids = tokenizer.encode(turn, bos=False, parse_special=True)
        request_ids = tokenizer.encode(request, bos=False, parse_special=True)
        # The space after [/INST] may be one token with the text after it. That token is scored.
        unscored = len(os.path.commonprefix([turn_ids, request_ids]))
        ids += turn_ids
        scored += [i >= unscored for i in range(len(turn_ids))]
    bos = tokenizer.encode("", bos=tokenizer.adds_bos)
    if ids[:1] == bos:
        ids, scored = ids[1:], scored[1:]
    step = length - len(bos)
    for start in range(0, len(ids), step):
        window_ids = torch.tensor([bos + ids[start : start + step]])  # (1, T)
        window_scored = torch.tensor([False] * len(bos) + scored[start : start + step])[1:]  # (T - 1,)
        if window_ids.shape[1] > 1:
            yield Window(window_ids, window_scored)
