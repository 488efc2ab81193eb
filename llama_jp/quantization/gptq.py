"""int4 that makes up for its rounding errors, layer by layer, on a calibration text.

A weight is rounded because of what it multiplies. If x are the inputs that a linear module sees on real text, what
matters is not how far the rounded W' is from W, but how far W' x is from W x, and that depends on H = mean of x x^T
alone. With U^T U = H, U upper triangular, and e a row of W - W', the mean of (e x)^2 over the text is

    e H e^T  =  sum over k of (U[k, k] e[k] + U[k, k+1:] e[k+1:])^2

So the columns are rounded from the last to the first, and column k not from W[k] but from the value at which its term
would be zero: W[k] + U[k, k+1:] e[k+1:] / U[k, k]. It takes up the errors of the columns behind it.

See: "GPTQ", arXiv:2210.17323, algorithm 1, which says the same, from first to last, with the inverse of H.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..evaluation.documents import Window
from ..evaluation.layerwise import seen_from
from ..linear.scheme import Scheme
from ..linear.weight import int4_values, pack, unpack
from ..model import Llama
from .rounding import finite, fit_groups, nearest_int4

DAMPING = 0.01  # of the mean of H's diagonal, added to it: a text never shows every direction

PANEL = 1024  # rows of H that are summed in one product


class Calibration:
    """The text on its way through the quantised layers: each layer is rounded for what it will really be given."""

    def __init__(self, model: Llama, scheme: Scheme, windows: list[Window], dtype: torch.dtype, bar: tqdm):
        """`model` is on the meta device; its blocks get their weights one at a time, and lose them again.

        The text is read in `dtype`; moments and rounding are float32. `bar` counts the weights that are done.
        """
        self.model, self.scheme, self.windows, self.dtype, self.bar = model, scheme, windows, dtype, bar
        self.hidden: list[Tensor] = []  # for each window (1, T, C)

    @torch.inference_mode()
    def quantize(self, name: str, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Round one block, given its tensors -> the parts of each linear module's weight. All by their full names.

        The embedding is what the text goes through first; norm and head come after all blocks and are not calibrated.
        """
        if name == "embed_tokens":
            self.hidden = [weights["embed_tokens.weight"][window.ids].to(self.dtype) for window in self.windows]
        if not name.startswith("layers."):
            return {}
        block = self.model.get_submodule(name)
        own = {full.removeprefix(f"{name}."): tensor for full, tensor in weights.items()}
        # norms and biases are used as they are; matrices, still mapped, are replaced before anything is multiplied
        numbers = {part: tensor.to(self.dtype) if tensor.dim() == 1 else tensor for part, tensor in own.items()}
        block.load_state_dict(numbers, assign=True)
        made = {}

        def calibrate(modules: list[str], inputs: list[Tensor]) -> None:
            """Round the modules that read these inputs, and put them into the block."""
            factor = unit_factor(second_moments(inputs), f"{name}.{modules[0]}")
            for module in modules:
                weight = finite(own[f"{module}.weight"].float(), f"{name}.{module}")
                made[f"{name}.{module}"] = parts = round_gptq(weight, factor, self.scheme.group_size)
                values = int4_values(unpack(parts["weight"]), parts["scale"], parts["zero"]).to(self.dtype)
                block.get_submodule(module).weight = nn.Parameter(values, requires_grad=False)
                self.bar.update(weight.numel())

        # what a block's forward does, window by window, with a stop before each product
        attention, mlp, hidden = block.self_attn, block.mlp, self.hidden
        normed = [block.input_layernorm(x) for x in hidden]
        calibrate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], normed)
        with passing_on(attention, "o_proj"):
            mixed = [attention(x, *seen_from(self.model, x), None) for x in normed]
        calibrate(["self_attn.o_proj"], mixed)
        hidden = [x + attention.o_proj(y) for x, y in zip(hidden, mixed, strict=True)]
        normed = [block.post_attention_layernorm(x) for x in hidden]
        calibrate(["mlp.gate_proj", "mlp.up_proj"], normed)
        with passing_on(mlp, "down_proj"):
            inner = [mlp(x) for x in normed]
        calibrate(["mlp.down_proj"], inner)
        self.hidden = [x + mlp.down_proj(y) for x, y in zip(hidden, inner, strict=True)]
        block.to("meta")
        return made


@contextmanager
def passing_on(parent: nn.Module, child: str) -> Iterator[None]:
    """Inside, a linear module gives what it is given."""
    linear = getattr(parent, child)
    setattr(parent, child, nn.Identity())
    yield
    setattr(parent, child, linear)


def second_moments(inputs: list[Tensor]) -> Tensor:
    """H, the mean of x x^T over inputs (1, T, K): (K, K) float32. Only its upper half is filled in: H is symmetric."""
    K = inputs[0].shape[-1]
    total = torch.zeros(K, K)
    for x in inputs:
        x = x[0].float()  # (T, K)
        for start in range(0, K, PANEL):
            total[start : start + PANEL, start:].addmm_(x[:, start : start + PANEL].T, x[:, start:])
    return total.div_(sum(x.shape[1] for x in inputs))


def unit_factor(moments: Tensor, name: str) -> Tensor:
    """The upper triangular U with U^T U = H, damped, each row divided by its diagonal: (K, K). Of H the upper half."""
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    try:
        factor = torch.linalg.cholesky(moments, upper=True)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"the inputs of {name} on the calibration text cannot be used: {error}") from error
    return factor.div_(factor.diagonal()[:, None].clone())


def round_gptq(weight: Tensor, factor: Tensor, group_size: int) -> dict[str, Tensor]:
    """Round W (N, K) with the unit factor (K, K) of its inputs -> the parts of an int4 weight."""
    columns = weight.T.contiguous()  # (K, N): each column of W in one piece
    errors = torch.empty_like(columns)
    q = torch.empty(columns.shape, dtype=torch.uint8)
    scales, zeros = [], []
    for start in reversed(range(0, len(columns), group_size)):
        end = start + group_size
        pull = factor[start:end, end:] @ errors[end:]  # (g, N): what the columns behind the group ask of each
        # where the columns of the group would go if none of them were rounded: the values that the scale is for
        moves = torch.linalg.solve_triangular(factor[start:end, start:end], pull, upper=True, unitriangular=True)
        moved = (columns[start:end] + moves).T  # (N, g)
        scale, zero = fit_groups(moved[:, None], shrinks=(1.0,))  # (N, 1); less range was no better here
        wanted = columns[start:end] + pull
        for k in reversed(range(start, end)):
            value = torch.addmv(wanted[k - start], errors[k + 1 : end].T, factor[k, k + 1 : end])
            nearest = nearest_int4(value[:, None, None], scale, zero)  # (N, 1, 1)
            q[k] = nearest.view(-1)
            errors[k] = columns[k] - int4_values(nearest, scale, zero).view(-1)
        scales.insert(0, scale)
        zeros.insert(0, zero)
    return {"weight": pack(q.T.contiguous()), "scale": torch.cat(scales, 1), "zero": torch.cat(zeros, 1)}
