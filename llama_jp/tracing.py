"""Look inside a model while it runs: record activations by name, or change one on its way.

    with trace(model, ["layers.*.mlp", "layers.3.self_attn.q_rot"]) as seen:
        model(ids)
    seen["layers.0.mlp"]                     # the tensor of the last call; seen.calls(name) has one for each call

    with trace(model, [], edit={"layers.3.self_attn.q_proj": torch.zeros_like}):
        model(ids)                           # what if layer 3 asked nothing?

A point is a module's path, without the `model.` that transformers puts before it, or one of the places in between:

    rope.cos  rope.sin                           the rotation that the layers share             (B or 1, T, D)
    layers.N.self_attn.q_rot  .k_rot     queries and new keys, before they are cached   (B, H or K, T, D)
    layers.N.self_attn.keys  .values             all that are visible, cached ones included     (B, K, S, D)
    layers.N.self_attn.scores                    scaled and masked, what softmax is given       (B, H, T, S)
    layers.N.self_attn.probabilities             what softmax makes of them                     (B, H, T, S)
    layers.N.self_attn.mixed                     attention's result, before o_proj              (B, H, T, D)
    layers.N.after_attention                     the residual stream between attention and MLP  (B, T, C)
    layers.N.mlp.mlp_act                           silu(gate) * up, what down_proj is given       (B, T, F)

The same names work on this project's model, on a changed copy of it and on transformers' Llama; on any other module
the module paths do. Fused attention never writes scores or probabilities down: there they are computed beside it, from
the same q, k and mask. Nothing that is recorded changes a bit of the output, and leaving the `with` block, by an
exception too, leaves the model as it was.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .model import repeat_heads

Edit = Callable[[Tensor], Tensor]

IN_ATTENTION = ("q_rot", "k_rot", "keys", "values", "scores", "probabilities", "mixed")
LOOK_ONLY = ("rope.cos", "rope.sin", "k_rot", "after_attention")  # a change here would reach only some readers


class Seen(Mapping):
    """What a trace recorded: name -> tensor of the last call, in the order of computation."""

    def __init__(self):
        self._calls: dict[str, list[Tensor]] = {}
        self.written: set[str] = set()  # scores and probabilities that the model itself wrote down

    def calls(self, name: str) -> list[Tensor]:
        """One tensor for each time the point was passed."""
        return self._calls[name]

    def add(self, name: str, value: Tensor) -> None:
        self._calls.setdefault(name, []).append(value.detach().clone())  # later operations may work in place

    def __getitem__(self, name: str) -> Tensor:
        return self._calls[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def __len__(self) -> int:
        return len(self._calls)


@contextmanager
def trace(
    model: nn.Module, points: Sequence[str] = (), edit: Mapping[str, Edit] | None = None, *, beside: bool = True
) -> Iterator[Seen]:
    """Record the points that match, and pass those named in `edit` through a function.

    points    names; in a pattern `*` stands for any one part between dots, `**` for any number of parts
    edit      name or pattern -> function of the tensor, which returns what to go on with
    beside    compute scores and probabilities where attention does not write them; False leaves them out

    Raises ValueError for a name or pattern that matches no point, and for an edit where none is possible.
    """
    edit = dict(edit or {})
    names = dict.fromkeys(point_names(model))
    asked = {pattern: matching(pattern, names) for pattern in [*points, *edit]}
    for pattern, found in asked.items():
        if not found:
            raise ValueError(f"no point of this model matches {pattern!r}; there are {', '.join([*names][:40])}, …")
        for name in found:
            if pattern in edit and name.endswith(LOOK_ONLY):
                raise ValueError(f"{name} can be looked at but not edited; edit what comes before or after it")
    modules = named_modules(model)
    watch = _Watch(
        {name for pattern in points for name in asked[pattern]},
        {name: change for pattern, change in edit.items() for name in asked[pattern]},
        beside,
        modules,
    )
    with ExitStack() as undo:
        for path, module in modules.items():
            watch.install(path, module, undo)
        yield watch.seen


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by the names that points have: transformers' paths lose their `model.`.

    A module that stands at several places in the tree has a name for each of them.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    inner = "model." if hasattr(modules.get("model"), "layers") else ""
    return {path.removeprefix(inner): module for path, module in modules.items() if path not in ("", "model")}


def point_names(model: nn.Module) -> list[str]:
    """Every point of a model that can be traced."""
    names = []
    modules = named_modules(model)
    for path, module in modules.items():
        names.append(path)
        if is_attention(path, module):
            names += [f"{path}.{point}" for point in IN_ATTENTION]
        elif f"{path}.o_proj" in modules and hasattr(module, "head_dim"):
            names.append(f"{path}.mixed")  # without a seam around attention, its result is what o_proj is given
        if f"{path}.post_attention_layernorm" in modules:
            names.append(f"{path}.after_attention")
        if f"{path}.down_proj" in modules:
            names.append(f"{path}.mlp_act")
        if path == "layers.0":
            names += ["rope.cos", "rope.sin"]
    return names


def is_attention(path: str, module: nn.Module) -> bool:
    """Has this module a seam around its attention: an `attend` as here, or transformers' table of functions?"""
    return path.endswith("self_attn") and (hasattr(module, "attend") or is_reference(module))


def is_reference(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.")


def matching(pattern: str, names: Mapping[str, None]) -> list[str]:
    """The names that a name or pattern asks for."""
    if "*" not in pattern:
        return [pattern] if pattern in names else []
    parts = {"*": r"[^.]+", "**": r".+"}
    wanted = re.compile(r"\.".join(parts.get(part, re.escape(part)) for part in pattern.split(".")))
    return [name for name in names if wanted.fullmatch(name)]


class _Watch:
    """The hooks of one trace, and what they have seen."""

    def __init__(self, wanted: set[str], edits: dict[str, Edit], beside: bool, modules: Mapping[str, nn.Module]):
        self.wanted = wanted
        self.edits = edits
        self.beside = beside
        self.modules = modules
        self.seen = Seen()
        self.mixed: set[str] = set()  # attentions whose result was seen at the seam
        self.cached: set[str] = set()  # attentions whose new keys were seen on their way into a cache
        self.places: dict[nn.Module, list[str]] = {}  # the paths of each module, and how often it was passed
        self.passes: dict[nn.Module, int] = {}
        for path, module in modules.items():
            self.places.setdefault(module, []).append(path)

    def concerns(self, *names: str) -> bool:
        return any(name in self.wanted or name in self.edits for name in names)

    def passing(self, name: str, value: Tensor) -> Tensor:
        """A tensor at a point: changed if that was asked for, then recorded."""
        if name in self.edits:
            value = self.edits[name](value)
        if name in self.wanted:
            self.seen.add(name, value)
        return value

    def is_here(self, path: str, module: nn.Module) -> bool:
        """Of a module that stands at several places: is this pass the one at `path`? They are passed in turn."""
        paths = self.places[module]
        return len(paths) == 1 or paths[(self.passes.get(module, 0) - 1) % len(paths)] == path

    def count(self, module: nn.Module, args) -> None:
        self.passes[module] = self.passes.get(module, 0) + 1

    def install(self, path: str, module: nn.Module, undo: ExitStack) -> None:
        def on_exit(handle) -> None:
            undo.callback(handle.remove)

        if len(self.places[module]) > 1 and self.places[module][0] == path:
            on_exit(module.register_forward_pre_hook(self.count))

        parent, _, last = path.rpartition(".")
        if path == "layers.0" and self.concerns("rope.cos", "rope.sin"):
            on_exit(module.register_forward_pre_hook(self.rotation, with_kwargs=True))
        if last == "post_attention_layernorm" and self.concerns(f"{parent}.after_attention"):
            on_exit(module.register_forward_pre_hook(self.before(f"{parent}.after_attention", path)))
        if last == "down_proj" and self.concerns(f"{parent}.mlp_act"):
            on_exit(module.register_forward_pre_hook(self.before(f"{parent}.mlp_act", path)))
        if last == "o_proj" and self.concerns(f"{parent}.mixed") and hasattr(self.modules[parent], "head_dim"):
            on_exit(module.register_forward_pre_hook(self.before_o_proj(parent, path)))
        if self.concerns(path):
            on_exit(module.register_forward_hook(self.after(path)))
        if is_attention(path, module) and self.concerns(f"{path}.k_rot"):
            on_exit(module.register_forward_pre_hook(self.caching(path), with_kwargs=True))
        if is_attention(path, module) and self.concerns(*(f"{path}.{point}" for point in IN_ATTENTION)):
            (_open_here if hasattr(module, "attend") else _open_reference)(self, path, module, undo)

    def before(self, name: str, path: str):
        def hook(module, args):
            return (self.passing(name, args[0]), *args[1:]) if args and self.is_here(path, module) else None

        return hook

    def before_o_proj(self, attention: str, path: str):
        """Attention's result, where it came by another way than through the seam: (B, T, H * D) as heads and back."""

        def hook(module, args):
            if attention in self.mixed:
                self.mixed.discard(attention)
                return None
            if not args or not self.is_here(path, module):
                return None
            heads = args[0].unflatten(-1, (-1, self.modules[attention].head_dim)).transpose(1, 2)
            return (self.passing(f"{attention}.mixed", heads).transpose(1, 2).flatten(2), *args[1:])

        return hook

    def after(self, path: str):
        def hook(module, args, output):
            if not self.is_here(path, module):
                return None
            if isinstance(output, tuple):  # transformers' attention returns its weights as well
                return (self.passing(path, output[0]), *output[1:])
            return self.passing(path, output) if isinstance(output, Tensor) else None

        return hook

    def rotation(self, module, args, kwargs) -> None:
        pair = kwargs.get("position_embeddings") or next((a for a in args[1:] if isinstance(a, tuple)), None)
        if pair is not None and len(pair) == 2:
            self.passing("rope.cos", pair[0])
            self.passing("rope.sin", pair[1])

    def caching(self, path: str):
        """Around the cache that attention is given, so that new keys are seen before it does anything to them."""

        def tell(k: Tensor) -> None:
            self.cached.add(path)
            self.passing(f"{path}.k_rot", k)

        def watched(x):
            return _WatchedCache(x, tell) if hasattr(x, "append") or hasattr(x, "update") else x

        def hook(module, args, kwargs):
            if not self.is_here(path, module):
                return None
            return tuple(map(watched, args)), {name: watched(x) for name, x in kwargs.items()}

        return hook

    def attention(self, path: str, run: Callable, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float):
        """Call attention, `run(q, k, v)` -> (B, H, T, D), and pass every point in it on the way."""
        at = f"{path}.{{}}".format
        q = self.passing(at("q_rot"), q)
        k = self.passing(at("keys"), k)
        if path not in self.cached:
            self.passing(at("k_rot"), k[:, :, k.shape[2] - q.shape[2] :])
        self.cached.discard(path)
        v = self.passing(at("values"), v)
        if self.concerns(at("scores"), at("probabilities")):
            with _Softmax(self, path) as softmax:
                mixed = run(q, k, v)
            if not softmax.happened:
                if any(at(name) in self.edits for name in ("scores", "probabilities")):
                    raise ValueError(f"fused attention has no scores to edit in {path}; load with attention='eager'")
                if self.beside:
                    scores = scores_beside(q, k, mask, scale)
                    self.passing(at("scores"), scores)
                    self.passing(at("probabilities"), scores.softmax(-1, dtype=torch.float32))
        else:
            mixed = run(q, k, v)
        self.mixed.add(path)
        return self.passing(at("mixed"), mixed)


class _WatchedCache:
    """One layer's cache, or transformers' for all of them, which first tells what is written."""

    def __init__(self, cache, tell: Callable[[Tensor], None]):
        self._cache, self._tell = cache, tell

    def __getattr__(self, name: str):
        found = getattr(self._cache, name)
        if name not in ("append", "update"):
            return found

        def write(k: Tensor, *more, **options):
            self._tell(k)
            return found(k, *more, **options)

        return write


class _Softmax(TorchFunctionMode):
    """While attention runs, catch the call of softmax: its input is the scores, its result the probabilities."""

    def __init__(self, watch: _Watch, path: str):
        super().__init__()
        self.watch, self.path, self.happened = watch, path, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") != "softmax" or args[0].dim() != 4 or self.happened:
            return func(*args, **(kwargs or {}))
        self.happened = True
        names = f"{self.path}.scores", f"{self.path}.probabilities"
        self.watch.seen.written.update(names)
        scores = self.watch.passing(names[0], args[0])
        return self.watch.passing(names[1], func(scores, *args[1:], **(kwargs or {})))


def scores_beside(q: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The scores that fused attention does not show, as written-out attention would have them."""
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, torch.finfo(q.dtype).min).to(q.dtype)
    return q @ repeat_heads(k, q.shape[1]).transpose(2, 3) * scale + mask  # (B, H, T, S)


def _open_here(watch: _Watch, path: str, module: nn.Module, undo: ExitStack) -> None:
    """Put the points of attention around the `attend` of a module of this project."""
    attend = module.attend

    def watched(q, k, v, mask):
        if not watch.is_here(path, module):
            return attend(q, k, v, mask)
        return watch.attention(path, lambda q, k, v: attend(q, k, v, mask), q, k, v, mask, q.shape[3] ** -0.5)

    module.attend = watched
    undo.callback(setattr, module, "attend", attend)


def _open_reference(watch: _Watch, path: str, module: nn.Module, undo: ExitStack) -> None:
    """The same for transformers, which looks its attention up in a table: for this module, answer with ours around."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS as table

    look_up = table.get_interface

    def get_interface(name, default):
        attend = look_up(name, default)

        def watched(caller, q, k, v, mask, scaling=None, **kwargs):
            if caller is not module or not watch.is_here(path, module):
                return attend(caller, q, k, v, mask, scaling=scaling, **kwargs)
            weights = None

            def run(q, k, v):
                nonlocal weights
                mixed, weights = attend(caller, q, k, v, mask, scaling=scaling, **kwargs)
                return mixed.transpose(1, 2)

            return watch.attention(path, run, q, k, v, mask, scaling).transpose(1, 2), weights

        return watched

    table.get_interface = get_interface
    undo.callback(_restore, table, look_up)


def _restore(table, look_up) -> None:
    """Take our answer off the table; the bound method of its class needs no copy on the object."""
    if getattr(look_up, "__self__", None) is table:
        del table.get_interface
    else:
        table.get_interface = look_up
