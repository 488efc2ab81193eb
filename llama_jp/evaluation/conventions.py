"""How tools split a text into windows and average the losses of its tokens. The same text has four perplexities.

transformers  windows of `window` tokens, `stride` apart; each scores the tokens that no earlier one has scored
              https://huggingface.co/docs/transformers/perplexity
lm-eval       `loglikelihood_rolling` of the lm-evaluation-harness: disjoint windows, a full context for the last one
llama.cpp     `llama-perplexity`: disjoint windows that begin with BOS; the second half of each is scored
documents     the documents of a text (documents.py): disjoint windows that begin with BOS; requests are not scored
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..text.tokenizer import Tokenizer
from .documents import WINDOW_LENGTH, Window, scored_text, split_into_documents, split_into_windows


@dataclass(frozen=True)
class TextSize:
    """The length of a text. A mean loss per token becomes one per byte by the factor `tokens / bytes`."""

    tokens: int
    bytes: int
    characters: int
    words: int  # parts between white space, as lm-eval counts them

    @classmethod
    def of(cls, text: str, tokens: int) -> TextSize:
        return cls(tokens, len(text.encode("utf-8")), len(text), len(re.split(r"\s+", text)))


@dataclass(frozen=True)
class WindowedText:
    """A text in windows. The loss of the text is the weighted mean of the windows' mean losses."""

    windows: list[Window]
    weights: list[int]
    size: TextSize

    @classmethod
    def of(cls, windows: list[Window], size: TextSize) -> WindowedText:
        """The loss of the text is the mean over its scored tokens."""
        return cls(windows, [int(window.scored.sum()) for window in windows], size)


Split = Callable[[str, Tokenizer, int, int], WindowedText]


def make_window(ids: list[int], first: int) -> Window:
    """A window in which the tokens from index `first` on are scored, except the token at 0, which has no context."""
    return Window(torch.tensor([ids]), torch.arange(1, len(ids)) >= first)


def split_as_transformers(text: str, tokenizer: Tokenizer, window: int, stride: int) -> WindowedText:
    """Windows from every `stride`-th token on. The text begins with BOS once.

    The page weights a window by its number of new tokens minus one, because the model shifts the labels. This is
    right for the first window only: the others lose no token, except where windows do not overlap.
    """
    ids = tokenizer.encode(text, bos=tokenizer.adds_bos, parse_special=True)
    overlapping = overlapping_windows(ids, window, stride)
    windows = [make_window(each, first) for each, first in overlapping]
    weights = [len(each) - first - 1 for each, first in overlapping]
    return WindowedText(windows, weights, TextSize.of(text, len(ids) - (ids[0] == tokenizer.bos_id)))


def overlapping_windows(ids: list[int], window: int, stride: int) -> list[tuple[list[int], int]]:
    """Windows of up to `window` ids, each with the index of its first id that is in no earlier one."""
    windows, end = [], 0
    for begin in range(0, len(ids), stride):
        seen, end = end, min(begin + window, len(ids))
        if end - begin > 1:  # a single id that no window overlaps is not scored; the page's loop gives NaN there
            windows.append((ids[begin:end], seen - begin))
        if end == len(ids):
            break
    return windows


def split_as_lm_eval(text: str, tokenizer: Tokenizer, window: int, stride: int) -> WindowedText:
    """Every token is predicted from up to `window` tokens. The first one follows BOS, or EOS if there is no BOS.

    lm-eval lets the tokenizer add BOS as well, so the first predicted token of a Llama is a second BOS.
    """
    prefix = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    if prefix is None:
        raise ValueError("the tokenizer has neither BOS nor EOS, one of which lm-eval puts before the text")
    ids = tokenizer.encode(text, bos=tokenizer.adds_bos, parse_special=True)
    windows = [make_window(ids, first) for ids, first in rolling_windows([prefix, *ids], window)]
    return WindowedText.of(windows, TextSize.of(text, len(ids)))


def rolling_windows(ids: list[int], window: int) -> list[tuple[list[int], int]]:
    """Windows of up to `window` + 1 ids, each with the index of its first scored token. The ids begin with a prefix.

    All windows are disjoint but the last, which is as long as the others. Reference: `get_rolling_token_windows`.
    """
    windows = []
    for first in range(1, len(ids), window):
        end = min(first + window, len(ids))
        begin = max(0, end - window - 1)
        windows.append((ids[begin:end], first - begin))
    return windows


def split_as_llama_cpp(text: str, tokenizer: Tokenizer, window: int, stride: int) -> WindowedText:
    """Whole windows only: the rest of the text is left out. BOS takes the place of the first token of each window.

    Raises ValueError for a text of fewer than two windows, as llama-perplexity does.
    """
    bos = tokenizer.encode("", bos=tokenizer.adds_bos)
    ids = bos + tokenizer.encode(text, bos=False)
    if len(ids) < 2 * window:
        raise ValueError(
            f"the text has {len(ids)} tokens, and llama.cpp's convention needs two windows, {2 * window}; "
            f"take a window of at most {len(ids) // 2}, or a longer text"
        )
    if window < 3:
        raise ValueError(f"a window of {window} has no token to score in its second half; take at least 3")
    windows = [
        make_window([*bos, *ids[begin + len(bos) : begin + window]], window // 2 + 1)
        for begin in range(0, len(ids) - window + 1, window)
    ]
    return WindowedText.of(windows, TextSize.of(text, len(ids) - len(bos)))


def split_as_documents(text: str, tokenizer: Tokenizer, window: int, stride: int) -> WindowedText:
    """The windows of documents.py, which certificates use as well."""
    documents = split_into_documents(text)
    windows = [each for document in documents for each in split_into_windows(document, tokenizer, window)]
    windows = [each for each in windows if each.scored.any()]
    tokens = sum(int(each.scored.sum()) for each in windows)
    return WindowedText.of(windows, TextSize.of("".join(map(scored_text, documents)), tokens))


@dataclass(frozen=True)
class Convention:
    """A way to split a text.

    default_window  None: as many tokens as the model's context holds
    overlaps        whether the windows overlap, so that there is a stride
    """

    split: Split
    default_window: int | None = None
    overlaps: bool = False


CONVENTIONS = {
    "transformers": Convention(split_as_transformers, overlaps=True),
    "lm-eval": Convention(split_as_lm_eval),
    "llama.cpp": Convention(split_as_llama_cpp, default_window=512),
    "documents": Convention(split_as_documents, default_window=WINDOW_LENGTH),
}


def resolve_window(convention: str, window: int | None, stride: int | None, context: int) -> tuple[int, int]:
    """The window and the stride in tokens. Raises ValueError for values that the convention or the model does not take.

    By default, the stride is half the window, or the whole window where windows do not overlap.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"the convention is {convention!r}; it can be {', '.join(map(repr, CONVENTIONS))}")
    chosen = CONVENTIONS[convention]
    if stride is not None and not chosen.overlaps:
        raise ValueError(f"the windows of the convention {convention} do not overlap, so it takes no stride")
    if window is None:
        window = min(chosen.default_window or context, context)
    if window < 2:
        raise ValueError(f"a window of {window} predicts no token; take at least 2")
    if window > context:
        raise ValueError(f"a window of {window} tokens does not fit into the model's context of {context}")
    if stride is None:
        stride = max(2, window // 2) if chosen.overlaps else window
    if stride > window:
        raise ValueError(f"a stride of {stride} skips tokens between windows of {window}; take at most {window}")
    if stride < 2:
        raise ValueError(f"a stride of {stride} gives every window but the first the weight 0; take at least 2")
    return window, stride
