"""Several linear layers with the same input, computed as one product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from ..numerics import same_bits
from .kernels import LinearKernel
from .layer import QuantizedLinear
from .weight import Weight

LinearLayer = nn.Linear | QuantizedLinear


class FusedSlice(nn.Module):
    """Stands in the place of one linear layer, and returns that layer's outputs of a `FusedLinear`.

    It has no parameters. Its state dict holds the weight of the layer it replaces.
    """

    def __init__(self, fused: FusedLinear, index: int):
        super().__init__()
        self.fused = fused
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return RefusedBackward.apply(x, self.forward)
        if not torch.compiler.is_compiling():
            return self.fused(x, self.index)
        if not self.fused.kernel.compiles:
            from .untraced import call_untraced

            return call_untraced(self.forward, x)
        return self.fused.slices[self.index](x)  # in a graph, one kernel per layer needs no memory between calls

    def restore(self, layer: LinearLayer) -> LinearLayer:
        """The layer that stood here, with its weight assigned again unless it kept it (a tied head)."""
        return layer if layer.weight.numel() else assign_weight(layer, self.fused.weight_of_slice(self.index))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FusedSlice:
        refuse_conversion()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:  # and `slice.weight = parameter`
        raise refusal("given another weight")

    def _load_from_state_dict(self, *arguments: Any) -> None:
        errors: list[str] = arguments[-1]
        if (message := str(refusal("given other weights"))) not in errors:
            errors.append(message)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, tensor in self.fused.weight_of_slice(self.index).tensors().items():
            destination[prefix + name] = tensor


def refuse_conversion(*_: Any) -> NoReturn:
    raise refusal("moved or converted")


def refusal(what: str) -> RuntimeError:
    """The error for a use that needs the layers themselves."""
    return RuntimeError(f"an optimised model cannot be {what}; call undo() on the result of optimize first")


class RefusedBackward(torch.autograd.Function):
    """A result that can be used, but has no gradient: RuntimeError in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        return compute(x)  # autograd is off in here

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise RuntimeError(
            "an optimised model computes no gradients; call undo() on the result of optimize before training"
        )


class Pending(NamedTuple):
    """Outputs of a product that no slice has returned yet, and everything that they depend on."""

    x: Tensor
    version: tuple[int, int] | None  # None for an inference tensor, which has no version counter
    copy: Tensor | None  # of an inference tensor
    mode: tuple[bool, torch.dtype | None]
    outputs: dict[int, Tensor]  # by the index of the slice

    def depends_on(self, x: Tensor) -> bool:
        """Whether x is the input of these outputs, unchanged since, in the same mode."""
        if x is not self.x or self.mode != compute_mode():
            return False
        return version_of(x) == self.version if self.copy is None else same_bits(x, self.copy)


class FusedLinear:
    """One product for the layers of one input: the first slice called computes it, the others return their parts.

    The parts are kept until they are returned, each of them once. A slice computes the product again when it gets
    another tensor, or the same tensor after a change in place. As in autograd, the version counter of the tensor shows
    the change, so writes through `x.data` or numpy stay unseen. An inference tensor has no counter: its bits are
    compared.

    sizes  the number of outputs of each layer
    """

    def __init__(self, kernel: LinearKernel, sizes: list[int]):
        self.kernel = kernel
        self.sizes = sizes
        self.slices = [type(kernel)(part) for part in kernel.unpack().split(sizes)] if kernel.compiles else []
        self.pending: Pending | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:  # of copy.deepcopy, pickle and torch.save
        raise refusal("copied or pickled")

    def __call__(self, x: Tensor, index: int) -> Tensor:
        """x (..., K) -> the outputs (..., N) of the layer `index`."""
        if len(self.sizes) == 1:
            return self.kernel(x)
        pending, y = self.pending, None  # read once, since another thread may replace it
        if pending is not None and pending.depends_on(x):
            y = pending.outputs.pop(index, None)
        if pending is None or y is None:
            parts = self.kernel.split(x, self.sizes)
            version, copy = (None, x.clone()) if x.is_inference() else (version_of(x), None)
            pending = Pending(x, version, copy, compute_mode(), dict(enumerate(parts)))
            y = pending.outputs.pop(index)
        self.pending = pending if pending.outputs else None
        return y

    def weight_of_slice(self, index: int) -> Weight:
        """A copy of the weight of one layer."""
        tensors = self.kernel.unpack().split(self.sizes)[index].tensors()
        return Weight.from_tensors({name: tensor.clone() for name, tensor in tensors.items()})


def version_of(x: Tensor) -> tuple[int, int]:
    """A value that changes with each change of a tensor in place, and with an assignment to `x.data`."""
    return x._version, x.data_ptr()


def compute_mode() -> tuple[bool, torch.dtype | None]:
    """The modes of torch that decide the kind and dtype of a product besides its operands: inference and autocast."""
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    return torch.is_inference_mode_enabled(), autocast


def weight_of(layer: LinearLayer) -> Weight:
    """The weight of a plain or a quantised linear layer."""
    return layer.stored_weight() if isinstance(layer, QuantizedLinear) else Weight(layer.weight.detach())


def assign_weight(layer: LinearLayer, weight: Weight) -> LinearLayer:
    """Replace the weight of a layer, and return the layer."""
    if isinstance(layer, QuantizedLinear):
        layer.assign_weight(weight)
    else:
        layer.weight = nn.Parameter(weight.values, layer.weight.requires_grad)
    return layer


def free_weight(layer: LinearLayer) -> LinearLayer:
    """Free the memory of a layer's weight until `assign_weight`, and return the layer."""
    tensors = weight_of(layer).tensors()
    return assign_weight(layer, Weight.from_tensors({name: tensor.new_empty(0) for name, tensor in tensors.items()}))


def kind_of(layer: LinearLayer) -> str:
    """The storage format of a layer's weight: "float", "int8" or "int4"."""
    return f"int{layer.bits}" if isinstance(layer, QuantizedLinear) else "float"


def nbytes_of(layer: LinearLayer) -> int:
    """The bytes of a layer's weight, without scales."""
    bits = layer.bits if isinstance(layer, QuantizedLinear) else 8 * layer.weight.element_size()
    return layer.in_features * layer.out_features * bits // 8
