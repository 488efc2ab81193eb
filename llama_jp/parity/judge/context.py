"""One operation of one model in one call, with all that its formula needs.

An operation is judged on a sample of its tokens: the tokens where the models differ first, those where they differ
most, and some at even distances.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ...model import LlamaConfig
from ...rope import make_rope
from ..llamacpp.rounding import InputRounding
from ..operations import Operation
from ..run.recording import CACHE_POINTS, Call
from .arithmetic import joined_shape, split_heads

MAX_ROWS, MAX_TOKENS = 4, 8  # the size of a sample: rows of the batch, tokens of a row


@dataclass
class OperationContext:
    """One operation of one model in one call. With a `sample`, every tensor holds only the sampled rows and tokens."""

    operation: Operation
    call: Call
    config: LlamaConfig
    weights: dict[str, Tensor]  # the parameters of this model
    other_call: Call | None = None  # the same call of the other model
    sample: tuple[Tensor, Tensor] | None = None  # indices of rows of the batch and of tokens of the call; None: all

    def at(self, name: str) -> Tensor:
        """The value at a trace point of this model, recorded or reconstructed."""
        points = self.call.points
        return self.sampled_point(name, points[name] if name in points else self.call.reconstructed[name])

    def sampled_point(self, name: str, x: Tensor) -> Tensor:
        """The sample of the value x at a trace point. Keys and values keep all tokens of the sampled rows."""
        return self.sampled(x, 2 if x.dim() == 4 else 1, all_tokens=name.endswith(CACHE_POINTS))

    def sampled(self, x: Tensor, token_dim: int, all_tokens: bool = False) -> Tensor:
        """The sample of x. Its rows are dimension 0, its tokens are dimension `token_dim`."""
        if self.sample is None:
            return x
        rows, tokens = self.sample
        x = x[rows] if x.shape[0] > 1 and rows.shape[0] < x.shape[0] else x
        return x if all_tokens or x.shape[token_dim] == tokens.shape[0] else x.index_select(token_dim, tokens)

    def without_sample(self) -> OperationContext:
        """The same operation with all rows and tokens."""
        return replace(self, sample=None)

    # Inputs and output

    @cached_property
    def out(self) -> Tensor:
        """The result of this model."""
        return self.at(self.operation.name)

    @cached_property
    def inputs(self) -> list[Tensor]:
        """The inputs as the operation uses them: some kernels round them first."""
        inputs = [self.at(name) for name in self.operation.inputs]
        return inputs if self.input_rounding is None else [self.input_rounding(x) for x in inputs]

    @property
    def input_rounding(self) -> InputRounding | None:
        """The rounding of the inputs, or None where they are used as they are."""
        return self.call.input_rounding.get(self.operation.name)

    @property
    def input_heads(self) -> Tensor:
        """The first input as heads, (B, H or K, T, D)."""
        return split_heads(self.inputs[0], self.config.head_dim)

    @cached_property
    def other_out(self) -> Tensor | None:
        """The result of the other model, or None where it is missing or has another shape."""
        name = self.operation.name
        other = None if self.other_call is None else self.other_call.points.get(name)
        if other is None or other.shape != self.call.points[name].shape:
            return None
        return self.sampled_point(name, other)

    @property
    def has_reconstructed_input(self) -> bool:
        """Whether the model does not show one of the inputs, so that it is computed here."""
        return any(name in self.call.reconstructed for name in self.operation.inputs)

    def points_like_input(self) -> list[str]:
        """Other trace points with the shape of the first input. A wrong model can use one of them in its place."""
        first, points = self.operation.inputs[0], self.call.points
        shape = joined_shape(points[first] if first in points else self.call.reconstructed[first])
        return [
            name for name, x in points.items() if joined_shape(x) == shape and name not in (first, self.operation.name)
        ]

    # Parameters

    @property
    def has_weight(self) -> bool:
        return f"{self.operation.weight}.weight" in self.weights

    @property
    def weight(self) -> Tensor:
        """The weight of the operation's module. Raises KeyError for an operation without a weight."""
        name = f"{self.operation.weight}.weight"
        if name not in self.weights:
            raise KeyError(f"{self.operation.name} needs the parameter {name}; check `has_weight` first")
        return self.weights[name]

    @property
    def bias(self) -> Tensor | None:
        return self.weights.get(f"{self.operation.weight}.bias")

    # The text

    @cached_property
    def ids(self) -> Tensor:
        """(B, T)."""
        return self.sampled(self.call.ids, 1)

    @cached_property
    def positions(self) -> Tensor:
        """(B or 1, T)."""
        return self.sampled(self.call.positions, 1)

    @cached_property
    def visible(self) -> Tensor:
        """The attention mask: whether a query sees a key, (B or 1, 1, T, S)."""
        return self.sampled(self.call.visible, 2)

    @cached_property
    def tokens(self) -> Tensor:
        """Whether a position holds a token, not padding, (B, T)."""
        return self.sampled(self.call.tokens, 1)

    def has_padding(self) -> bool:
        return self.call.mask is not None

    def has_past_tokens(self) -> bool:
        return self.call.length > self.call.ids.shape[1]

    @property
    def past(self) -> Tensor | None:
        """The entries of the KV cache before this call, (B, K, S - T, D)."""
        return self.call.past.get(self.operation.name)

    # Rotation

    def configured_rotation(self, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """cos and sin in float32, as the configuration defines them. `positions`: others than those of the call."""
        return make_rope(self.config)(self.positions if positions is None else positions)

    @property
    def rotation(self) -> tuple[Tensor, Tensor]:
        """cos and sin of this model, or the configured ones where the model does not show them: (B or 1, T, D)."""
        if "rope.cos" in self.call.points and "rope.sin" in self.call.points:
            cos, sin = (self.at(name).expand(-1, -1, self.config.head_dim) for name in ("rope.cos", "rope.sin"))
            return cos, sin
        cos, sin = self.configured_rotation()
        dtype = self.inputs[0].dtype
        return cos.to(dtype), sin.to(dtype)

    # Numbers

    @property
    def scale(self) -> float:
        """The factor of the attention scores, 1 / sqrt(D)."""
        return self.config.head_dim**-0.5

    @cached_property
    def coarsest(self) -> torch.dtype:
        """The coarsest dtype of inputs and result: a result may be computed in it and then cast to a wider one."""
        return max((x.dtype for x in (self.out, *self.inputs)), key=unit_roundoff)

    @cached_property
    def u(self) -> float:
        """The unit roundoff of the operation's dtype: half an ULP of 1."""
        return unit_roundoff(self.coarsest)

    @cached_property
    def tiny(self) -> float:
        """The smallest positive number of the operation's dtype."""
        return smallest_number(self.coarsest)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Half an ULP of 1."""
    return torch.finfo(dtype).eps / 2


def smallest_number(dtype: torch.dtype) -> float:
    """The smallest positive number."""
    info = torch.finfo(dtype)
    return info.smallest_normal * info.eps


@dataclass
class BothContexts(OperationContext):
    """One operation of both models, as one batch. The rows of the second follow those of the first.

    One batch needs half the calls into PyTorch for the same sums. `ids`, `positions`, `visible` and `past` are those of
    the first model.
    """

    contexts: tuple[OperationContext, OperationContext] = field(kw_only=True)

    @classmethod
    def join(cls, first: OperationContext, second: OperationContext) -> BothContexts:
        return cls(
            first.operation,
            first.call,
            first.config,
            first.weights,
            first.other_call,
            first.sample,
            contexts=(first, second),
        )

    def at(self, name: str) -> Tensor:
        return self.concatenated([context.at(name) for context in self.contexts])

    def concatenated(self, parts: list[Tensor]) -> Tensor:
        """Concatenate along the batch. A part with one row for the whole batch is expanded."""
        rows = self.contexts[0].ids.shape[0]
        return torch.cat([x if x.shape[0] == rows else x.expand(rows, *x.shape[1:]) for x in parts])

    @cached_property
    def out(self) -> Tensor:
        return self.concatenated([context.out for context in self.contexts])

    @cached_property
    def inputs(self) -> list[Tensor]:
        first, second = self.contexts
        return [self.concatenated([x, y]) for x, y in zip(first.inputs, second.inputs, strict=True)]

    @cached_property
    def other_out(self) -> Tensor:
        first, second = self.contexts
        return self.concatenated([second.out, first.out])

    @cached_property
    def tokens(self) -> Tensor:
        return torch.cat([context.tokens for context in self.contexts])

    @property
    def rotation(self) -> tuple[Tensor, Tensor]:
        (cos, sin), (other_cos, other_sin) = (context.rotation for context in self.contexts)
        return self.concatenated([cos, other_cos]), self.concatenated([sin, other_sin])


# Sampling


def sample_of_call(distance: Tensor | None, call: Call) -> tuple[Tensor, Tensor]:
    """Indices of the rows and of the tokens to judge. `distance` (B, T): how far the models differ at each token."""
    if distance is None or distance.shape != call.ids.shape:
        distance = torch.zeros(call.ids.shape)
    return sample_indices(distance.amax(1), MAX_ROWS), sample_indices(distance.amax(0), MAX_TOKENS)


def sample_indices(distance: Tensor, most: int) -> Tensor:
    """Up to `most` indices: the first with a distance above 0, the largest distances, and some at even distances."""
    if len(distance) <= most:
        return torch.arange(len(distance))
    count = most - most // 2 - 1
    evenly = ((i + 1) * (len(distance) - 1) // count for i in range(count))  # the last index among them
    largest = distance.float().topk(most // 2).indices  # topk puts NaN first
    first = int((distance != 0).int().argmax())
    return torch.tensor(sorted({first, *largest.tolist(), *evenly}))
