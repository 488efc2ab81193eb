"""A linear layer with an int8 or int4 weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import Llama
from .kernels import LinearKernel, default_kernel
from .scheme import Scheme
from .weight import PARTS, Weight, values_of


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
        self.product: LinearKernel | None = None  # made at the first use; while it is there, it holds the weight

    def forward(self, x: Tensor) -> Tensor:
        uses_kernel = x.device.type == "cpu" and not (torch.is_grad_enabled() and x.requires_grad)
        if uses_kernel and torch.compiler.is_compiling():
            from .untraced import call_untraced  # imports the compiler

            return call_untraced(self.forward, x)  # torch.compile cannot trace kernels, nor the packing of a weight
        if self.bias is not None or x.device.type != "cpu" or (torch.is_grad_enabled() and x.requires_grad):
            return F.linear(x, self.dequantize(x.dtype), self.bias)
        if self.product is None or self.product_dtype != x.dtype:
            self.product, self.product_dtype = default_kernel(self.stored(), x.dtype), x.dtype
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
