"""Make a model faster on the CPU: the same weights, multiplied by the fastest kernels of this machine.

A decoding step loads every weight once and does little else, so its time is that of the matrix products. The fastest
kernel for them differs between machines. `optimize` measures the kernels of `linear/kernels.py`, selects the best for
each shape, and fuses q, k, v into one product, and gate, up into another. Where rounding may differ, it also measures a
kernel for the attention of one query. Its result lists the kernels and the numerical deviation.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoint.config import dtype_name
from ..linear.fused import FusedLinear, FusedSlice, LinearLayer, free_weight, kind_of, refuse_conversion, weight_of
from ..linear.kernels import (
    PROMPT_ROWS,
    LinearKernel,
    available_kernels,
    kernels_for,
    reason_of,
    why_wrong,
)
from ..linear.layer import QuantizedLinear
from ..linear.one_query import OneQueryAttention
from ..linear.weight import Weight, join
from ..model import ATTENTIONS, Attention, Llama, SelfAttention
from ..numerics import difference, kl_divergence
from .attention_selection import (
    AttentionChoice,
    attention_choice,
    numbers_of_keys,
    replaceable_attentions,
    select_attention,
    why_not_usable,
)
from .kept_plans import KeptAttention, KeptChoice, KeptPlans
from .kernel_selection import Selection, ring_of, same_results, select_kernel, separate_products

HEAD = ("lm_head",)  # a prompt needs the logits of its last token only

FEW_ROWS = (1, 2, 8, 17, 64)  # at which the first product of each shape is compared again after packing

LEVELS = {
    "exact": "only kernels with bit-identical results on this machine",
    "close": "other orders of rounding as well, and another attention for one query per row",
    "int8": "other orders of rounding, and for int8 weights also activations rounded to eight bits",
}


def optimize(
    model: Llama, level: str = "exact", rows: int = 1, ids: Tensor | None = None, *, measure: bool = True
) -> Optimized:
    """Make a model faster in place, for inference on the CPU, and measure the numerical deviation.

    level  the deviation allowed: "exact" none, "close" the last digits, "int8" activations in eight bits (`LEVELS`)
    rows   of a decoding step, for which the kernels are compared: 1 for one text, the batch size for a batch, the
           number of draft tokens plus one for speculation
    ids    (1, T) int64, the text on which the deviation is measured; default: random ids, the same in every call
    measure  False: where every choice is a kept one, do not measure the deviation of the whole model, which takes
             longer than packing. Each packed product is compared with its layers in any case

    What is chosen for a shape is kept for the next call on this machine (see kept_plans.py), which then only packs.

    The result prints as a table, and its `undo()` restores the model. Until then the replaced layers have no
    parameters, hooks on them get the same inputs and outputs, and a backward pass is refused. So are other weights, a
    copy, and another dtype or device. A tied head keeps the weight that the embedding has now.

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

    plan = Plan(model, level, rows)
    before: list[Tensor] | None = None
    while True:
        if before is None and (measure or not plan.is_kept()):
            before = sample_logits(model, ids, rows)
        replacements = Replacements(model)
        deviation = None
        try:
            with torch.no_grad():
                report = choose_and_replace(replacements, plan)
            if before is not None:
                deviation = measure_deviation(before, sample_logits(model, ids, rows))
        except WrongProductError as wrong:
            replacements.undo()
            plan.exclude(wrong)
            continue
        except BaseException:  # KeyboardInterrupt as well
            replacements.undo()
            raise
        if level != "exact" or deviation is None or not deviation.differing:
            break
        replacements.undo()
        if not plan.fuse:
            raise RuntimeError(
                f"level 'exact' changes the logits on this machine ({deviation}), so nothing was changed; "
                "try level 'close'"
            )
        plan = Plan(model, level, rows, fuse=False)  # for odd sizes, a fused product may sum in another order
    plan.save()
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
    deviation: NumericalDeviation | None  # None: not measured, because every choice is a kept one
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
            "deviation": self.deviation and dataclasses.asdict(self.deviation),
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
        deviation = self.deviation or "not measured; each product was compared with its layers"
        return "\n".join([*lines, f"numerical deviation: {deviation}"])


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

    def replace(self, group: LayerGroup, layers: list[LinearLayer], product: LinearKernel) -> None:
        """Put one product in the place of a group's layers, and free their weights.

        Each step leaves a state that `undo` can restore, since Ctrl-C may come between any two.
        """
        fused = FusedLinear(product, [layer.out_features for layer in layers])
        # at the root as well, so that the modules before the first replaced layer are not converted either
        vars(self.model)["_apply"] = refuse_conversion
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
        vars(self.model).pop("_apply", None)


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
    yield LayerGroup(model, HEAD)


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


class WrongProductError(Exception):
    """A kernel whose product of a model's own weights is wrong, fails, or is not bit-identical at level "exact"."""

    def __init__(self, key: GroupKey, kernel: type[LinearKernel], reason: str):
        super().__init__(f"{kernel.name} is not used for {' '.join(key.names)}: {reason}")
        self.key, self.kernel = key, kernel


Groups = list[tuple[LayerGroup, list[LinearLayer]]]


class Plan:
    """The kernel for each shape of layer in a model: kept from an earlier call on this machine, or measured now."""

    def __init__(self, model: Llama, level: str, rows: int, fuse: bool = True):
        self.level, self.rows, self.fuse = level, rows, fuse
        self.model = model
        self.dtype = model.embed_tokens.weight.dtype
        self.exact = level == "exact"
        self.activations = "int8" if level == "int8" else "float"
        self.kept = KeptPlans()
        self.groups: dict[GroupKey, Groups] = {}
        self.not_replaceable: list[tuple[str, ...]] = []
        self.excluded: dict[tuple[GroupKey, str], str] = {}  # kernels that are wrong on the model's weights
        for group in groups_of(model, fuse):
            layers = replaceable(group.layers())
            if layers is None:
                self.not_replaceable.append(group.names)
                continue
            outputs = sum(layer.out_features for layer in layers)
            key = GroupKey(group.names, kind_of(layers[0]), outputs, layers[0].in_features)
            self.groups.setdefault(key, []).append((group, layers))

    def name(self, key: GroupKey) -> str:
        """The key of a choice in the file of kept plans: everything besides the machine on which it depends."""
        dtype, shape = dtype_name(self.dtype), f"{key.outputs} x {key.inputs}"
        blocks = len(ring_of([layers for _, layers in self.groups[key]]))
        return f"{dtype}, {self.level}, rows {self.rows}: {' '.join(key.names)}, {key.kind} {shape}, blocks {blocks}"

    def attention_name(self) -> str | None:
        """The same for the attention of one query. None: no attention is replaced in this model, or at this level."""
        if self.exact or not (modules := replaceable_attentions(self.model)):
            return None
        c, keys = self.model.config, " ".join(map(str, numbers_of_keys(self.model)))
        shape = f"{c.num_attention_heads}/{c.num_key_value_heads} x {c.head_dim}, keys {keys}"
        plain = next(name for name, attend in ATTENTIONS.items() if attend is modules[0].attend)
        return f"{dtype_name(self.dtype)}, rows {self.rows}: attention {plain}, {shape}, blocks {len(modules)}"

    def candidates(self, key: GroupKey) -> list[type[LinearKernel]]:
        """The kernels of which one may be chosen for a shape, whether or not they work on this machine."""
        kernels = kernels_for(key.kind, (key.outputs, key.inputs), self.dtype, self.activations, self.exact)
        return [kernel for kernel in kernels if (key, kernel.name) not in self.excluded]

    def kept_choice(self, key: GroupKey) -> Selection | None:
        """The kept choice for a shape, if its kernel can still be taken; None: it has to be measured."""
        kept = self.kept.layers(self.name(key))
        if kept is None:
            return None
        times = kept.speedup, kept.speedup_prompt, kept.saved_seconds
        if kept.kernel is None:
            return Selection(None, *times)
        for kernel in self.candidates(key):
            if kernel.name == kept.kernel:  # without a test on a small example: each product is compared after packing
                return Selection(kernel, *times)
        return None

    def is_kept(self) -> bool:
        """Whether every shape has a kept choice, so that nothing has to be measured."""
        attention = self.attention_name()
        if attention is not None and self.kept_attention(attention) is None:
            return False
        return all(self.kept_choice(key) is not None for key in self.groups)

    def kept_times(self, tokens: int) -> tuple[float, float]:
        """Seconds saved in so many decoding steps, and seconds of packing, by the kept choices."""
        saved = packing = 0.0
        for key, groups in self.groups.items():
            if (kept := self.kept.layers(self.name(key))) is not None and kept.kernel is not None:
                saved += len(groups) * tokens * kept.saved_seconds
                packing += len(groups) * kept.pack_seconds
        return saved, packing

    def measured_choice(self, key: GroupKey, report: Report) -> Selection:
        """Measure the kernels that work at this shape, and choose the fastest."""
        shape = key.outputs, key.inputs
        kernels, missing = available_kernels(key.kind, shape, self.dtype, self.activations, self.exact)
        report.notices += [notice for notice in missing if notice not in report.notices]
        if key.kind != "float" and len(kernels) > 1:
            kernels.remove(LinearKernel)  # conversion to floats in each call is by far slower, and slow to measure
        kernels = [kernel for kernel in kernels if (key, kernel.name) not in self.excluded]
        groups, every_token = [layers for _, layers in self.groups[key]], key.names != HEAD
        return select_kernel(kernels, groups, self.dtype, self.rows, self.exact, every_token)

    def keep(self, key: GroupKey, selection: Selection, pack_seconds: float) -> None:
        """Keep a measured choice for later calls."""
        kernel = None if selection.kernel is None else selection.kernel.name
        times = selection.speedup, selection.speedup_prompt, selection.saved_seconds
        self.kept.keep(self.name(key), KeptChoice(kernel, *times, pack_seconds))

    def kept_attention(self, name: str) -> KeptAttention | None:
        """The kept choice for the attention, if its kernel can still be taken; None: it has to be measured."""
        kept = self.kept.attention(name)
        return kept if kept is not None and kept.kernel in (None, OneQueryAttention.name) else None

    def choose_attention(self) -> tuple[AttentionChoice | None, str | None]:
        """The kernel for the attention of one query, kept or measured now, or None; and a notice.

        A kept kernel has to be right at the shape of this model again.
        """
        if (name := self.attention_name()) is None:
            return None, None
        if (kept := self.kept_attention(name)) is None:
            choice, notice = select_attention(self.model, self.rows)
            if notice is None:  # else the next start tries again
                kept = KeptAttention(choice.kernel, choice.speedups) if choice else KeptAttention(None, {})
                self.kept.keep(name, kept)
            return choice, notice
        if kept.kernel is None:
            return None, None
        if notice := why_not_usable(self.model, self.rows):
            return None, notice
        return attention_choice(self.model, kept.speedups), None

    def save(self) -> None:
        """Write the measured choices to the file of kept plans."""
        self.kept.save()

    def exclude(self, wrong: WrongProductError) -> None:
        """Do not choose a kernel again for a shape."""
        assert (wrong.key, wrong.kernel.name) not in self.excluded, "an excluded kernel is not chosen again"
        self.excluded[wrong.key, wrong.kernel.name] = str(wrong)


def choose_and_replace(replacements: Replacements, plan: Plan) -> Report:
    """Choose a kernel for each shape, and pack layer by layer."""
    report = Report(notices=list(plan.excluded.values()))
    for names in plan.not_replaceable:
        report.leave_alone(names)
    what = "packing weights" if plan.is_kept() else "optimizing"
    steps = len(plan.groups) + sum(map(len, plan.groups.values()))
    with tqdm(desc=what, total=steps, disable=None, leave=False) as bar:
        chosen: dict[GroupKey, type[LinearKernel]] = {}
        measured: dict[GroupKey, Selection] = {}
        for key, groups in plan.groups.items():
            if (selection := plan.kept_choice(key)) is None:
                selection = measured[key] = plan.measured_choice(key, report)
            bar.update()
            if selection.kernel is None:
                report.leave_alone(key.names)
                bar.update(len(groups))
                continue
            chosen[key] = selection.kernel
            speedups = selection.speedup, selection.speedup_prompt
            kernel = selection.kernel.name
            report.choices.append(KernelChoice(" ".join(key.names), key.outputs, key.inputs, kernel, *speedups))
        seconds = dict.fromkeys(plan.groups, 0.0)
        begun = time.perf_counter()
        for key, group, layers, weight, product in packed_products(plan, chosen):
            rows = (plan.rows, *FEW_ROWS) if layers is plan.groups[key][0][1] else (plan.rows,)
            if reason := why_different(product, layers, weight, plan, rows):
                raise WrongProductError(key, chosen[key], reason)
            replacements.replace(group, layers, product)
            bar.update()
            seconds[key] += time.perf_counter() - begun
            begun = time.perf_counter()
    for key, selection in measured.items():
        plan.keep(key, selection, seconds[key] / len(plan.groups[key]))
    report.attention, notice = plan.choose_attention()
    report.notices += [notice] if notice else []
    for module in replaceable_attentions(replacements.model) if report.attention else ():
        replacements.replace_attention(module)
    return report


def packed_products(
    plan: Plan, chosen: dict[GroupKey, type[LinearKernel]]
) -> Iterator[tuple[GroupKey, LayerGroup, list[LinearLayer], Weight, LinearKernel]]:
    """Pack group by group: one of them is in memory twice, or one for each thread where packing uses one core.

    Raises WrongProductError if a kernel fails: a kept one has not been tested at this shape since the start.
    """

    def pack(key: GroupKey, layers: list[LinearLayer]) -> tuple[Weight, LinearKernel]:
        with torch.no_grad():  # a mode of each thread
            weight = join([weight_of(layer) for layer in layers])
            try:
                return weight, chosen[key](weight)
            except Exception as error:  # an operator of another library may raise any exception
                raise WrongProductError(key, chosen[key], reason_of(error)) from error

    largest_first = sorted(chosen, key=lambda key: key.outputs * key.inputs, reverse=True)  # no core waits for it last
    for packs_alone, keys in itertools.groupby(largest_first, lambda key: chosen[key].packs_alone):
        work = [(key, *each) for key in keys for each in plan.groups[key]]
        at_once = torch.get_num_threads() if packs_alone else 1
        with ThreadPoolExecutor(at_once) as pool:
            started = deque(pool.submit(pack, key, layers) for key, _, layers in work[:at_once])
            for number, (key, group, layers) in enumerate(work):
                yield key, group, layers, *started.popleft().result()
                started.extend(pool.submit(pack, key, layers) for key, _, layers in work[number + at_once :][:1])


def why_different(
    product: LinearKernel, layers: list[LinearLayer], weight: Weight, plan: Plan, rows: tuple[int, ...]
) -> str | None:
    """How a packed product differs from its layers and their joined weight, or None if it may replace them."""
    if plan.exact and weight.kind == "float":
        same = same_results(separate_products(layers), product, weight.inputs, plan.dtype, rows)
        return None if same else "its results are not bit-identical on the model's weights"
    try:
        return why_wrong(product, weight, plan.dtype, rows, sample=True)
    except Exception as error:  # as in packed_products
        return reason_of(error)


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
