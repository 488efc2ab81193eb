"""The same model, faster: other ways to multiply by the same weights, chosen by measuring them on this machine.

A decoding step reads every weight once and does little else, so its time is that of the products, and which product is
fastest differs from machine to machine: `optimize` times those that `products.py` knows, takes the best for each shape,
computes q, k and v in one product and gate and up in another, and says what it changed and what that costs in bits.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..linear.fused import FusedLinear, FusedSlice, empty, kind_of, weight_of
from ..linear.kernels import LinearKernel, available_kernels
from ..linear.weight import join
from ..model import Llama
from .kernel_selection import MANY, fastest

LEVELS = {
    "exact": "only what gives the same bits, as far as measured",
    "close": "other orders of rounding as well",
    "int8": "other orders of rounding, and where weights are int8, rows of activations rounded to eight bits as well",
}


def optimize(model: Llama, level: str = "exact", rows: int = 1, ids: Tensor | None = None) -> Optimized:
    """Make a model faster in place, for inference on the CPU, and say at what price.

    level  what may be given up: "exact" nothing, "close" the last digits, "int8" eight-bit activations too (`LEVELS`)
    rows   how many rows a decoding step has, which decides what is fastest: 1 for one text, the batch size for a batch,
           the drafted tokens and one more for speculation
    ids    (1, T) int64, a text on which the price is measured; by default the same random ids every time

    The result prints as a table and its `undo()` gives the model back as it was. Until then the layers replaced have no
    parameters, hooks on them see the same inputs and outputs, and gradients are refused.

    Raises ValueError for an unknown level, a model that is not on the CPU, or one that is optimised already, and
    RuntimeError where "exact" turns out not to be: the model is then as it was.
    """
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
    if rows < 1:
        raise ValueError(f"rows is the number of rows of a decoding step, so at least 1, not {rows}")
    if model.embed_tokens.weight.device.type != "cpu":
        raise ValueError(f"optimize is for the CPU, and the model is on {model.embed_tokens.weight.device}")
    if any(isinstance(module, FusedSlice) for module in model.modules()):
        raise ValueError("the model is optimised already; call undo() on what optimize returned first")

    before = sample_logits(model, ids, rows)
    for joining in (True, False):
        done = Optimized(model, level, rows)
        try:
            with torch.no_grad():
                choose_and_replace(done, joining)
            done.price = measure_deviation(before, sample_logits(model, ids, rows))
        except BaseException:  # Ctrl-C as well: a model is optimised or as it was
            done.undo()
            raise
        if level != "exact" or not done.price.differing:
            break
        done.undo()  # odd sizes: a joined product may sum in another order than the products alone
    else:
        raise RuntimeError(f"the bits could not be kept here ({done.price}), so nothing was changed; try level 'close'")
    for notice in done.notices:
        warnings.warn(notice, stacklevel=2)
    return done


@dataclass
class KernelChoice:
    """What was taken for all layers of one shape."""

    layers: str  # such as "q_proj k_proj v_proj"
    outputs: int
    inputs: int
    way: str
    speedup: float  # of the product alone, at `rows` rows
    speedup_many: float  # at a prompt's number of rows


@dataclass
class NumericalDeviation:
    """How far the logits moved, over a text read at once and a few steps after it."""

    elements: int
    differing: int
    median_ulp: int  # of those that differ
    max_ulp: int  # large where a number near zero changes its sign
    mean_kl: float  # of the next-token distribution, in nats, as it was from as it is
    top1: float  # how often the likeliest token is the same

    def __str__(self) -> str:
        if not self.differing:
            return f"none: all {self.elements:,} logits measured are equal to the bit"
        return (
            f"{self.differing:,} of {self.elements:,} logits differ, by {self.median_ulp} ULP in the median "
            f"and {self.max_ulp:,} at most (near zero); "
            f"KL {self.mean_kl:.1e} nats a token, the same likeliest token in {self.top1:.1%}"
        )


@dataclass
class Optimized:
    """What `optimize` did. Printed, it is a table."""

    model: Llama
    level: str
    rows: int
    choices: list[KernelChoice] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    price: NumericalDeviation | None = None
    replaced: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)

    def undo(self) -> None:
        """Give the model its own layers back, with the same weights to the bit."""
        with torch.no_grad():
            for parent, name, shell in self.replaced:
                part = getattr(parent, name)
                setattr(parent, name, part.restore(shell))
        self.replaced.clear()

    def as_dict(self) -> dict:
        return {
            "level": self.level,
            "rows": self.rows,
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "left_alone": self.left_alone,
            "price": dataclasses.asdict(self.price),
        }

    def __str__(self) -> str:
        lines = [f"{'layers':24} {'shape':>14}  {'way':22} {f'{self.rows} rows':>9} {f'{MANY} rows':>9}"]
        for choice in self.choices:
            shape = f"{choice.outputs} x {choice.inputs}"
            lines.append(
                f"{choice.layers:24} {shape:>14}  {choice.way:22} {choice.speedup:8.2f}x {choice.speedup_many:8.2f}x"
            )
        if self.left_alone:
            lines.append(f"left alone: {', '.join(self.left_alone)}")
        return "\n".join([*lines, f"price: {self.price}"])


def groups_of(model: Llama, joining: bool) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """(parent, names): layers that read the same input and can be one product, or (not `joining`) each by itself."""
    for block in model.layers:
        for parent, names in (
            (block.self_attn, ("q_proj", "k_proj", "v_proj")),
            (block.self_attn, ("o_proj",)),
            (block.mlp, ("gate_proj", "up_proj")),
            (block.mlp, ("down_proj",)),
        ):
            yield from [(parent, names)] if joining else [(parent, (name,)) for name in names]
    yield model, ("lm_head",)


def can_be_replaced(layers: list[nn.Module]) -> bool:
    """LinearKernel or quantised linear layers without bias, all alike. A researcher's own module or hook stays where it is."""
    ours = all(type(layer) is nn.Linear or hasattr(layer, "stored_weight") for layer in layers)
    ours = ours and not any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    return ours and len({kind_of(layer) for layer in layers}) == 1 and all(layer.bias is None for layer in layers)


def choose_and_replace(done: Optimized, joining: bool) -> None:
    """Time the ways for each shape, then pack layer by layer, so that no more than one group is in memory twice."""
    model = done.model
    dtype = model.embed_tokens.weight.dtype
    shapes: dict[tuple, list[tuple[nn.Module, tuple[str, ...]]]] = {}
    for parent, names in groups_of(model, joining):
        layers = [getattr(parent, name) for name in names]
        if can_be_replaced(layers):
            outputs = sum(layer.out_features for layer in layers)
            shape = (names, kind_of(layers[0]), outputs, layers[0].in_features)
            shapes.setdefault(shape, []).append((parent, names))
        else:
            done.left_alone += [name for name in names if name not in done.left_alone]

    activations = "int8" if done.level == "int8" else "float"
    with tqdm(desc="optimizing", total=sum(map(len, shapes.values())), disable=None, leave=False) as bar:
        for (names, kind, outputs, inputs), groups in shapes.items():
            ways, missing = available_kernels(kind, (outputs, inputs), dtype, activations)
            done.notices += [notice for notice in missing if notice not in done.notices]
            if kind != "float" and len(ways) > 1:
                ways.remove(LinearKernel)  # turning bytes into floats first is slower by far, and slow to time
            found = fastest(ways, groups, dtype, done.rows, exact=done.level == "exact")
            if found is None:
                done.left_alone += [name for name in names if name not in done.left_alone]
                bar.update(len(groups))
                continue
            way, faster, faster_many = found
            done.choices.append(KernelChoice(" ".join(names), outputs, inputs, way.name, faster, faster_many))
            for parent, _ in groups:
                replace(done, parent, names, way)
                bar.update()


def replace(done: Optimized, parent: nn.Module, names: tuple[str, ...], way: type[LinearKernel]) -> None:
    layers = [getattr(parent, name) for name in names]
    joined = FusedLinear(way(join([weight_of(layer) for layer in layers])), [layer.out_features for layer in layers])
    for index, (name, layer) in enumerate(zip(names, layers, strict=True)):
        shell = layer if layer.weight is done.model.embed_tokens.weight else empty(layer)
        done.replaced.append((parent, name, shell))
        setattr(parent, name, FusedSlice(joined, index).eval())


@torch.inference_mode()
def sample_logits(model: Llama, ids: Tensor | None, rows: int, steps: int = 4) -> list[Tensor]:
    """Logits of a text read at once, and of a few steps of `rows` tokens after it."""
    if ids is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, model.config.vocab_size, (1, 64), generator=generator)
    whole = ids[:, : model.config.max_position_embeddings - steps]
    cache = model.new_cache(1, whole.shape[1] + steps)
    logits = [model(whole, cache)]
    for step in range(steps):
        logits.append(model(whole[:, step : step + 1], cache))
    if rows > 1:
        logits.append(model(whole[:, :1].expand(rows, 1)))
    return logits


def measure_deviation(before: list[Tensor], after: list[Tensor]) -> NumericalDeviation:
    from ..numerics import difference

    x, y = (torch.cat([part.flatten(0, 1) for part in logits]) for logits in (before, after))
    apart = difference(x[:, None], y[:, None])
    p, q = x.float().log_softmax(-1), y.float().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean().item()
    same = (x.argmax(-1) == y.argmax(-1)).float().mean().item()
    return NumericalDeviation(apart.elements, apart.differing, apart.median_ulp, apart.max_ulp, max(kl, 0.0), same)
