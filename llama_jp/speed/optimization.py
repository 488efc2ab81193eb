"""Make a model faster on the CPU: the same weights, multiplied by the fastest kernels of this machine.

A decoding step loads every weight once and does little else, so its time is that of the matrix products. The fastest
kernel for them differs between machines. `optimize` measures the kernels of `linear/kernels.py`, selects the best for
each shape, and fuses q, k, v into one product, and gate, up into another. Where rounding may differ, it also measures a
kernel for the attention of one query. Its result lists the kernels and the numerical deviation.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..linear.fused import FusedLinear, FusedSlice, LinearLayer, free_weight, kind_of
from ..linear.kernels import LinearKernel, available_kernels
from ..linear.layer import QuantizedLinear
from ..linear.one_query import OneQueryAttention
from ..model import Attention, Llama, SelfAttention
from ..numerics import difference, kl_divergence
from .attention_selection import AttentionChoice, replaceable_attentions, select_attention
from .kernel_selection import PROMPT_ROWS, fused_product, select_kernel

LEVELS = {
    "exact": "only kernels with bit-identical results on this machine",
    "close": "other orders of rounding as well, and another attention for one query per row",
    "int8": "other orders of rounding, and for int8 weights also activations rounded to eight bits",
}


def optimize(model: Llama, level: str = "exact", rows: int = 1, ids: Tensor | None = None) -> Optimized:
    """Make a model faster in place, for inference on the CPU, and measure the numerical deviation.

    level  the deviation allowed: "exact" none, "close" the last digits, "int8" activations in eight bits (`LEVELS`)
    rows   of a decoding step, for which the kernels are compared: 1 for one text, the batch size for a batch, the
           number of draft tokens plus one for speculation
    ids    (1, T) int64, the text on which the deviation is measured; default: random ids, the same in every call

    The result prints as a table, and its `undo()` restores the model. Until then the replaced layers have no
    parameters, hooks on them get the same inputs and outputs, and a backward pass is refused.

    Raises ValueError for an unknown level, fewer than one row, a model on another device than the CPU, and an optimised
    model. Raises RuntimeError when "exact" changes the logits on this machine. After any exception the model is as it
    was.
    """
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, not {level!r}")
    if rows < 1:
        raise ValueError(f"rows, the number of rows in a decoding step, is at least 1, not {rows}")
    if model.embed_tokens.weight.device.type != "cpu":
        raise ValueError(f"optimize works on the CPU, but the model is on {model.embed_tokens.weight.device}")
    if any(is_replaced(module) for module in model.modules()):
        raise ValueError("the model is optimised already; call undo() on the result of optimize first")

    before = sample_logits(model, ids, rows)
    for fuse in (True, False):
        replacements = Replacements(model)
        try:
            with torch.no_grad():
                report = choose_and_replace(replacements, level, rows, fuse)
            deviation = measure_deviation(before, sample_logits(model, ids, rows))
        except BaseException:  # KeyboardInterrupt as well
            replacements.undo()
            raise
        if level != "exact" or not deviation.differing:
            break
        replacements.undo()  # for odd sizes, a fused product may sum in another order than separate ones: try those
    else:
        raise RuntimeError(
            f"level 'exact' changes the logits on this machine ({deviation}), so nothing was changed; try level 'close'"
        )
    for notice in report.notices:
        warnings.warn(notice, stacklevel=2)
    return Optimized(
        level, rows, report.choices, report.attention, report.left_alone, report.notices, deviation, replacements
    )


@dataclass
class KernelChoice:
    """The kernel for all layers of one shape."""

    layers: str  # such as "q_proj k_proj v_proj"
    outputs: int
    inputs: int
    kernel: str
    speedup: float  # of the product alone, at `rows` rows
    speedup_prompt: float  # of the product alone, at the rows of a prompt


@dataclass
class NumericalDeviation:
    """The distance of the logits after a change from those before, over a prefill and a few decoding steps."""

    elements: int
    differing: int
    median_ulp: int  # of the elements that differ
    max_ulp: int  # large where a number near zero changes its sign
    mean_kl: float  # divergence of the new next-token distribution from the old one, in nats
    top1: float  # share of the tokens with the same most probable next token

    def __str__(self) -> str:
        if not self.differing:
            return f"none: all {self.elements:,} logits measured are bit-identical"
        return (
            f"{self.differing:,} of {self.elements:,} logits differ, by {self.median_ulp} ULP in the median "
            f"and {self.max_ulp:,} at most (near zero); KL divergence {self.mean_kl:.1e} nats per token, "
            f"the same most probable token in {self.top1:.1%}"
        )


@dataclass
class Report:
    """The selection for every shape of layer in a model."""

    choices: list[KernelChoice] = field(default_factory=list)
    attention: AttentionChoice | None = None  # None: as it is
    left_alone: list[str] = field(default_factory=list)  # names of layers that no kernel replaces
    notices: list[str] = field(default_factory=list)  # one for each kernel that this machine does not have

    def leave_alone(self, names: tuple[str, ...]) -> None:
        self.left_alone += [name for name in names if name not in self.left_alone]


@dataclass
class Optimized:
    """The result of `optimize`. It prints as a table."""

    level: str
    rows: int
    choices: list[KernelChoice]
    attention: AttentionChoice | None  # for one query per row; None: as it is
    left_alone: list[str]
    notices: list[str]
    deviation: NumericalDeviation
    replacements: Replacements

    def undo(self) -> None:
        """Restore the model's own layers, with bit-identical weights."""
        self.replacements.undo()

    def as_dict(self) -> dict[str, Any]:
        """The result for JSON, without notices."""
        return {
            "level": self.level,
            "rows": self.rows,
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "attention": None if self.attention is None else dataclasses.asdict(self.attention),
            "left_alone": self.left_alone,
            "deviation": dataclasses.asdict(self.deviation),
        }

    def __str__(self) -> str:
        lines = [f"{'layers':24} {'shape':>14}  {'kernel':22} {f'{self.rows} rows':>9} {f'{PROMPT_ROWS} rows':>9}"]
        for choice in self.choices:
            shape = f"{choice.outputs} x {choice.inputs}"
            speedups = f"{choice.speedup:8.2f}x {choice.speedup_prompt:8.2f}x"
            lines.append(f"{choice.layers:24} {shape:>14}  {choice.kernel:22} {speedups}")
        if self.attention is not None:
            lines.append(str(self.attention))
        if self.left_alone:
            lines.append(f"left alone: {', '.join(self.left_alone)}")
        return "\n".join([*lines, f"numerical deviation: {self.deviation}"])


class LayerGroup(NamedTuple):
    """Layers of one module with the same input, so that one product can replace them."""

    parent: nn.Module
    names: tuple[str, ...]

    def layers(self) -> list[nn.Module | None]:
        """The layers; None for a name that a changed module does not have."""
        return [getattr(self.parent, name, None) for name in self.names]


def is_replaced(module: nn.Module) -> bool:
    """Whether `optimize` has put this module, or its attention function, in the place of the model's own."""
    return isinstance(module, FusedSlice) or isinstance(getattr(module, "attend", None), OneQueryAttention)


class Replacements:
    """The original layers and attention functions, kept while other kernels replace them."""

    def __init__(self, model: Llama):
        self.model = model
        self.replaced: list[tuple[nn.Module, str, LinearLayer]] = []  # parent, name, layer
        self.attentions: list[tuple[SelfAttention, Attention]] = []

    def replace(self, group: LayerGroup, layers: list[LinearLayer], kernel: type[LinearKernel]) -> None:
        """Put one product in the place of a group's layers, and free their weights.

        Each step leaves a state that `undo` can restore, since Ctrl-C may come between any two.
        """
        fused = FusedLinear(fused_product(kernel, layers), [layer.out_features for layer in layers])
        for index, (name, layer) in enumerate(zip(group.names, layers, strict=True)):
            self.replaced.append((group.parent, name, layer))
            setattr(group.parent, name, FusedSlice(fused, index).eval())
            if layer.weight is not self.model.embed_tokens.weight:
                free_weight(layer)

    def replace_attention(self, module: SelfAttention) -> None:
        """Put the kernel for one query in front of the attention function of a module."""
        self.attentions.append((module, module.attend))
        module.attend = OneQueryAttention(module.attend)

    def undo(self) -> None:
        """Restore the layers, with bit-identical weights, and the attention functions."""
        for module, attend in self.attentions:
            module.attend = attend
        self.attentions.clear()
        with torch.no_grad():
            for parent, name, layer in self.replaced:
                current = getattr(parent, name)
                if isinstance(current, FusedSlice):
                    setattr(parent, name, current.restore(layer))
        self.replaced.clear()


def groups_of(model: Llama, fuse: bool) -> Iterator[LayerGroup]:
    """The linear layers of a model, grouped by their input, or each layer by itself if not `fuse`."""
    for block in model.layers:
        for part, names in (
            ("self_attn", ("q_proj", "k_proj", "v_proj")),
            ("self_attn", ("o_proj",)),
            ("mlp", ("gate_proj", "up_proj")),
            ("mlp", ("down_proj",)),
        ):
            parent = getattr(block, part, block)  # a changed block may lack the part; its layers are then left alone
            yield from [LayerGroup(parent, names)] if fuse else [LayerGroup(parent, (name,)) for name in names]
    yield LayerGroup(model, ("lm_head",))


def replaceable(modules: list[nn.Module | None]) -> list[LinearLayer] | None:
    """The modules as linear layers that a kernel can replace, or None.

    Such layers are plain or quantised, of the same kind, and have neither a bias nor hooks. A user's own module stays
    in its place.
    """
    layers: list[LinearLayer] = []
    for module in modules:
        if type(module) is not nn.Linear and not isinstance(module, QuantizedLinear):
            return None
        if module.bias is not None or module._forward_hooks or module._forward_pre_hooks:
            return None
        layers.append(module)
    return layers if len({kind_of(layer) for layer in layers}) == 1 else None


class GroupKey(NamedTuple):
    """The properties of a group that decide its kernel: groups with the same key get the same kernel."""

    names: tuple[str, ...]
    kind: str
    outputs: int  # of all layers together
    inputs: int


def choose_and_replace(replacements: Replacements, level: str, rows: int, fuse: bool) -> Report:
    """Select a kernel for each shape, and pack layer by layer: at most one group is in memory twice."""
    model, report = replacements.model, Report()
    dtype = model.embed_tokens.weight.dtype
    groups_by_key: dict[GroupKey, list[tuple[LayerGroup, list[LinearLayer]]]] = {}
    for group in groups_of(model, fuse):
        layers = replaceable(group.layers())
        if layers is None:
            report.leave_alone(group.names)
            continue
        outputs = sum(layer.out_features for layer in layers)
        key = GroupKey(group.names, kind_of(layers[0]), outputs, layers[0].in_features)
        groups_by_key.setdefault(key, []).append((group, layers))

    activations = "int8" if level == "int8" else "float"
    with tqdm(desc="optimizing", total=sum(map(len, groups_by_key.values())), disable=None, leave=False) as bar:
        for key, groups in groups_by_key.items():
            kernels, missing = available_kernels(key.kind, (key.outputs, key.inputs), dtype, activations)
            report.notices += [notice for notice in missing if notice not in report.notices]
            if key.kind != "float" and len(kernels) > 1:
                kernels.remove(LinearKernel)  # conversion to floats in each call is by far slower, and slow to measure
            selection = select_kernel(kernels, [layers for _, layers in groups], dtype, rows, level == "exact")
            if selection is None:
                report.leave_alone(key.names)
                bar.update(len(groups))
                continue
            kernel, speedup, speedup_prompt = selection
            report.choices.append(
                KernelChoice(" ".join(key.names), key.outputs, key.inputs, kernel.name, speedup, speedup_prompt)
            )
            for group, layers in groups:
                replacements.replace(group, layers, kernel)
                bar.update()
    if level != "exact":
        report.attention, notice = select_attention(model, rows)
        report.notices += [notice] if notice else []
        for module in replaceable_attentions(model) if report.attention else ():
            replacements.replace_attention(module)
    return report


@torch.inference_mode()
def sample_logits(model: Llama, ids: Tensor | None, rows: int, steps: int = 4) -> list[Tensor]:
    """Logits of a text in one call, of a few decoding steps after it, and of one step of `rows` rows."""
    if ids is None:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, model.config.vocab_size, (1, 64), generator=generator)
    text = ids[:, : model.config.max_position_embeddings - steps]
    cache = model.new_cache(1, text.shape[1] + steps)
    logits = [model(text, cache)]
    for step in range(steps):
        logits.append(model(text[:, step : step + 1], cache))
    if rows > 1:
        logits.append(model(text[:, :1].expand(rows, 1)))
    return logits


def measure_deviation(before: list[Tensor], after: list[Tensor]) -> NumericalDeviation:
    """Compare two lists of logits (…, V) of the same calls."""
    x, y = (torch.cat([logits.flatten(0, 1) for logits in calls]) for calls in (before, after))  # (tokens, V)
    distance = difference(x[:, None], y[:, None])
    kl = max(kl_divergence(x, y).mean().item(), 0.0)
    top1 = (x.argmax(-1) == y.argmax(-1)).float().mean().item()
    return NumericalDeviation(distance.elements, distance.differing, distance.median_ulp, distance.max_ulp, kl, top1)
