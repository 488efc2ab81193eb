"""A backend of torch.compile for decoding steps on the CPU: the product of one row is a loop over the weight.

The library behind `F.linear` takes several times as long for one row of float32 as memory needs for the weight. As
products and a sum, the compiler fuses the row's product with what comes before and after it. The sums have another
order, so the last bits differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from ..linear.kernels import sum_of_products


def compile_with_sums(graph: fx.GraphModule, examples: list[Any]) -> Callable[..., Any]:
    """Compile a graph by inductor, after each `F.linear` of one row has become `linear_of_one_row`."""
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target is F.linear and is_one_row(node.args[0]):
            node.target = linear_of_one_row
    graph.recompile()
    compiled: Callable[..., Any] = torch._inductor.compile(graph, examples)
    return compiled


def is_one_row(node: Any) -> bool:
    """Whether an argument of a graph's node is a tensor (1, …, 1, K)."""
    x = node.meta.get("example_value") if isinstance(node, fx.Node) else None
    return isinstance(x, Tensor) and x.dim() > 0 and x.shape[:-1].numel() == 1


def linear_of_one_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` for one row, summed in float32: x (1, …, 1, K), weight (N, K) -> (1, …, 1, N)."""
    y = sum_of_products(weight, x.flatten()).view(*x.shape[:-1], -1)
    return y if bias is None else y + bias
