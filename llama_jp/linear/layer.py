"""The linear layer with an int8 or int4 weight, and its place in a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import Llama
from .kernels import LinearKernel, default_kernel
from .scheme import Scheme, TensorLayout
from .weight import Weight, dequantize


def linear_modules(model: nn.Module, scheme: Scheme) -> dict[str, nn.Linear]:
    """The linear modules that a scheme quantises, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and scheme.quantizes(name)
    }


def make_quantized(model: Llama, scheme: Scheme) -> None:
    """Replace every linear module that the scheme quantises by a `QuantizedLinear` with uninitialised weights."""
    for name, linear in linear_modules(model, scheme).items():
        N, K = linear.weight.shape
        parent, _, child = name.rpartition(".")
        quantized = QuantizedLinear(K, N, scheme.tensor_layouts(name, (N, K)), linear.bias)
        setattr(model.get_submodule(parent), child, quantized)
    model.quantization = scheme  # type: ignore[assignment]  # torch types every module attribute as Tensor or Module


class QuantizedLinear(nn.Module):
    """`nn.Linear` with an int8 or int4 weight.

    The definition of the result is the product with the dequantised weight. In bfloat16 on a CPU, a kernel of
    `kernels.py` multiplies by the stored bytes directly, if one is available on this machine. Gradients flow to the
    input; the weight is not trained.

    layouts  shape and dtype of the stored tensors, from `Scheme.tensor_layouts`
    bias     (N,), or None
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor | None  # int4 only
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        layouts: Mapping[str, TensorLayout],
        bias: nn.Parameter | None = None,
    ):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.bits = 4 if "zero" in layouts else 8
        self.group_size = in_features // layouts["scale"].shape[1] if self.bits == 4 else None
        for name, (shape, dtype) in layouts.items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype))
        if "zero" not in layouts:
            self.register_buffer("zero", None)
        self.register_parameter("bias", bias)
        # The kernel is built at the first use. From then on it holds the weight, and the buffers are empty.
        self.kernel: LinearKernel | None = None
        self.kernel_dtype: torch.dtype | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None or x.device.type != "cpu" or (torch.is_grad_enabled() and x.requires_grad):
            return F.linear(x, self.dequantize(x.dtype), self.bias)
        if torch.compiler.is_compiling():
            from .untraced import call_untraced  # imports the compiler

            return call_untraced(self.forward, x)  # torch.compile cannot trace kernels, nor the packing of a weight
        if self.kernel is None or self.kernel_dtype != x.dtype:
            self.kernel, self.kernel_dtype = default_kernel(self.stored_weight(), x.dtype), x.dtype
            self.free_weight()  # a kernel may pack the weight, which would then be in memory twice
        return self.kernel(x)

    def stored_weight(self) -> Weight:
        """The weight as stored in the files, unpacked from the kernel if one holds it."""
        if self.kernel is not None:
            return self.kernel.unpack()
        return Weight(self.weight, self.scale, self.zero)

    def assign_weight(self, weight: Weight) -> None:
        """Replace the weight by one of the same format and discard the kernel of the old weight."""
        self.kernel = None
        for name, tensor in weight.tensors().items():
            setattr(self, name, tensor)

    def free_weight(self) -> None:
        """Replace the buffers by empty ones. The kernel keeps the weight."""
        for name, buffer in list(self.named_buffers()):
            setattr(self, name, buffer.new_empty(0))

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The values of the weight (N, K), computed in float32 and rounded once to `dtype`."""
        return dequantize(self.stored_weight(), dtype)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({prefix + name: tensor for name, tensor in self.stored_weight().tensors().items()})

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> QuantizedLinear:
        """Move the weight with `.to(device)`, but never round it: `.half()` sets the dtype of computation only."""
        self.assign_weight(self.stored_weight())
        stored = [id(buffer) for buffer in self.buffers()]

        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if id(tensor) in stored and moved.dtype != tensor.dtype else moved

        return super()._apply(move, recurse)

    def extra_repr(self) -> str:
        groups = f", group_size={self.group_size}" if self.bits == 4 else ""
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}{groups}"
