"""Several linear layers of one input computed as one product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .kernels import LinearKernel
from .weight import PARTS, Weight


class FusedSlice(nn.Module):
    """One of the layers whose weights were joined into one product; computed with its neighbours, handed out alone."""

    def __init__(self, joined: FusedLinear, index: int):
        super().__init__()
        self.joined = joined
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            raise RuntimeError("an optimised model has no gradients; call undo() on what optimize returned first")
        return self.joined(x, self.index)

    def restore(self, layer: nn.Module) -> nn.Module:
        """The layer that stood here, its weights filled in again (a tied head has kept them)."""
        return layer if layer.weight.numel() else fill(layer, self.joined.weight_of(self.index))

    def _apply(self, *_) -> FusedSlice:
        raise RuntimeError(
            "an optimised model cannot be moved or converted; call undo() on what optimize returned first"
        )

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        for name, tensor in zip(PARTS, self.joined.weight_of(self.index), strict=True):
            if tensor is not None:
                destination[prefix + name] = tensor


class FusedLinear:
    """One product for layers that read the same input."""

    def __init__(self, product: LinearKernel, sizes: list[int]):
        self.product = product
        self.sizes = sizes
        self.x: Tensor | None = None  # the input that `outputs` belong to, until the last of them is taken
        self.outputs: list[Tensor] = []

    def __call__(self, x: Tensor, index: int) -> Tensor:
        if len(self.sizes) == 1:
            return self.product(x)
        if x is not self.x:
            # each in one piece, as if computed alone: what comes next may round differently where rows lie apart
            self.x, self.outputs = x, [y.contiguous() for y in self.product(x).split(self.sizes, dim=-1)]
        y = self.outputs[index]
        if index == len(self.sizes) - 1:
            self.x, self.outputs = None, []
        return y

    def weight_of(self, index: int) -> Weight:
        part = self.product.unpack().split(self.sizes)[index]
        return Weight(*(None if tensor is None else tensor.clone() for tensor in part))


def weight_of(layer: nn.Module) -> Weight:
    """What a plain or a quantised linear layer multiplies by."""
    return Weight(layer.weight.detach()) if isinstance(layer, nn.Linear) else layer.stored_weight()


def fill(layer: nn.Module, weight: Weight) -> nn.Module:
    if isinstance(layer, nn.Linear):
        layer.weight = nn.Parameter(weight.values, layer.weight.requires_grad)
    else:
        layer.assign_weight(weight)
    return layer


def empty(layer: nn.Module) -> nn.Module:
    """Free the layer's memory, until `fill` gives it its weight again."""
    return fill(layer, Weight(*(None if part is None else part.new_empty(0) for part in weight_of(layer))))


def kind_of(layer: nn.Module) -> str:
    return "float" if isinstance(layer, nn.Linear) else f"int{layer.bits}"


def nbytes_of(layer: nn.Module) -> float:
    size = layer.weight.element_size() if isinstance(layer, nn.Linear) else layer.bits / 8
    return layer.in_features * layer.out_features * size
