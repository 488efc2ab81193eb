"""Stop sequences of evaluation harnesses, which are searched in the answer only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..generation.stopping import Criterion
from ..text.tokenizer import Tokenizer


def stop_after(stops: Sequence[str], tokenizer: Tokenizer, begin: int) -> Criterion:
    """A stopping criterion: the answer, which starts at index `begin` of the ids, has a stop sequence near its end.

    A stop string of the option `stop_strings` may begin in the prompt; a harness's stop sequence does not.
    """
    longest = 2 + max((len(stop.encode("utf-8")) for stop in stops), default=0)  # a token of text has a byte at least

    def criterion(ids: Tensor, scores: Tensor) -> Tensor:
        ends = [tokenizer.decode(row[-longest:], skip_special=False) for row in ids[:, begin:].tolist()]
        return torch.tensor([any(stop in end for stop in stops) for end in ends])

    return criterion
