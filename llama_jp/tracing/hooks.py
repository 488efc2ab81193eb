"""The hooks of a trace: each belongs to one module, and passes tensors to the recorder."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from .attention import RecordingCache, wrap_attend, wrap_reference_attention
from .points import IN_ATTENTION, head_size, is_attention
from .recorder import Recorder

PreHook = Callable[[nn.Module, tuple[Any, ...]], "tuple[Any, ...] | None"]
PreHookWithNames = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any]], "tuple[tuple[Any, ...], dict[str, Any]] | None"
]
Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


def install_hooks(recorder: Recorder, undo: ExitStack) -> None:
    """Install the hooks that a trace needs, and add their removal to `undo`."""
    for path, module in recorder.modules.items():
        install(recorder, path, module, undo)


def install(recorder: Recorder, path: str, module: nn.Module, undo: ExitStack) -> None:
    """Install all hooks of one module, and add their removal to `undo`."""

    def before(hook: PreHook) -> None:
        undo.callback(module.register_forward_pre_hook(hook).remove)

    def before_with_names(hook: PreHookWithNames) -> None:
        undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    if len(recorder.paths[module]) > 1 and recorder.paths[module][0] == path:
        before(recorder.count_run)

    parent, _, last = path.rpartition(".")
    if path == "layers.0" and recorder.uses("rope.cos", "rope.sin"):
        before_with_names(rotation_hook(recorder))
    if last == "post_attention_layernorm" and recorder.uses(f"{parent}.after_attention"):
        before(input_hook(recorder, f"{parent}.after_attention", path))
    if last == "down_proj" and recorder.uses(f"{parent}.mlp_act"):
        before(input_hook(recorder, f"{parent}.mlp_act", path))
    if last == "o_proj" and recorder.uses(f"{parent}.attn_output") and head_size(recorder.modules[parent]):
        before(o_proj_hook(recorder, parent, path))
    if recorder.uses(path):
        undo.callback(module.register_forward_hook(output_hook(recorder, path)).remove)
    if is_attention(path, module) and recorder.uses(f"{path}.k_rot"):
        before_with_names(cache_hook(recorder, path))
    if is_attention(path, module) and recorder.uses(*(f"{path}.{point}" for point in IN_ATTENTION)):
        wrap = wrap_attend if hasattr(module, "attend") else wrap_reference_attention
        wrap(recorder, path, module, undo)


def input_hook(recorder: Recorder, name: str, path: str) -> PreHook:
    """A hook for the point that is the first input of a module."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        return (recorder.at_point(name, args[0]), *args[1:]) if args and recorder.is_running_as(path, module) else None

    return hook


def o_proj_hook(recorder: Recorder, attention: str, path: str) -> PreHook:
    """A hook for `attn_output` where attention ran without `attend` or transformers' table: the input of o_proj."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if attention in recorder.attended:
            recorder.attended.discard(attention)
            return None
        if not args or not recorder.is_running_as(path, module):
            return None
        heads = args[0].unflatten(-1, (-1, head_size(recorder.modules[attention]))).transpose(1, 2)  # (B, H, T, D)
        output = recorder.at_point(f"{attention}.attn_output", heads)
        return (output.transpose(1, 2).flatten(2), *args[1:])  # (B, T, H * D)

    return hook


def output_hook(recorder: Recorder, path: str) -> Hook:
    """A hook for the point that is the output of a module."""

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not recorder.is_running_as(path, module):
            return None
        if isinstance(output, tuple):  # transformers' attention returns its weights as well
            return (recorder.at_point(path, output[0]), *output[1:])
        return recorder.at_point(path, output) if isinstance(output, Tensor) else None

    return hook


def rotation_hook(recorder: Recorder) -> PreHookWithNames:
    """A hook for `rope.cos` and `rope.sin`, which are among the arguments of the first layer."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pair = kwargs.get("position_embeddings") or next((a for a in args[1:] if isinstance(a, tuple)), None)
        if pair is not None and len(pair) == 2:
            recorder.at_point("rope.cos", pair[0])
            recorder.at_point("rope.sin", pair[1])

    return hook


def cache_hook(recorder: Recorder, path: str) -> PreHookWithNames:
    """A hook that wraps the KV cache among the arguments, which records `k_rot` before the cache changes it."""

    def record_keys(k: Tensor) -> None:
        recorder.cached.add(path)
        recorder.at_point(f"{path}.k_rot", k)

    def wrap_cache(x: Any) -> Any:
        return RecordingCache(x, record_keys) if hasattr(x, "append") or hasattr(x, "update") else x

    def hook(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not recorder.is_running_as(path, module):
            return None
        recorder.cached.discard(path)  # left over from a run that raised an exception
        return tuple(map(wrap_cache, args)), {name: wrap_cache(x) for name, x in kwargs.items()}

    return hook
