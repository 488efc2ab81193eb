"""Texts to calibrate on and to certify with: documents, as rows of ids that a model can read.

Three come with the package (`llama_jp/texts`), made by `weights/demo/make_texts.py`: stories in the form the demo was
trained on, and a page of plain prose. Any UTF-8 file will do. A line of four hyphens ends a document; `<s>` and `</s>`
stand for the tokens. A request, `[INST] … [/INST]`, is read but not counted: nobody asks a model to predict it.
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

TEXTS = Path(__file__).resolve().parent / "texts"

CALIBRATION, HELD_OUT = "calibration.ja.txt", "held-out.ja.txt"

WINDOW = 512  # tokens read at once; what a document has beyond them begins anew with BOS

FEWEST = 200  # tokens; fewer say nothing


class Window(NamedTuple):
    """A document, or a part of one."""

    ids: Tensor  # (1, T)
    counted: Tensor  # (T - 1,) bool: is the token after this one to be predicted?


@dataclass
class Text:
    file: str  # its name, without folders
    sha256: str
    windows: list[Window]

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return sum(int(window.counted.sum()) for window in self.windows)


def find_text(name: str | Path) -> Path:
    """A file, or one of those that come with the package."""
    for file in (Path(name).expanduser(), TEXTS / Path(name).name):
        if file.is_file():
            return file
    bundled = ", ".join(sorted(file.name for file in TEXTS.glob("*.txt")))
    raise FileNotFoundError(f"{name} is no file, and none of the texts that come with the package ({bundled})")


def read_text(name: str | Path, tokenizer: Tokenizer, config: LlamaConfig) -> Text:
    """Raises ValueError when the text is no UTF-8, too short, or cut by a tokenizer of another model."""
    file = find_text(name)
    content = file.read_bytes()
    try:
        documents = content.decode("utf-8").split("\n----\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a UTF-8 text: {error}") from error
    length = min(WINDOW, config.max_position_embeddings)
    windows = [window for document in documents for window in cut(document.strip("\n"), tokenizer, length)]
    text = Text(file.name, hashlib.sha256(content).hexdigest(), windows)
    if text.tokens < FEWEST:
        raise ValueError(f"{file} has {text.tokens} tokens to predict; it takes at least {FEWEST} to say anything")
    if (largest := max(int(window.ids.max()) for window in windows)) >= config.vocab_size:
        raise ValueError(f"the tokenizer gives id {largest}, but the model has {config.vocab_size} ids: not a pair")
    return text


def cut(document: str, tokenizer: Tokenizer, length: int) -> Iterator[Window]:
    """The ids of a document in windows, each beginning with BOS where there is one."""
    ids, counted = [], []
    for turn in re.split("(?=<s>)", document):  # a text between two specials is cut by itself
        own = tokenizer.encode(turn, bos=False, parse_special=True)
        request = re.match(r"(<s>)?\[INST\].*?\[/INST\] ?", turn, re.DOTALL)
        asked = tokenizer.encode(request[0], bos=False, parse_special=True) if request else []
        given = len(os.path.commonprefix([own, asked]))  # the space behind may be one token with what follows
        ids += own
        counted += [i >= given for i in range(len(own))]
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    if ids[:1] == bos:
        ids, counted = ids[1:], counted[1:]
    step = length - len(bos)
    for start in range(0, len(ids), step):
        part = torch.tensor([bos + ids[start : start + step]])
        wanted = torch.tensor([False] * len(bos) + counted[start : start + step])[1:]
        if part.shape[1] > 1:
            yield Window(part, wanted)
