"""int8 and int4 weights: which numbers stand in the files, and the module that computes with them.

    int8   weight int8 (N, K), -127 … 127; scale float32 (N,)
           value[n, k] = weight[n, k] * scale[n]
    int4   weight uint8 (N, K / 2), the even input in the low four bits; scale, zero bfloat16 (N, K / group)
           value[n, k] = (q[n, k] - 8) * scale[n, k // group] + zero[n, k // group]      q = 0 … 15

N is outputs, K is inputs. Embeddings, norms and biases are never quantised. The int4 numbers are the ones that torch's
`_weight_int4pack_mm_for_cpu` takes, so a product written for them needs no conversion that rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import Llama
from ..products import PARTS, Plain, Weight, as_loaded

GROUP_SIZES = (128, 64, 32)
METHODS = ("rtn", "gptq")
FORMAT = 1  # of the files; a later one that these lines do not understand counts up
ROWS_AT_ONCE = 64  # rows are rounded in blocks that fit the cache: ten times as fast, and no large float32 copies
SHRINKS = tuple(1 - 0.04 * i for i in range(11))  # how much of a group's range its sixteen values may cover


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is quantised: `quantization_config` in its config.json."""

    bits: int
    group_size: int | None = None  # int4 only: inputs that share a scale and a zero
    method: str = "rtn"  # round to nearest, or gptq
    head_bits: int | None = 8  # None: the head is the embedding matrix (tied), and left alone as that

    def __post_init__(self):
        if self.bits not in (4, 8):
            raise ValueError(f"bits is 4 or 8, not {self.bits!r}")
        if (self.bits == 4) != (self.group_size is not None):
            raise ValueError(f"group_size is for 4 bits and only for them, but bits is {self.bits}")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, sorted(GROUP_SIZES)))
            raise ValueError(f"group_size is one of {sizes}, not {self.group_size!r}")
        if self.method not in METHODS:
            raise ValueError(f"method is {' or '.join(METHODS)}, not {self.method!r}")
        if self.method == "gptq" and self.bits != 4:
            raise ValueError("gptq is for 4 bits; int8 rounded to nearest has nothing left to gain")
        if self.head_bits not in (None, 8, self.bits):
            raise ValueError(f"head_bits is 8 or bits, which is {self.bits}, not {self.head_bits!r}")

    @classmethod
    def from_json(cls, raw: object) -> Scheme:
        """Read `quantization_config`. What is not understood to the last key is refused."""
        if not isinstance(raw, dict) or raw.get("quant_method") != "llama_jp":
            raise ValueError(f"quantization_config {raw!r} is not supported; only llama_jp's own is")
        if raw.get("format") != FORMAT:
            raise ValueError(f"quantization_config has the format {raw.get('format')!r}; supported is {FORMAT}")
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in raw]:
            raise ValueError(f"quantization_config has no {', '.join(missing)}")
        try:
            scheme = cls(**{name: raw[name] for name in names})
        except ValueError as error:
            raise ValueError(f"quantization_config: {error}") from None
        expected = scheme.to_json()
        if wrong := [key for key in raw.keys() | expected.keys() if raw.get(key) != expected.get(key)]:
            raise ValueError(f"quantization_config has {wrong[0]} {raw.get(wrong[0])!r}, which is not understood")
        return scheme

    def to_json(self) -> dict:
        alone = ["embed_tokens", "norms", "biases"] + ["lm_head"] * (self.head_bits is None)
        return {"quant_method": "llama_jp", "format": FORMAT, **dataclasses.asdict(self), "left_alone": alone}

    def __str__(self) -> str:
        text = (
            "int8, a scale for each row" if self.bits == 8 else f"int4 in groups of {self.group_size} ({self.method})"
        )
        return (
            text if self.head_bits == self.bits else f"{text}, lm_head {('int8' if self.head_bits else 'left alone')}"
        )

    def for_module(self, name: str) -> tuple[int, int | None] | None:
        """(bits, group size) of a linear module, or None where it is left alone."""
        bits = self.head_bits if name == "lm_head" else self.bits
        return None if bits is None else (bits, self.group_size if bits == 4 else None)

    def parts(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor that the weight of module `name` becomes."""
        (N, K), (bits, group_size) = shape, self.for_module(name)
        if bits == 8:
            return {"weight": ((N, K), torch.int8), "scale": ((N,), torch.float32)}
        if K % group_size:
            fitting = [str(size) for size in sorted(GROUP_SIZES) if K % size == 0]
            way_out = f"{' and '.join(fitting)} would" if fitting else "none of 32, 64 and 128 does; use 8 bits"
            raise ValueError(f"{name} has {K} inputs, which groups of {group_size} do not divide; {way_out}")
        groups = (N, K // group_size), torch.bfloat16
        return {"weight": ((N, K // 2), torch.uint8), "scale": groups, "zero": groups}

    def quantize(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """Round the weight (N, K) of module `name` to nearest -> its parts."""
        bits, group_size = self.for_module(name)
        outside = self.parts(name, tuple(weight.shape))
        parts = {part: torch.empty(shape, dtype=dtype) for part, (shape, dtype) in outside.items()}
        for start in range(0, len(weight), ROWS_AT_ONCE):
            rows = finite(weight[start : start + ROWS_AT_ONCE].float(), name)
            rounded = round_int8(rows) if bits == 8 else round_int4(rows, group_size)
            for part, values in rounded.items():
                parts[part][start : start + len(rows)] = values
        return parts


def linear_modules(model: nn.Module, scheme: Scheme) -> dict[str, nn.Linear]:
    """The modules that a scheme quantises, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and scheme.for_module(name)
    }


def make_quantized(model: Llama, scheme: Scheme) -> None:
    """Put an empty `QuantizedLinear` in the place of every linear module that the scheme quantises."""
    for name, linear in linear_modules(model, scheme).items():
        N, K = linear.weight.shape
        parent, _, child = name.rpartition(".")
        quantized = QuantizedLinear(K, N, scheme.parts(name, (N, K)), linear.bias)
        setattr(model.get_submodule(parent), child, quantized)
    model.quantization = scheme


class QuantizedLinear(nn.Module):
    """nn.Linear with its weight in 8 or 4 bits.

    The result is the product with the dequantised weight, and on a CPU comes from an operator of `products.py` that
    reads the bytes themselves, where there is one. Gradients flow through to x; the weight itself is not trained.
    """

    def __init__(self, in_features: int, out_features: int, parts: dict, bias: Tensor | None = None):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits = 4 if "zero" in parts else 8
        self.group_size = in_features // parts["scale"][0][1] if self.bits == 4 else None
        for name, (shape, dtype) in parts.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype))
        self.register_parameter("bias", bias)
        self.product: Plain | None = None  # made at the first use; while it is there, it holds the weight

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None or x.device.type != "cpu" or (torch.is_grad_enabled() and x.requires_grad):
            return F.linear(x, self.dequantize(x.dtype), self.bias)
        if self.product is None or self.product_dtype != x.dtype:
            self.product, self.product_dtype = as_loaded(self.stored(), x.dtype), x.dtype
            self.empty()  # a packing of its own takes the weight's place, so that it is not in memory twice
        return self.product(x)

    def stored(self) -> Weight:
        """The weight as the files have it."""
        if self.product is not None:
            return self.product.unpack()
        return Weight(self.weight, self.scale, getattr(self, "zero", None))

    def fill(self, weight: Weight) -> None:
        self.product = None
        for name, tensor in zip(PARTS, weight, strict=True):
            if tensor is not None:
                setattr(self, name, tensor)

    def empty(self) -> None:
        for name, _ in self.named_buffers():
            setattr(self, name, getattr(self, name).new_empty(0))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The weight (N, K) as numbers: computed in float32, rounded once."""
        return values_of(*self.stored()).to(dtype)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + n: t for n, t in zip(PARTS, self.stored(), strict=True) if t is not None})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move with `.to(device)`, but never round: `.half()` is about what is computed in, not what is stored."""
        self.fill(self.stored())
        stored = [id(buffer) for buffer in self.buffers()]

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if id(tensor) in stored and moved.dtype != tensor.dtype else moved

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        groups = f", group_size={self.group_size}" if self.bits == 4 else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}{groups}"


def values_of(values: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    """The numbers (N, K) that stored ones stand for, in float32."""
    return values.float() * scale[:, None] if zero is None else int4_values(unpack(values), scale, zero)


# ---- rounding


def finite(weight: Tensor, name: str) -> Tensor:
    if not weight.isfinite().all():
        raise ValueError(f"{name}.weight has values that are not finite")
    return weight


def round_int8(weight: Tensor) -> dict[str, Tensor]:
    """Rows of float32 to int8: the largest value of a row becomes 127 or -127, zero stays zero."""
    scale = weight.abs().amax(1) / 127
    scale = scale.where(scale > 0, 1)  # a row of zeros
    return {"weight": (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8), "scale": scale}


def round_int4(weight: Tensor, group_size: int) -> dict[str, Tensor]:
    """Rows of float32 (N, K) to int4, with the scales that `fit_groups` finds."""
    groups = weight.unflatten(1, (-1, group_size))  # (N, G, g)
    scale, zero = fit_groups(groups)
    return {"weight": pack(nearest_int4(groups, scale, zero).flatten(1)), "scale": scale, "zero": zero}


def fit_groups(groups: Tensor, shrinks: tuple[float, ...] = SHRINKS) -> tuple[Tensor, Tensor]:
    """The scale and zero of each group: of several ranges, from all of it to a part, the one with the least error.

    Shapes: groups (…, G, g) float32 -> scale, zero (…, G) bfloat16.
    They are rounded to bfloat16 before anything is measured, so the weights are rounded with what will be stored.
    """
    low, high = groups.aminmax(dim=-1)
    best = torch.full_like(low, torch.inf)
    scale, zero = (torch.zeros_like(low, dtype=torch.bfloat16) for _ in range(2))
    for shrink in shrinks:
        step = (high - low) * shrink / 15
        middle = low * shrink + 8 * step
        step, middle = step.where(step > 0, 1).bfloat16(), middle.bfloat16()  # a constant group is its zero
        values = int4_values(nearest_int4(groups, step, middle), step, middle)
        error = (values - groups.flatten(-2)).square().unflatten(-1, groups.shape[-2:]).sum(-1)  # (…, G)
        better = error < best
        best = error.where(better, best)
        scale, zero = step.where(better, scale), middle.where(better, zero)
    return scale, zero


def nearest_int4(groups: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """The q = 0 … 15 nearest to each value: groups (…, G, g), scale and zero (…, G) -> (…, G, g) uint8."""
    steps = (groups - zero[..., None]) / scale[..., None]
    return (steps.round() + 8).clamp(0, 15).to(torch.uint8)


def int4_values(q: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """What q stands for, in float32: q (…, K) or (…, G, g), scale and zero (…, G) -> (…, K)."""
    groups = q.reshape(*scale.shape, -1).float() - 8
    return (groups * scale[..., None].float() + zero[..., None].float()).flatten(-2)


def pack(q: Tensor) -> Tensor:
    """Two values a byte: (N, K) -> (N, K / 2)."""
    return q[:, 0::2] | q[:, 1::2] << 4


def unpack(packed: Tensor) -> Tensor:
    """(N, K / 2) -> (N, K) uint8, 0 … 15."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)
