"""The points inside attention: they lie around and inside the function that computes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..model import repeat_heads
from .recorder import Recorder


def attend_at_points(
    recorder: Recorder,
    path: str,
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """Run attention, `run(q, k, v)` -> (B, H, T, D), and pass its points in the order of computation."""
    q = recorder.at_point(f"{path}.q_rot", q)
    k = recorder.at_point(f"{path}.keys", k)
    if path not in recorder.cached:  # no cache: the new keys are all keys
        recorder.at_point(f"{path}.k_rot", k if k.shape[2] == q.shape[2] else k[:, :, k.shape[2] - q.shape[2] :])
    recorder.cached.discard(path)
    v = recorder.at_point(f"{path}.values", v)
    names = f"{path}.scores", f"{path}.probabilities"
    if recorder.uses(*names):
        with _SoftmaxInterceptor(recorder, path) as softmax:
            output = run(q, k, v)
        if not softmax.was_called:
            if any(name in recorder.edits for name in names):
                raise ValueError(f"fused attention has no scores to edit in {path}; load with attention='eager'")
            if recorder.compute_scores and recorder.keep_graph:
                raise ValueError(
                    f"fused attention has no scores in its graph in {path}; load with attention='eager', or leave "
                    "them out with compute_scores=False"
                )
            if recorder.compute_scores:
                scores = attention_scores(q, k, mask, scale)
                recorder.at_point(names[0], scores)
                recorder.at_point(names[1], scores.softmax(-1, dtype=torch.float32))
    else:
        output = run(q, k, v)
    recorder.attended.add(path)
    return recorder.at_point(f"{path}.attn_output", output)


class RecordingCache:
    """A KV cache, of one layer or of all, that passes new keys to `record` before it stores them."""

    def __init__(self, cache: Any, record: Callable[[Tensor], None]):
        self._cache, self._record = cache, record

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._cache, name)
        if name not in ("append", "update"):
            return attribute

        def store(k: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._record(k)
            return attribute(k, *args, **kwargs)

        return store


class _SoftmaxInterceptor(TorchFunctionMode):
    """Intercept the first softmax while attention runs: its input is the scores, its output the probabilities."""

    def __init__(self, recorder: Recorder, path: str):
        super().__init__()
        self.recorder, self.path, self.was_called = recorder, path, False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.was_called or getattr(func, "__name__", "") != "softmax" or args[0].dim() != 4:
            return func(*args, **kwargs)
        self.was_called = True
        scores = self.recorder.at_point(f"{self.path}.scores", args[0])
        return self.recorder.at_point(f"{self.path}.probabilities", func(scores, *args[1:], **kwargs))


def attention_scores(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The scores of eager attention, scaled and masked: q (B, H, T, D), k (B, K, S, D) -> (B, H, T, S).

    The mask is bool (True: visible), or a float tensor that is added to the scores, or None (causal).
    """
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(q.dtype).min).to(q.dtype)
    return q @ repeat_heads(k, q.shape[1]).transpose(2, 3) * scale + mask  # (B, H, T, S)


Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


class _WrappedFunction:
    """A function with a changing list of wrappers around it. The last wrapper is the outermost."""

    def __init__(self, function: Callable[..., Any], own: bool):
        self.function = self.__wrapped__ = function  # inspect.signature shows the function's parameters
        self.own = own  # an attribute of the object itself, not of its class
        self.wrappers: list[Wrapper] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = self.function
        for wrapper in self.wrappers:
            function = wrapper(function)
        return function(*args, **kwargs)


def _wrap_attribute(owner: object, name: str, wrapper: Wrapper, undo: ExitStack) -> None:
    """Put a wrapper around the function `owner.name` until `undo` runs.

    All traces share one `_WrappedFunction`, and each removes only its own wrapper. So they may end in any order. The
    last one restores the attribute. The object's dictionary takes precedence over a method and over a submodule of the
    same name, so it can hold the wrapped function in their place.
    """
    attributes = vars(owner)
    if isinstance(present := attributes.get(name), _WrappedFunction):
        wrapped = present
    else:
        wrapped = _WrappedFunction(getattr(owner, name), own=name in attributes)

    def remove() -> None:
        wrapped.wrappers.remove(wrapper)
        if wrapped.wrappers or attributes.get(name) is not wrapped:  # another function, assigned by the caller, stays
            return
        if wrapped.own:
            attributes[name] = wrapped.function
        else:
            del attributes[name]

    wrapped.wrappers.append(wrapper)
    undo.callback(remove)
    attributes[name] = wrapped


def wrap_attend(recorder: Recorder, path: str, module: nn.Module, undo: ExitStack) -> None:
    """Record the points of attention around the function `attend` of one of this project's modules."""

    def wrapper(attend: Callable[..., Any]) -> Callable[..., Any]:
        def recording_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *positions: Tensor) -> Tensor:
            if not recorder.is_running_as(path, module):
                return attend(q, k, v, mask, *positions)

            def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return attend(q, k, v, mask, *positions)

            return attend_at_points(recorder, path, run, q, k, v, mask, q.shape[3] ** -0.5)

        return recording_attend

    _wrap_attribute(module, "attend", wrapper, undo)


def wrap_reference_attention(recorder: Recorder, path: str, module: nn.Module, undo: ExitStack) -> None:
    """Record the points of attention in transformers' model.

    Its modules look their attention function up in a table that all models share. The table's `get_interface` returns
    a wrapped function, which calls the original unchanged for all other modules.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def wrapper(get_interface: Callable[..., Any]) -> Callable[..., Any]:
        def recording_get_interface(*args: Any, **kwargs: Any) -> Callable[..., Any]:
            attend = get_interface(*args, **kwargs)

            def recording_attend(
                caller: nn.Module,
                q: Tensor,
                k: Tensor,
                v: Tensor,
                mask: Tensor | None,
                scaling: float | None = None,
                **kwargs: Any,
            ) -> tuple[Tensor, Tensor | None]:
                if caller is not module or not recorder.is_running_as(path, module):
                    return attend(caller, q, k, v, mask, scaling=scaling, **kwargs)
                weights: Tensor | None = None

                def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                    nonlocal weights
                    output, weights = attend(caller, q, k, v, mask, scaling=scaling, **kwargs)
                    return output.transpose(1, 2)  # (B, H, T, D)

                scale = q.shape[3] ** -0.5 if scaling is None else scaling
                output = attend_at_points(recorder, path, run, q, k, v, mask, scale)
                return output.transpose(1, 2), weights  # (B, T, H, D)

            return recording_attend

        return recording_get_interface

    _wrap_attribute(ALL_ATTENTION_FUNCTIONS, "get_interface", wrapper, undo)
