"""A kind of operation: its formula in float64, its formula in the model's dtype, and its known mistakes.

Each kind has one file, which fills one `OperationKind` by decorators:

    NORM = OperationKind("norm", …)

    @NORM.formula                               the float64 result, with the bound of rounding
    @NORM.same_arithmetic                       the formula in the model's dtype
    @NORM.mistake("the weight is left out")     the formula with one mistake in it, in the model's dtype
    @NORM.each(eps_values).mistake("eps {:g}")  a mistake that is tried with several values

A known mistake is the probable cause of a difference when its result equals the model's, to the bit or nearly, and the
right formula does not give that result. The order in a file is the order of trial: the most probable mistake is first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from ...checkpoint.config import dtype_name
from .bounds import Judged
from .context import OperationContext

V = TypeVar("V")

Formula = Callable[[OperationContext], Judged]
SameArithmetic = Callable[[OperationContext], "Tensor | None"]
A = TypeVar("A", bound=SameArithmetic)
Mistake = Callable[[OperationContext], Tensor]
MistakeWithValue = Callable[[OperationContext, V], Tensor]
Condition = Callable[[OperationContext], bool]

LOW_PRECISION = (torch.bfloat16, torch.float16)


def low_precision_input(context: OperationContext) -> list[torch.dtype]:
    """The dtype of the first input if it has 16 bits: a value for `OperationKind.each`."""
    dtype = context.inputs[0].dtype
    return [dtype] if dtype in LOW_PRECISION else []


class Trial(NamedTuple):
    """A known mistake for one context. `compute` does the work: a mistake that is not tried costs nothing."""

    cause: str
    compute: Callable[[], Tensor]


def always(context: OperationContext) -> bool:
    return True


@dataclass
class SingleMistake:
    """A mistake without a parameter."""

    cause: str
    compute: Mistake
    when: Condition

    def trials(self, context: OperationContext) -> Iterator[Trial]:
        if self.when(context):
            yield Trial(self.cause, partial(self.compute, context))


@dataclass
class MistakeGroup(Generic[V]):
    """Mistakes that are tried with several values: all of them with the first value, then with the second."""

    values: Iterable[V] | Callable[[OperationContext], Iterable[V]]
    members: list[tuple[str, MistakeWithValue[V]]] = field(default_factory=list)

    def mistake(self, cause: str) -> Callable[[MistakeWithValue[V]], MistakeWithValue[V]]:
        """Add a mistake. `cause` is a format string with the value at {}, and with {config} and {operation}."""

        def add(compute: MistakeWithValue[V]) -> MistakeWithValue[V]:
            self.members.append((cause, compute))
            return compute

        return add

    def trials(self, context: OperationContext) -> Iterator[Trial]:
        for value in self.values(context) if callable(self.values) else self.values:
            shown = dtype_name(value) if isinstance(value, torch.dtype) else value
            for cause, compute in self.members:
                described = cause.format(shown, config=context.config, operation=context.operation)
                yield Trial(described, partial(compute, context, value))


@dataclass
class OperationKind:
    """The formula, the known mistakes and the properties of one kind of operation."""

    name: str  # `Operation.kind`
    sampled: bool = True  # judged on a sample of its tokens; otherwise on all
    bitwise: bool = True  # the same arithmetic gives the same bits; a kernel may sum in another order
    in_one_batch: bool = False  # the formula takes both models as one batch (`BothContexts`)
    reconstructed: bool = False  # computed from its inputs where a model does not show it
    mistakes_on_sample: bool = False  # no mistake mixes tokens, so a large result is replayed on the sample
    optional: bool = False  # a model need not compute the result: fused attention does not
    has_masked_entries: bool = False  # very low numbers stand for -inf
    has_heads: bool = False  # its result has one vector for each head, (B, H, T, D)
    shared_roundings: bool = False  # one rounding reaches all elements of a vector
    narrowest_dtype: torch.dtype | None = (
        None  # right for the result, as all wider ones are; None: only the reference's
    )

    float64_formula: Formula | None = field(default=None, repr=False)
    arithmetics: list[SameArithmetic] = field(default_factory=list, repr=False)
    mistakes: list[SingleMistake | MistakeGroup] = field(default_factory=list, repr=False)
    derivatives: list[tuple[str, Mistake]] = field(default_factory=list, repr=False)

    # Decorators

    def formula(self, compute: Formula) -> Formula:
        """The float64 result and the bound of rounding."""
        self.float64_formula = compute
        return compute

    def same_arithmetic(self, compute: A) -> A:
        """The formula in the model's dtype, or None where it does not apply. A kind can have several."""
        self.arithmetics.append(compute)
        return compute

    def mistake(self, cause: str, *, when: Condition = always) -> Callable[[Mistake], Mistake]:
        """A known mistake. `when`: whether the mistake is possible in a context."""

        def add(compute: Mistake) -> Mistake:
            self.mistakes.append(SingleMistake(cause, compute, when))
            return compute

        return add

    def derivative(self, cause: str) -> Callable[[Mistake], Mistake]:
        """The derivative of the result by the logarithm of a factor: the direction of a small error of the factor.

        `cause` is a format string with the factor at {}.
        """

        def add(compute: Mistake) -> Mistake:
            self.derivatives.append((cause, compute))
            return compute

        return add

    def each(self, values: Iterable[V] | Callable[[OperationContext], Iterable[V]]) -> MistakeGroup[V]:
        """A group of mistakes that are tried with each of the values."""
        group = MistakeGroup(values)
        self.mistakes.append(group)
        return group

    # Use

    def judge(self, context: OperationContext) -> Judged:
        """The result of a model against float64."""
        assert self.float64_formula is not None, f"the kind {self.name} has no formula"
        judged = self.float64_formula(context)
        if context.has_reconstructed_input:  # the model may have rounded that input at other places
            judged.bound = judged.bound + 16 * context.u * judged.exact.abs().amax(-1, keepdim=True)
        return judged

    def right_results(self, context: OperationContext) -> Iterator[Tensor]:
        """The results of the same arithmetic."""
        for compute in self.arithmetics:
            if (result := compute(context)) is not None:
                yield result

    def trials(self, context: OperationContext) -> Iterator[Trial]:
        """The known mistakes, the most probable first."""
        for mistake in self.mistakes:
            yield from mistake.trials(context)
