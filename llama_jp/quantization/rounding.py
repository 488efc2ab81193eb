"""Round weights to the nearest int8 or int4 numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..linear.scheme import Scheme
from ..linear.weight import Weight, pack_int4

WEIGHTS_AT_ONCE = 1 << 19  # of one thread: their float32 copies stay in the processor's cache

SHRINKS = tuple(1 - 0.04 * i for i in range(11))  # fractions of a group's range that its 16 values may cover


def round_weight(scheme: Scheme, name: str, weight: Tensor) -> Weight:
    """Round the weight (N, K) of the linear module `name` to nearest.

    Raises ValueError, with the name, for values that are not finite and for K not divisible by the group size.
    """
    group_size = scheme.weight_format(name).group_size
    layouts = scheme.tensor_layouts(name, tuple(weight.shape))
    tensors = {part: torch.empty(layout.shape, dtype=layout.dtype) for part, layout in layouts.items()}
    rows_at_once = max(1, WEIGHTS_AT_ONCE // weight.shape[1])
    inference = torch.is_inference_mode_enabled()

    def round_rows(start: int) -> None:
        with torch.inference_mode(inference), torch.no_grad():  # modes of each thread
            rows = check_finite(weight[start : start + rows_at_once].float(), name)
            rounded = round_int8(rows) if group_size is None else round_int4(rows, group_size)
            for part, values in rounded.tensors().items():
                tensors[part][start : start + len(rows)] = values

    run_in_threads(round_rows, range(0, len(weight), rows_at_once))
    return Weight.from_tensors(tensors)


def run_in_threads(function: Callable[[int], None], items: Iterable[int]) -> None:
    """Call `function` for each item, on as many threads as torch uses; in each of them an operation has one thread.

    The other way, with all threads in each operation, every operation waits for the last thread. Beside another busy
    process that takes most of the time.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in pool.map(function, items):  # raises what a call raised
                pass
    finally:
        torch.set_num_threads(threads)  # the number of threads that start later


def check_finite(weight: Tensor, name: str) -> Tensor:
    """Return the weight of module `name` unchanged. ValueError for NaN or infinity."""
    if not weight.abs().amax().isfinite():  # ten times as fast as isfinite() of every value
        raise ValueError(f"{name}.weight has values that are not finite; the file may be damaged")
    return weight


def round_int8(weight: Tensor) -> Weight:
    """Round float32 rows (N, K) to int8. The largest absolute value of a row becomes 127; zero stays zero."""
    scale = weight.abs().amax(1) / 127
    scale = scale.where(scale > 0, 1)  # a row of zeros
    steps = weight / scale[:, None]
    return Weight(steps.round_().clamp_(-127, 127).to(torch.int8), scale)


def round_int4(weight: Tensor, group_size: int) -> Weight:
    """Round float32 rows (N, K) to int4 with the scales of `fit_groups`."""
    groups = weight.unflatten(1, (-1, group_size))  # (N, G, g)
    scale, zero = fit_groups(groups)
    return Weight(pack_int4(nearest_int4(groups, scale, zero).flatten(1)), scale, zero)


def fit_groups(groups: Tensor, shrinks: tuple[float, ...] = SHRINKS) -> tuple[Tensor, Tensor]:
    """The scale and the zero of each group that give the least squared rounding error.

    The candidates cover the fractions `shrinks` of the group's range. A smaller range has smaller steps but clips the
    largest values.

    Shapes: groups (…, G, g) float32 -> scale, zero (…, G) bfloat16.
    """
    low, high = groups.aminmax(dim=-1)
    best = torch.full_like(low, torch.inf)
    scale, zero = (torch.zeros_like(low, dtype=torch.bfloat16) for _ in range(2))
    for shrink in shrinks:
        step = (high - low) * shrink / 15
        middle = low * shrink + 8 * step
        # rounding: to bfloat16 first, so that the weights are rounded with the scale and the zero that are stored
        step, middle = step.where(step > 0, 1).bfloat16(), middle.bfloat16()  # a constant group equals its zero
        values = nearest_steps(groups, step, middle).mul_(step[..., None]).add_(middle[..., None])
        error = values.sub_(groups).square_().sum(-1)  # (…, G)
        better = error < best
        best = error.where(better, best)
        scale, zero = step.where(better, scale), middle.where(better, zero)
    return scale, zero


def nearest_int4(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The q = 0 … 15 nearest to each value. Shapes: groups (…, G, g), scale, zero (…, G) -> (…, G, g) uint8."""
    return nearest_steps(groups, scale, zero).add_(8).to(torch.uint8)


def nearest_steps(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """`nearest_int4` - 8 as float32. In place after the first operation: new memory takes longer than arithmetic."""
    return (groups - zero[..., None]).div_(scale[..., None]).round_().clamp_(-8, 7)
