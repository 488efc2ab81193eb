"""The recorded tensors of a trace, or running statistics of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from .points import NOT_REACHED, without_wrappers

Reduce = Callable[["Tensor | None", Tensor], Tensor]


class Reducer(NamedTuple):
    """A running statistic: `update(total, x)` adds one tensor, `result(total)` is the statistic so far."""

    update: Reduce
    result: Callable[[Tensor], Tensor] = lambda total: total


def add_vectors(total: Tensor | None, x: Tensor) -> Tensor:
    """The number of vectors, and then their sum, in float64: x (…, size) -> (1 + size,)."""
    vectors = x.reshape(-1, x.shape[-1])
    number = torch.tensor([len(vectors)], dtype=torch.float64, device=x.device)
    new = torch.cat((number, vectors.sum(0, dtype=torch.float64)))
    return new if total is None else total + new


def add_norms(total: Tensor | None, x: Tensor) -> Tensor:
    """The number of vectors, and then the sum of their L2 norms: x (…, size) -> (2,)."""
    return add_vectors(total, torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32))


def maximum(total: Tensor | None, x: Tensor) -> Tensor:
    new = x.reshape(-1, x.shape[-1]).amax(0)
    return new if total is None else torch.maximum(total, new)


REDUCERS = {  # of all vectors of a point, which are its tensors' last dimension
    "mean": Reducer(add_vectors, lambda total: (total[1:] / total[0]).float()),  # (size,)
    "sum": Reducer(add_vectors, lambda total: total[1:].float()),  # (size,)
    "max": Reducer(maximum),  # (size,), in the model's dtype
    "norm": Reducer(add_norms, lambda total: (total[1] / total[0]).float()),  # (): the mean L2 norm
}


def make_reducer(reduce: str | Reduce) -> Reducer:
    """The reducer of a name or a function `(total, x) -> total`. Raises ValueError for another name."""
    if not isinstance(reduce, str):
        return Reducer(reduce)
    if reduce not in REDUCERS:
        raise ValueError(
            f"reduce is {', '.join(map(repr, REDUCERS))} or a function (total, x) -> total, not {reduce!r}"
        )
    return REDUCERS[reduce]


class Activations(Mapping[str, Tensor]):
    """The recorded tensors of a trace: point -> tensor of the last call, in the order of computation.

    With `reduce`, point -> the running result of all calls.
    """

    def __init__(self, reducer: Reducer | None = None) -> None:
        self._reducer = reducer
        self._calls: dict[str, list[Tensor]] = {}  # with a reducer: a list of the total
        self._versions: dict[int, int] = {}  # of the tensors that the model holds as well: id -> version
        self._sizes: dict[str, int] = {}  # the last dimension of the points that a reducer of REDUCERS reduces

    def calls(self, name: str) -> list[Tensor]:
        """The tensors of a point, one for each time that it was computed. With `reduce`: only the running result.

        KeyError: the point was not computed. ValueError: an operation in place changed a tensor of the graph.
        """
        found = self._calls.get(name) or self._calls.get(without_wrappers(name))
        if found is None:
            raise KeyError(f"{name} was not recorded: it is not among the points of this trace, or {NOT_REACHED}")
        if self._versions and any(x._version != self._versions.get(id(x), x._version) for x in found):
            raise ValueError(f"the model changed {name} in place after it was recorded; trace without keep_graph")
        return found if self._reducer is None else [self._reducer.result(found[0])]

    def add(self, name: str, value: Tensor) -> None:
        """Record a copy, without the graph."""
        value = value.detach().clone()  # later operations may work in place
        if self._reducer is None:
            self._calls.setdefault(name, []).append(value)
            return
        if self._reducer in REDUCERS.values() and self._sizes.setdefault(name, value.shape[-1]) != value.shape[-1]:
            raise ValueError(
                f"the last dimension of {name} changed from {self._sizes[name]} to {value.shape[-1]}, so its vectors "
                "cannot be reduced together; reduce with a function (total, x) -> total"
            )
        total = self._reducer.update(self._calls.get(name, [None])[0], value)
        if total is None:
            raise ValueError(f"reduce returned None at {name}; return the new total")
        self._calls[name] = [total]

    def add_of_graph(self, name: str, value: Tensor) -> None:
        """Record a tensor of the graph itself."""
        self._versions[id(value)] = value._version
        self._calls.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> Tensor:
        return self.calls(name)[-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)
