"""What happens at a point: its tensor is edited and recorded, its calls are counted, and the forward may end."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .activations import Activations
from .points import NOT_EDITABLE, layer_of

IS_PAUSED = ContextVar("IS_PAUSED", default=False)


@contextmanager
def paused() -> Iterator[None]:
    """Inside, traces neither record nor edit nor count: for calls of a model that measure its code, not a text."""
    token = IS_PAUSED.set(True)
    try:
        yield
    finally:
        IS_PAUSED.reset(token)


def is_in_backward() -> bool:
    """Whether autograd runs now. Activation checkpointing computes modules again in the backward pass."""
    return torch._C._current_graph_task_id() != -1


class Point(NamedTuple):
    """The second argument of an edit: which activation it gets, and when."""

    name: str
    layer: int | None  # N of `layers.N.…`; None outside the layers
    call: int  # how often the point was computed before, inside the block: 0, 1, 2 …


class StopForward(BaseException):
    """Ends the forward after the last point that a trace needs. No `except Exception` of a model catches it."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder


class Edit:
    """A function that replaces tensors, at all points that its name or pattern matches."""

    def __init__(self, pattern: str, function: Callable[..., Tensor]):
        self.pattern, self.function = pattern, function
        self.takes_point = takes_point(pattern, function)
        self.has_acted = False  # whether a tensor was replaced, or changed in place

    def __call__(self, x: Tensor, point: Point) -> Tensor:
        version = None if x.is_inference() else x._version  # tensors of inference mode count no versions
        y = self.function(x, point) if self.takes_point else self.function(x)
        if not isinstance(y, Tensor):
            raise ValueError(f"the edit of {point.name} returned {type(y).__name__}; return the tensor's replacement")
        if (y.shape, y.dtype) != (x.shape, x.dtype):
            raise ValueError(
                f"the edit of {point.name} returned {y.dtype} {tuple(y.shape)} for {x.dtype} {tuple(x.shape)}; "
                "return a tensor of the same dtype and shape"
            )
        self.has_acted = self.has_acted or y is not x or version is None or x._version != version
        return y


def takes_point(pattern: str, function: Callable[..., Any]) -> bool:
    """Whether an edit takes (x, point): a second parameter without a default. Raises ValueError for other forms."""
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except ValueError:  # functions in C, such as torch.zeros_like, have no signature
        return False
    for arguments in (1, 2):
        try:
            signature.bind(*[None] * arguments)
        except TypeError:
            continue
        return arguments == 2
    raise ValueError(f"the edit of {pattern} takes {signature}; an edit takes (x) or (x, point)")


class Recorder:
    """The edits of one trace, and the activations that it records."""

    def __init__(
        self,
        recorded: set[str],
        edits: Mapping[str, Edit],
        stop_after: str | None,
        activations: Activations,
        modules: Mapping[str, nn.Module],
        *,
        keep_graph: bool = False,
        compute_scores: bool = True,
    ):
        self.recorded = recorded
        self.edits = edits
        self.stop_after = stop_after
        self.activations = activations
        self.modules = modules
        self.keep_graph = keep_graph
        self.compute_scores = compute_scores
        self.computed: Counter[str] = Counter()  # calls of each point that the trace uses
        self.attended: set[str] = set()  # attention modules whose attn_output has passed, and their o_proj not yet
        self.cached: set[str] = set()  # attention modules whose new keys have passed on their way to the KV cache
        self.paths: dict[nn.Module, list[str]] = {}  # every path of each module
        self.runs: dict[nn.Module, int] = {}  # how often each module with several paths has run
        for path, module in modules.items():
            self.paths.setdefault(module, []).append(path)

    def uses(self, *names: str) -> bool:
        """Whether this trace needs one of the points."""
        return any(name in self.recorded or name in self.edits or name == self.stop_after for name in names)

    def at_point(self, name: str, value: Tensor) -> Tensor:
        """Edit and record the tensor of a point, as far as the trace needs it. The model continues with the result."""
        if IS_PAUSED.get() or not self.uses(name):
            return value
        again = is_in_backward()
        if name in self.edits:
            value = self.edits[name](value, Point(name, layer_of(name), self.call_now(name, again)))
        if name in self.recorded and self.keep_graph and value.is_floating_point():
            value = self.record_graph(name, value, again)
        elif name in self.recorded and not again:
            self.activations.add(name, value)
        if not again:
            self.computed[name] += 1
            if name == self.stop_after:
                raise StopForward(self)
        return value

    def call_now(self, name: str, again: bool) -> int:
        """The number of this call of an edited point. A call in the backward pass repeats an earlier one."""
        calls = self.computed[name]
        if not again:
            return calls
        if calls > 1 and self.edits[name].takes_point:
            raise ValueError(
                f"activation checkpointing computes {name} again, and it is not known which of its {calls} calls "
                "this repeats; use one `with trace` block for each forward and backward pass"
            )
        return max(calls - 1, 0)

    def record_graph(self, name: str, value: Tensor, again: bool) -> Tensor:
        """Record a tensor with its graph, and return what the model continues with.

        That is a copy, so that later operations in place do not reach the recorded tensor. Without a graph, as with
        frozen weights, the graph starts at the point.
        """
        if not torch.is_grad_enabled():
            raise ValueError(f"{name} has no graph to keep: gradients are off, as in torch.no_grad and in `generate`")
        if name.endswith(NOT_EDITABLE):  # a copy would reach only some of its consumers
            kept = value.requires_grad_()
        elif value.requires_grad:
            kept = value.clone()
        else:
            kept = value.detach().clone().requires_grad_()
        if not again:
            self.activations.add_of_graph(name, kept)
        return value if kept is value else kept.clone()

    def is_running_as(self, path: str, module: nn.Module) -> bool:
        """Whether the present run of a module belongs to `path`. A module with several paths runs as each in turn."""
        paths = self.paths[module]
        return len(paths) == 1 or paths[(self.runs.get(module, 0) - 1) % len(paths)] == path

    def count_run(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.runs[module] = self.runs.get(module, 0) + 1
