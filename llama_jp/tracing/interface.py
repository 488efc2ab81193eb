"""`trace`: check the names, install the hooks, remove them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from .activations import Activations, Reduce, make_reducer
from .hooks import install_hooks
from .points import NOT_EDITABLE, NOT_REACHED, is_compiled, matching_points, named_modules, point_names
from .recorder import Edit, Recorder, StopForward


@contextmanager
def trace(
    model: nn.Module,
    points: Sequence[str] = (),
    edit: Mapping[str, Callable[..., Tensor]] | None = None,
    *,
    keep_graph: bool = False,
    reduce: str | Reduce | None = None,
    stop_after: str | None = None,
    compute_scores: bool = True,
) -> Iterator[Activations]:
    """Record the activations at `points`, and replace those at the points in `edit`.

    points          names or patterns: `*` matches one part between dots, `**` one or more parts
    edit            name or pattern -> a function `(x)` or `(x, point)` that returns the tensor's replacement, of the
                    same shape and dtype. `point` has .name, .layer (None outside the layers) and .call (0 for the first
                    call inside the block, 1, 2 …)
    keep_graph      record tensors with their autograd graph, so that gradients reach them and pass through them. An
                    error where gradients are off
    reduce          keep a running result in place of all calls: a function `(total, x) -> total`, whose first total is
                    None, or "mean", "sum", "max" (of all vectors: (size of the last dimension,)) or "norm" (the mean
                    L2 norm of the vectors: ()). Vectors at padding positions count
    stop_after      end the forward after this point was computed. The call does not return: the program goes on after
                    the `with` block. A `Cache` keeps its length
    compute_scores  compute scores and probabilities separately where attention is fused; False: leave them out

    A point with an edit is recorded after the edit.
    Raises ValueError for a name or pattern that matches no point, for an edit of a point that is not editable, and for
    two edits of one point. At the end of the block, raises ValueError for an edit or a `stop_after` that was not
    reached, and for an edit with `point` that never changed its tensor.
    """
    if keep_graph and reduce is not None:
        raise ValueError("keep_graph keeps every call and reduce keeps none; choose one of them")
    if isinstance(points, str):
        raise ValueError(f"points is a list of names; write [{points!r}]")
    names = point_names(model)
    edits = [Edit(pattern, function) for pattern, function in (edit or {}).items()]
    patterns = [*points, *(each.pattern for each in edits), *([stop_after] if stop_after else [])]
    matches = {pattern: matching_points(pattern, names) for pattern in patterns}
    for pattern, matched in matches.items():
        if not matched:
            kinds = dict.fromkeys(re.sub(r"\blayers\.\d+", "layers.*", name) for name in names)
            raise ValueError(f"no point of this model matches {pattern!r}; there are {', '.join(kinds)}")
    for each in edits:
        if fixed := [name for name in matches[each.pattern] if name.endswith(NOT_EDITABLE)]:
            raise ValueError(f"{fixed[0]} can be recorded but not edited; edit a point before or after it")
    edit_of: dict[str, Edit] = {}
    for each in edits:
        for name in matches[each.pattern]:
            if (other := edit_of.setdefault(name, each)) is not each:
                raise ValueError(
                    f"{name} has two edits, {other.pattern} and {each.pattern}; put them into one function"
                )
    if stop_after and len(matches[stop_after]) > 1:
        raise ValueError(f"stop_after is one point, and {stop_after!r} matches {len(matches[stop_after])}")
    modules = named_modules(model)
    recorder = Recorder(
        {name for pattern in points for name in matches[pattern]},
        edit_of,
        matches[stop_after][0] if stop_after else None,
        Activations(None if reduce is None else make_reducer(reduce)),
        modules,
        keep_graph=keep_graph,
        compute_scores=compute_scores,
    )
    try:
        with ExitStack() as undo:  # undoes a part of the installation as well, when the rest of it fails
            if patterns and is_compiled(model):
                undo.enter_context(torch.compiler.set_stance("force_eager"))
            if patterns:
                install_hooks(recorder, undo)
            yield recorder.activations
    except StopForward as stop:
        if stop.recorder is not recorder:  # of an outer trace
            raise
    else:
        if stop_after:
            raise ValueError(f"the forward did not end after {stop_after}: {NOT_REACHED}")
    # another exception inside the block does not come here
    containers = {path for path, module in modules.items() if type(module).forward is nn.Module.forward}
    named = {name for each in edits if "*" not in each.pattern for name in matches[each.pattern]}
    if missed := sorted(recorder.edits.keys() - recorder.computed.keys() - (containers - named)):
        reason = f"the forward ended before, after {stop_after}" if stop_after else NOT_REACHED
        raise ValueError(f"the edit of {', '.join(missed[:4])}{', …' * (len(missed) > 4)} had no effect: {reason}")
    for each in edits:
        if each.takes_point and not each.has_acted:
            calls = max(recorder.computed[name] for name in matches[each.pattern])
            raise ValueError(
                f"the edit of {each.pattern} returned each tensor unchanged; its points were computed {calls} times, "
                "and point.call counts from 0"
            )
