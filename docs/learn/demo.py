"""What every chapter calculates with: the bundled model, the README's request, and its story."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor

import llama_jp
from llama_jp.model import repeat_heads
from llama_jp.rope import inverse_frequencies
from llama_jp.tracing import Activations

ASK = "{}が{}に行って{}と友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"
REQUEST = ASK.format("クマ", "海辺", "アザラシ")


class Demo:
    """The model in one dtype, with eager attention on the CPU, and what it computes.

    float32 is what the chapters print. float64 computes everything in float64, also the norm, the rotation and the
    softmax, which the model itself computes in float32: a number whose printed digits differ is not printed.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype
        self.model = self.load()
        self.tokenizer = llama_jp.Tokenizer.from_pretrained("demo")
        self.prompt = llama_jp.instruct_prompt(self.tokenizer, REQUEST)

    def load(self, **changes: Any) -> llama_jp.Llama:
        """A fresh model of this dtype, with other parts if `changes` names them: attention, rope, norm."""
        exact = {"attention": attend_64, "rope": rope_64, "norm": rms_norm_64}
        parts = exact if self.dtype == torch.float64 else {"attention": "eager"}
        model = llama_jp.Llama.from_pretrained("demo", dtype=self.dtype, device="cpu", **(parts | changes))
        return model.requires_grad_(False)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    @cached_property
    def story(self) -> list[int]:
        """The ids of the greedy answer to the request, EOS included."""
        return self.generate(self.model)

    @cached_property
    def ids(self) -> list[int]:
        """The request in its template, and the story."""
        return self.prompt + self.story

    @cached_property
    def pieces(self) -> list[str]:
        return self.tokenizer.pieces(self.ids)

    @cached_property
    def logits(self) -> Tensor:
        """Of `ids`: (T, V). Row i scores the token at i + 1."""
        return self.logits_of(self.model)

    def generate(self, model: llama_jp.Llama, **options: Any) -> list[int]:
        return llama_jp.generate(model, [self.prompt], **({"max_new_tokens": 300} | options))[0].ids

    def logits_of(self, model: llama_jp.Llama) -> Tensor:
        return model(torch.tensor([self.ids]))[0]

    def perplexity(self, logits: Tensor) -> float:
        """Of the story, from the logits of `ids` (T, V)."""
        start = len(self.prompt)
        return torch.nn.functional.cross_entropy(logits[start - 1 : -1], torch.tensor(self.story)).exp().item()

    def trace(self, text: str | None = None) -> Activations:
        """Every activation of a text, or of request and story: `demo.trace()["layers.0.mlp"]` is (1, T, C)."""
        return self.trace_ids(tuple(self.ids if text is None else self.tokenizer.encode(text)))

    @lru_cache(maxsize=16)  # noqa: B019 (a demo lives as long as the process)
    def trace_ids(self, ids: tuple[int, ...]) -> Activations:
        with torch.no_grad(), llama_jp.trace(self.model, ["**"]) as seen:
            self.model(torch.tensor([ids]))
        return seen

    @contextmanager
    def edited(self, **edits: Callable[..., Tensor]) -> Iterator[llama_jp.Llama]:
        """The model with edits of its points: `demo.edited(**{"layers.0.mlp": torch.zeros_like})`."""
        with torch.no_grad(), llama_jp.trace(self.model, edit=edits):
            yield self.model

    def where(self, piece: str) -> list[int]:
        """The positions of a piece in request and story."""
        return [i for i, each in enumerate(self.pieces) if each == piece]

    def id_of(self, piece: str) -> int:
        """The id of a word that is one piece."""
        return self.tokenizer.encode(piece, bos=False)[-1]

    def spell(self, ids: list[int]) -> list[str]:
        """Pieces as a picture shows them: a space is ·, a newline ⏎."""
        names = {"▁": "·", "<0x0A>": "⏎"}
        return [names.get(piece, piece.replace("▁", "·")) for piece in self.tokenizer.pieces(ids)]


def fixed(x: float | Tensor, digits: int) -> str:
    """A number with a fixed number of decimals, thousands in groups and a real minus sign: −1,234.50."""
    text = f"{float(x):,.{digits}f}"
    return text.replace("-", "") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def row(numbers: list[float] | Tensor, digits: int) -> str:
    """Several numbers of `fixed`, with a space between."""
    return " ".join(fixed(x, digits) for x in numbers)


def close(x: float | Tensor, y: float, tolerance: float = 1e-4) -> bool:
    return math.isclose(float(x), y, rel_tol=tolerance, abs_tol=tolerance)


# The three parts that the model computes in float32 whatever its dtype, in float64.


def rms_norm_64(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def rope_64(positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = positions[..., None].double() * inverse_frequencies(10000.0, 64).double()
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def attend_64(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
