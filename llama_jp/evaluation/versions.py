"""What versions of one model lose: each measured beside the original, with one model in memory at a time."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ..model import Llama
from ..text.tokenizer import Tokenizer
from .perplexity import Evaluation, Measurement


class Original:
    """The measurements of a model on a text, and its logits in a temporary file, for comparison with its versions.

    >>> with Original(model, tokenizer, text, convention="documents") as original:
    ...     del model  # a version then has the memory for itself
    ...     original.compare(version).kl

    The arguments are those of `evaluate`. The file holds the logits of all scored tokens in the model's dtype.
    """

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        text: str,
        window: int | None = None,
        stride: int | None = None,
        convention: str = "transformers",
    ) -> None:
        """Raises the errors of `evaluate`, and ValueError if the temporary folder has no room for the logits."""
        self.measurement = Measurement(text, tokenizer, [model], window, stride, convention)
        self.vocab_size, self.dtype = model.config.vocab_size, model.embed_tokens.weight.dtype
        numbers = self.measurement.scored_tokens * self.vocab_size
        self.bytes = numbers * self.dtype.itemsize
        self.folder = tempfile.TemporaryDirectory(prefix="llama-jp-")
        free = shutil.disk_usage(self.folder.name).free
        if self.bytes > free:
            self.close()
            raise ValueError(
                f"the logits of {self.measurement.scored_tokens:,} tokens take {self.bytes:,} bytes, and "
                f"{tempfile.gettempdir()} has {free:,}; use a shorter text, or set TMPDIR to a larger disk"
            )
        file = Path(self.folder.name) / "logits"
        self.logits = torch.from_file(str(file), shared=True, size=numbers, dtype=self.dtype).view(-1, self.vocab_size)
        try:
            self.evaluation = self.measurement.of(self.keep(self.measurement.rows(model)))
        except BaseException:
            self.close()
            raise

    def keep(self, rows: Iterator[Tensor]) -> Iterator[Tensor]:
        """The same rows, written to the file on the way."""
        start = 0
        for each in rows:
            self.logits[start : start + len(each)] = each
            start += len(each)
            yield each

    def kept(self) -> Iterator[Tensor]:
        """The scored rows of each window, from the file."""
        windows = self.measurement.text.windows
        return iter(self.logits.split([int(windows[number].scored.sum()) for number in self.measurement.order]))

    def compare(self, version: Llama) -> Evaluation:
        """Measure a version of the model and its distance from the original.

        Raises ValueError for another vocabulary, a context shorter than the windows, and logits that are not finite.
        """
        V, context, window = version.config.vocab_size, version.config.context_length, self.measurement.window
        if self.vocab_size != V:
            raise ValueError(f"it has {V:,} ids and the original {self.vocab_size:,}, so it is no version of it")
        if window > context:
            raise ValueError(f"its context of {context:,} tokens does not hold windows of {window:,}; use smaller ones")
        return self.measurement.of(self.measurement.rows(version), self.kept())

    def close(self) -> None:
        """Remove the temporary file."""
        self.logits = torch.empty(0, self.vocab_size)
        self.folder.cleanup()

    def __enter__(self) -> Original:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
