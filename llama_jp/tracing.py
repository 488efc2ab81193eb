"""Record or edit the activations of a model by name.

    with trace(model, ["layers.*.mlp", "layers.3.self_attn.q_rot"]) as activations:
        model(ids)
    activations["layers.0.mlp"]              # the tensor of the last call; activations.calls(name): one for each call

    with trace(model, edit={"layers.3.self_attn.q_proj": torch.zeros_like}):
        model(ids)                           # ablation: all queries of layer 3 are zero

A point is the name of one activation. The path of a module, without transformers' prefix `model.`, names its output.
Other points lie between modules:

    rope.cos  rope.sin                       the rotation, which all layers share                (B or 1, T, D)
    layers.N.self_attn.q_rot  .k_rot         rotated queries and new keys, before the KV cache   (B, H or K, T, D)
    layers.N.self_attn.keys  .values         keys and values of all visible tokens               (B, K, S, D)
    layers.N.self_attn.scores                scaled and masked scores, the input of softmax      (B, H, T, S)
    layers.N.self_attn.probabilities         attention weights, the output of softmax            (B, H, T, S)
    layers.N.self_attn.attn_output           the output of attention, before o_proj              (B, H, T, D)
    layers.N.after_attention                 the residual stream between attention and MLP       (B, T, C)
    layers.N.mlp.mlp_act                     silu(gate) * up, the input of down_proj             (B, T, F)

This project's model, a changed copy of it and transformers' Llama have the same points. Other modules have only the
points that are module paths. A fused attention kernel produces no scores and no probabilities. `trace` computes them
separately, from the same q, k and mask. Recording does not change a bit of the model's output. The end of the `with`
block removes all hooks, also after an exception. Traces of one model may be nested and may end in any order.

The wrappers of torch.compile, PEFT, DDP and FSDP add no part to a name: `_orig_mod.layers.0.mlp` and
`base_model.model.layers.0.mlp` are `layers.0.mlp`. A compiled model runs without its compiled code inside the block,
because compiled code calls no hooks; this may change the last bits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .model import repeat_heads

Edit = Callable[[Tensor], Tensor]

IN_ATTENTION = ("q_rot", "k_rot", "keys", "values", "scores", "probabilities", "attn_output")
NOT_EDITABLE = ("rope.cos", "rope.sin", "k_rot", "after_attention")  # an edit would reach only some of their consumers

NOT_REACHED = (
    "the model did not compute it inside the block; code that torch.compile compiled from a model calls no hooks, "
    "so trace the compiled model itself"
)

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch.compile, FSDP, checkpointing
PREFIXES = ("module.", "base_model.model.", "model.")  # of DDP, PEFT, transformers; from outside to inside
INNER_PREFIXES = ("", "model.", "base_model.model.", "base_model.model.model.")


class Activations(Mapping[str, Tensor]):
    """The recorded tensors of a trace: point -> tensor of the last call, in the order of computation."""

    def __init__(self) -> None:
        self._calls: dict[str, list[Tensor]] = {}

    def calls(self, name: str) -> list[Tensor]:
        """The tensors of a point, one for each time that it was computed. KeyError: it was not computed."""
        found = self._calls.get(name) or self._calls.get(without_wrappers(name))
        if found is None:
            raise KeyError(f"{name} was not recorded: it is not among the points of this trace, or {NOT_REACHED}")
        return found

    def add(self, name: str, value: Tensor) -> None:
        self._calls.setdefault(name, []).append(value.detach().clone())  # later operations may work in place

    def __getitem__(self, name: str) -> Tensor:
        return self.calls(name)[-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)


@contextmanager
def trace(
    model: nn.Module,
    points: Sequence[str] = (),
    edit: Mapping[str, Edit] | None = None,
    *,
    compute_scores: bool = True,
) -> Iterator[Activations]:
    """Record the activations at `points`, and replace those at the points in `edit`.

    points          names or patterns: `*` matches one part between dots, `**` one or more parts
    edit            name or pattern -> a function that returns the tensor's replacement
    compute_scores  compute scores and probabilities separately where attention is fused; False: leave them out

    A point with an edit is recorded after the edit.
    Raises ValueError for a name or pattern that matches no point, for an edit of a point that is not editable, and at
    the end of the block for an edit that was not reached.
    """
    edit = dict(edit or {})
    names = point_names(model)
    matches = {pattern: matching_points(pattern, names) for pattern in [*points, *edit]}
    for pattern, matched in matches.items():
        if not matched:
            raise ValueError(f"no point of this model matches {pattern!r}; there are {', '.join(names[:40])}, …")
        for name in matched:
            if pattern in edit and name.endswith(NOT_EDITABLE):
                raise ValueError(f"{name} can be recorded but not edited; edit a point before or after it")
    modules = named_modules(model)
    hooks = _Hooks(
        {name for pattern in points for name in matches[pattern]},
        {name: change for pattern, change in edit.items() for name in matches[pattern]},
        compute_scores,
        modules,
    )
    with ExitStack() as undo:  # undoes a part of the installation as well, when the rest of it fails
        if is_compiled(model):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        for path, module in modules.items():
            hooks.install(path, module, undo)
        yield hooks.activations
    # an exception inside the block does not come here
    containers = {path for path, module in modules.items() if type(module).forward is nn.Module.forward}
    named = {name for pattern in edit if "*" not in pattern for name in matches[pattern]}
    if missed := sorted(hooks.edits.keys() - hooks.reached - (containers - named)):
        raise ValueError(f"the edit of {', '.join(missed[:4])}{', …' * (len(missed) > 4)} had no effect: {NOT_REACHED}")


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model under the names of their points, without wrappers and transformers' prefix `model.`.

    A module that occurs at several places of the tree has one name for each place.
    """
    modules = {}
    for path, module in model.named_modules(remove_duplicate=False):
        # a wrapper and the module in it get the same name, and the module in it comes later
        modules[".".join(part for part in path.split(".") if part not in WRAPPERS)] = module
    for prefix in PREFIXES:
        if any(f"{prefix}{inner}layers" in modules for inner in INNER_PREFIXES):
            outer = [path for path in modules if prefix.startswith(f"{path}.")]
            modules = {path.removeprefix(prefix): module for path, module in modules.items() if path not in outer}
    return {path: module for path, module in modules.items() if path}


def without_wrappers(name: str) -> str:
    """The name or pattern of a point without the parts that wrappers add."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile compiled a model or a part of it. Compiled code calls no hooks."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def point_names(model: nn.Module) -> list[str]:
    """The names of all points of a model."""
    names = []
    modules = named_modules(model)
    for path, module in modules.items():
        names.append(path)
        if is_attention(path, module):
            names += [f"{path}.{point}" for point in IN_ATTENTION]
        elif f"{path}.o_proj" in modules and head_size(module):
            names.append(f"{path}.attn_output")  # the input of o_proj
        if f"{path}.post_attention_layernorm" in modules:
            names.append(f"{path}.after_attention")
        if f"{path}.down_proj" in modules:
            names.append(f"{path}.mlp_act")
        if path == "layers.0":
            names += ["rope.cos", "rope.sin"]
    return names


def is_attention(path: str, module: nn.Module) -> bool:
    """Whether a module calls its attention through an attribute `attend` or through transformers' table."""
    return path.endswith("self_attn") and (hasattr(module, "attend") or is_reference(module))


def is_reference(model: object) -> bool:
    """Whether a model or module is one of transformers'."""
    return type(model).__module__.startswith("transformers.")


def head_size(attention: nn.Module) -> int:
    """D of an attention module; 0 where it is not known."""
    return getattr(attention, "head_dim", 0)


def matching_points(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that equal a name or match a pattern. A pattern may have the parts that wrappers add to names."""
    inner = without_wrappers(pattern)
    return match_names(pattern, names) or (match_names(inner, names) if inner != pattern else [])


def match_names(pattern: str, names: Sequence[str]) -> list[str]:
    if "*" not in pattern:
        return [pattern] if pattern in names else []
    parts = {"*": r"[^.]+", "**": r".+"}
    expression = re.compile(r"\.".join(parts.get(part, re.escape(part)) for part in pattern.split(".")))
    return [name for name in names if expression.fullmatch(name)]


PreHook = Callable[[nn.Module, tuple[Any, ...]], "tuple[Any, ...] | None"]
PreHookWithNames = Callable[
    [nn.Module, tuple[Any, ...], dict[str, Any]], "tuple[tuple[Any, ...], dict[str, Any]] | None"
]
Hook = Callable[[nn.Module, tuple[Any, ...], Any], Any]


class _Hooks:
    """The hooks of one trace and the activations that they record."""

    def __init__(
        self,
        recorded: set[str],
        edits: Mapping[str, Edit],
        compute_scores: bool,
        modules: Mapping[str, nn.Module],
    ):
        self.recorded = recorded
        self.edits = edits
        self.compute_scores = compute_scores
        self.modules = modules
        self.activations = Activations()
        self.reached: set[str] = set()  # edited points that were computed
        self.attended: set[str] = set()  # attention modules whose attn_output has passed, and their o_proj not yet
        self.cached: set[str] = set()  # attention modules whose new keys have passed on their way to the KV cache
        self.paths: dict[nn.Module, list[str]] = {}  # every path of each module
        self.runs: dict[nn.Module, int] = {}  # how often each module with several paths has run
        for path, module in modules.items():
            self.paths.setdefault(module, []).append(path)

    def uses(self, *names: str) -> bool:
        """Whether this trace records or edits one of the points."""
        return any(name in self.recorded or name in self.edits for name in names)

    def at_point(self, name: str, value: Tensor) -> Tensor:
        """Edit and record the tensor of a point, as far as the trace needs it."""
        if name in self.edits:
            self.reached.add(name)
            value = self.edits[name](value)
        if name in self.recorded:
            self.activations.add(name, value)
        return value

    def is_running_as(self, path: str, module: nn.Module) -> bool:
        """Whether the present run of a module belongs to `path`. A module with several paths runs as each in turn."""
        paths = self.paths[module]
        return len(paths) == 1 or paths[(self.runs.get(module, 0) - 1) % len(paths)] == path

    def count_run(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.runs[module] = self.runs.get(module, 0) + 1

    def install(self, path: str, module: nn.Module, undo: ExitStack) -> None:
        """Install all hooks of one module, and add their removal to `undo`."""

        def before(hook: PreHook) -> None:
            undo.callback(module.register_forward_pre_hook(hook).remove)

        def before_with_names(hook: PreHookWithNames) -> None:
            undo.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        if len(self.paths[module]) > 1 and self.paths[module][0] == path:
            before(self.count_run)

        parent, _, last = path.rpartition(".")
        if path == "layers.0" and self.uses("rope.cos", "rope.sin"):
            before_with_names(self.record_rotation)
        if last == "post_attention_layernorm" and self.uses(f"{parent}.after_attention"):
            before(self.input_hook(f"{parent}.after_attention", path))
        if last == "down_proj" and self.uses(f"{parent}.mlp_act"):
            before(self.input_hook(f"{parent}.mlp_act", path))
        if last == "o_proj" and self.uses(f"{parent}.attn_output") and head_size(self.modules[parent]):
            before(self.o_proj_hook(parent, path))
        if self.uses(path):
            undo.callback(module.register_forward_hook(self.output_hook(path)).remove)
        if is_attention(path, module) and self.uses(f"{path}.k_rot"):
            before_with_names(self.cache_hook(path))
        if is_attention(path, module) and self.uses(*(f"{path}.{point}" for point in IN_ATTENTION)):
            install = _wrap_attend if hasattr(module, "attend") else _wrap_reference_attention
            install(self, path, module, undo)

    def input_hook(self, name: str, path: str) -> PreHook:
        """A hook for the point that is the first input of a module."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            return (self.at_point(name, args[0]), *args[1:]) if args and self.is_running_as(path, module) else None

        return hook

    def o_proj_hook(self, attention: str, path: str) -> PreHook:
        """A hook for `attn_output` where attention ran without `attend` or transformers' table: the input of o_proj."""

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if attention in self.attended:
                self.attended.discard(attention)
                return None
            if not args or not self.is_running_as(path, module):
                return None
            heads = args[0].unflatten(-1, (-1, head_size(self.modules[attention]))).transpose(1, 2)  # (B, H, T, D)
            output = self.at_point(f"{attention}.attn_output", heads)
            return (output.transpose(1, 2).flatten(2), *args[1:])  # (B, T, H * D)

        return hook

    def output_hook(self, path: str) -> Hook:
        """A hook for the point that is the output of a module."""

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if not self.is_running_as(path, module):
                return None
            if isinstance(output, tuple):  # transformers' attention returns its weights as well
                return (self.at_point(path, output[0]), *output[1:])
            return self.at_point(path, output) if isinstance(output, Tensor) else None

        return hook

    def record_rotation(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        pair = kwargs.get("position_embeddings") or next((a for a in args[1:] if isinstance(a, tuple)), None)
        if pair is not None and len(pair) == 2:
            self.at_point("rope.cos", pair[0])
            self.at_point("rope.sin", pair[1])

    def cache_hook(self, path: str) -> PreHookWithNames:
        """A hook that wraps the KV cache among the arguments, which records `k_rot` before the cache changes it."""

        def record_keys(k: Tensor) -> None:
            self.cached.add(path)
            self.at_point(f"{path}.k_rot", k)

        def wrap_cache(x: Any) -> Any:
            return _RecordingCache(x, record_keys) if hasattr(x, "append") or hasattr(x, "update") else x

        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
            if not self.is_running_as(path, module):
                return None
            self.cached.discard(path)  # left over from a run that raised an exception
            return tuple(map(wrap_cache, args)), {name: wrap_cache(x) for name, x in kwargs.items()}

        return hook

    def attend(
        self,
        path: str,
        run: Callable[[Tensor, Tensor, Tensor], Tensor],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        scale: float,
    ) -> Tensor:
        """Run attention, `run(q, k, v)` -> (B, H, T, D), and pass its points in the order of computation."""
        q = self.at_point(f"{path}.q_rot", q)
        k = self.at_point(f"{path}.keys", k)
        if path not in self.cached:
            self.at_point(f"{path}.k_rot", k[:, :, k.shape[2] - q.shape[2] :])
        self.cached.discard(path)
        v = self.at_point(f"{path}.values", v)
        names = f"{path}.scores", f"{path}.probabilities"
        if self.uses(*names):
            with _SoftmaxInterceptor(self, path) as softmax:
                output = run(q, k, v)
            if not softmax.was_called:
                if any(name in self.edits for name in names):
                    raise ValueError(f"fused attention has no scores to edit in {path}; load with attention='eager'")
                if self.compute_scores:
                    scores = attention_scores(q, k, mask, scale)
                    self.at_point(names[0], scores)
                    self.at_point(names[1], scores.softmax(-1, dtype=torch.float32))
        else:
            output = run(q, k, v)
        self.attended.add(path)
        return self.at_point(f"{path}.attn_output", output)


class _RecordingCache:
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

    def __init__(self, hooks: _Hooks, path: str):
        super().__init__()
        self.hooks, self.path, self.was_called = hooks, path, False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.was_called or getattr(func, "__name__", "") != "softmax" or args[0].dim() != 4:
            return func(*args, **kwargs)
        self.was_called = True
        scores = self.hooks.at_point(f"{self.path}.scores", args[0])
        return self.hooks.at_point(f"{self.path}.probabilities", func(scores, *args[1:], **kwargs))


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
        self.function = function
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


def _wrap_attend(hooks: _Hooks, path: str, module: nn.Module, undo: ExitStack) -> None:
    """Record the points of attention around the function `attend` of one of this project's modules."""

    def wrapper(attend: Callable[..., Any]) -> Callable[..., Any]:
        def recording_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *positions: Tensor) -> Tensor:
            def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return attend(q, k, v, mask, *positions)

            if not hooks.is_running_as(path, module):
                return run(q, k, v)
            return hooks.attend(path, run, q, k, v, mask, q.shape[3] ** -0.5)

        return recording_attend

    _wrap_attribute(module, "attend", wrapper, undo)


def _wrap_reference_attention(hooks: _Hooks, path: str, module: nn.Module, undo: ExitStack) -> None:
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
                if caller is not module or not hooks.is_running_as(path, module):
                    return attend(caller, q, k, v, mask, scaling=scaling, **kwargs)
                weights: Tensor | None = None

                def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                    nonlocal weights
                    output, weights = attend(caller, q, k, v, mask, scaling=scaling, **kwargs)
                    return output.transpose(1, 2)  # (B, H, T, D)

                scale = q.shape[3] ** -0.5 if scaling is None else scaling
                return hooks.attend(path, run, q, k, v, mask, scale).transpose(1, 2), weights  # (B, T, H, D)

            return recording_attend

        return recording_get_interface

    _wrap_attribute(ALL_ATTENTION_FUNCTIONS, "get_interface", wrapper, undo)
