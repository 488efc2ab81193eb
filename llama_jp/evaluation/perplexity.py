"""Loss, perplexity and bits per byte of a model on a text, and the distance from a reference model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..model import Llama
from ..text.tokenizer import Tokenizer
from .conventions import CONVENTIONS, TextSize, WindowedText, resolve_window
from .divergence import DivergenceSums, TopDifference, scored_blocks, scored_rows
from .documents import Window
from .logits import batch_by_length, batched_logits

TOKENS_BEFORE = 20  # of the text that `FirstDifference` shows before the position


@dataclass(frozen=True)
class FirstDifference:
    """The first token for which a model and its reference have different most probable tokens.

    If the reference is a published answer and no model, the margin is measured in the model.
    """

    position: int  # the number of scored tokens before it
    text_before: str  # the end of the text before it
    token: int  # the model's most probable token, then its piece
    piece: str
    reference_token: int  # the reference's
    reference_piece: str
    margin: float  # nats between the log probabilities of the two, in the reference; near 0: a near tie


@dataclass(frozen=True)
class Evaluation:
    """The measurements of a model on a text, in one convention (see conventions.py).

    Perplexities of models with different vocabularies do not compare; their bits per byte and per character do.
    """

    loss: float  # mean of -log p(token), in nats per token
    perplexity: float  # exp(loss)
    bits_per_byte: float  # of the text in UTF-8
    bits_per_character: float
    tokens: int  # scored ones
    size: TextSize
    convention: str
    window: int  # tokens
    stride: int  # tokens from the beginning of a window to the next one
    kl: float | None = None  # KL divergence from the reference, in nats per scored token: sum of p log(p / q)
    kl_99: float | None = None  # 99 % of the tokens have at most this divergence
    kl_max: float | None = None  # the largest divergence of a token
    top1: float | None = None  # share of scored tokens with the same most probable token, 0 … 1
    first_difference: FirstDifference | None = None  # None: top1 is 1
    against: Evaluation | None = None  # the reference's own measurements

    @property
    def byte_perplexity(self) -> float:
        """exp of the loss per byte, as lm-eval's `byte_perplexity`."""
        return 2**self.bits_per_byte

    @property
    def character_perplexity(self) -> float:
        """exp of the loss per character; it compares between vocabularies."""
        return 2**self.bits_per_character

    @property
    def word_perplexity(self) -> float:
        """exp of the loss per word, as lm-eval's `word_perplexity`. Words are what white space separates."""
        return exp(self.loss * self.size.tokens / self.size.words)

    def as_dict(self) -> dict[str, Any]:
        """The measurements for JSON, without the settings and the reference's own measurements."""
        names = ["loss", "perplexity", "bits_per_byte", "bits_per_character", "tokens"]
        content = {name: getattr(self, name) for name in names}
        if self.convention == "lm-eval":
            content |= {"byte_perplexity": self.byte_perplexity, "word_perplexity": self.word_perplexity}
        if self.kl is not None:
            first = self.first_difference
            content |= {"kl": self.kl, "kl_99": self.kl_99, "kl_max": self.kl_max, "top1": self.top1}
            content |= {"first_difference": None if first is None else asdict(first)}
        return content


def evaluate(
    model: Llama,
    tokenizer: Tokenizer,
    text: str,
    against: Llama | None = None,
    window: int | None = None,
    stride: int | None = None,
    convention: str = "transformers",
) -> Evaluation:
    """Measure how well a model predicts a text, and how far it is from a reference model.

    text        of any length; it is split into windows
    against     the reference, with the same tokenizer; the result then has kl, top1 and first_difference
    window      tokens that the model sees at most; default: the whole context, or 512 for "llama.cpp" and "documents"
    stride      tokens from one window to the next; default: half a window. For "transformers" only
    convention  "transformers", "lm-eval", "llama.cpp" or "documents": the tool whose numbers these are, see
                conventions.py

    Probabilities are float64, from logits in the model's dtype. Logits are computed in batches of windows, so their
    memory does not depend on the length of the text.

    Raises ValueError for a text without a token to score, for ids or a reference outside the model's vocabulary, for a
    window that the context does not hold, and for logits that are not finite.
    """
    if against is None:
        measurement = Measurement(text, tokenizer, [model], window, stride, convention)
        return measurement.of(measurement.rows(model))
    check_reference(model, against)
    measurement = Measurement(text, tokenizer, [against, model], window, stride, convention)
    return measurement.of(measurement.rows(model), measurement.rows(against))


class Measurement:
    """A text in windows, on which several models are measured."""

    def __init__(
        self,
        text: str,
        tokenizer: Tokenizer,
        models: Sequence[Llama],
        window: int | None,
        stride: int | None,
        convention: str,
    ) -> None:
        """The models decide the default window, the first one also the batches. The rest is as in `evaluate`."""
        if not text:
            raise ValueError("the text is empty, so there is nothing to measure")
        context = min(model.config.context_length for model in models)
        self.window, self.stride = resolve_window(convention, window, stride, context)
        self.text = CONVENTIONS[convention].split(text, tokenizer, self.window, self.stride)
        self.tokenizer, self.convention = tokenizer, convention
        for model in models:
            check_windows(self.text, model)
        self.inputs = [window.ids[0, :-1].tolist() for window in self.text.windows]  # the last token is only predicted
        self.batches = batch_by_length([len(row) for row in self.inputs], models[0].config)
        self.order = [number for batch in self.batches for number in batch]

    @property
    def scored_tokens(self) -> int:
        return sum(int(window.scored.sum()) for window in self.text.windows)

    def rows(self, model: Llama) -> Iterator[Tensor]:
        """The scored rows (N, V) of a model's logits, window by window."""
        windows = [self.text.windows[number] for number in self.order]
        return scored_rows(windows, batched_logits(model, self.inputs, self.batches))

    def of(self, rows: Iterable[Tensor], reference: Iterable[Tensor] | None = None) -> Evaluation:
        """The measurements from the scored rows of a model, and its distance from a reference if there is one."""
        sources = [rows] if reference is None else [reference, rows]
        sums = DivergenceSums()
        by_window = [[0.0] * len(self.inputs) for _ in sources]
        windows = [self.text.windows[number] for number in self.order]
        for block in scored_blocks(windows, *sources, title="evaluating", numbers=self.order):
            losses = block.losses() if reference is None else sums.add(block)
            for window_losses, loss in zip(by_window, losses, strict=True):
                window_losses[block.window] += loss
        *of_reference, loss = (self.mean(each) for each in by_window)
        if not of_reference:
            return self.evaluation(loss)
        tokens, first = self.scored_tokens, sums.first_difference
        by_token = torch.cat(sums.by_token)
        return self.evaluation(
            loss,
            kl=sums.divergence / tokens,
            kl_99=by_token.kthvalue(math.ceil(0.99 * tokens)).values.item(),
            kl_max=by_token.max().item(),
            top1=sums.agreeing / tokens,
            first_difference=first and locate(first, self.text.windows, self.tokenizer),
            against=self.evaluation(*of_reference),
        )

    def mean(self, by_window: Sequence[float]) -> float:
        """The loss per token from the sum of each window."""
        means = [
            weight / int(window.scored.sum()) * loss
            for weight, window, loss in zip(self.text.weights, self.text.windows, by_window, strict=True)
        ]
        loss = sum(means) / sum(self.text.weights)
        if not math.isfinite(loss):
            raise ValueError(
                "the loss is not finite: the model's logits hold NaN or infinity; load it with another dtype, and if "
                "that does not help, the weights hold NaN or infinity"
            )
        return loss

    def evaluation(self, loss: float, **compared: Any) -> Evaluation:
        size = self.text.size
        bits = loss * size.tokens / math.log(2)
        return Evaluation(
            loss=loss,
            perplexity=exp(loss),
            bits_per_byte=bits / size.bytes,
            bits_per_character=bits / size.characters,
            tokens=self.scored_tokens,
            size=size,
            convention=self.convention,
            window=self.window,
            stride=self.stride,
            **compared,
        )


def check_windows(text: WindowedText, model: Llama) -> None:
    """Raise ValueError for a text without a token to score, and for ids outside the model's vocabulary."""
    if not any(text.weights) or not text.size.bytes:
        raise ValueError("the text has no token to score: a token needs one before it; use a longer text")
    largest = max(int(window.ids.max()) for window in text.windows)
    if largest >= model.config.vocab_size:
        raise ValueError(
            f"the tokenizer gives id {largest}, but the model has {model.config.vocab_size} ids; "
            "use the tokenizer of this model"
        )


def check_reference(model: Llama, reference: Llama) -> None:
    """Raise ValueError if the two models predict different vocabularies."""
    V, reference_V = model.config.vocab_size, reference.config.vocab_size
    if reference_V != V:
        raise ValueError(
            f"the model has {V} ids and the reference {reference_V}, so there is no KL divergence; measure each with "
            "its own tokenizer, and compare bits per byte or per character"
        )


def locate(first: TopDifference, windows: Sequence[Window], tokenizer: Tokenizer) -> FirstDifference:
    """The place of a difference in the text."""
    before = sum(int(window.scored.sum()) for window in windows[: first.window])
    window = windows[first.window]
    ids = window.ids[0, : first.row + 1].tolist()
    piece, reference_piece = tokenizer.pieces([first.token, first.reference])
    return FirstDifference(
        position=before + int(window.scored[: first.row].sum()),
        text_before=tokenizer.decode(ids[-TOKENS_BEFORE:]),
        token=first.token,
        piece=piece,
        reference_token=first.reference,
        reference_piece=reference_piece,
        margin=first.margin,
    )


def exp(x: float) -> float:
    """exp(x), or infinity where a float cannot hold it: the loss of a long text without white space is one word's."""
    return math.exp(x) if x < 709 else math.inf
