"""int4 that makes up for its rounding errors, layer by layer, on a calibration text.

A weight is rounded because of what it multiplies. If x are the inputs that a linear module sees on real text, what
matters is not how far the rounded W' is from W, but how far W' x is from W x, and that depends on H = mean of x x^T
alone. GPTQ rounds one column of W after the other; after each, the columns not yet rounded move a little, so that they
take up as much of the error just made as they can.

See: "GPTQ", arXiv:2210.17323, algorithm 1.
"""

from __future__ import annotations

from contextlib import suppress

import torch
from torch import Tensor, nn

from ..model import Block, Llama, look_back
from .format import Scheme, finite, fit_groups, int4_values, nearest_int4, pack, unpack
from .texts import Window

DAMPING = 0.01  # of the mean of H's diagonal, added to it: a text never shows every direction
BLOCK = 128  # columns whose errors reach the columns behind them in one product; a multiple of every group size

# What reads the same input shares its H. In the order in which a block computes them.
SHARING = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


class Calibration:
    """The text on its way through the quantised layers: each layer is rounded for what it will really be given."""

    def __init__(self, model: Llama, scheme: Scheme, windows: list[Window]):
        """`model` is on the meta device; its blocks get their weights one at a time, and lose them again."""
        self.model, self.scheme, self.windows = model, scheme, windows
        self.hidden: list[Tensor] = []  # for each window (1, T, C), float32

    @torch.inference_mode()
    def quantize(self, name: str, weights: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Round one block, given its tensors -> the parts of each linear module's weight. All by their full names.

        The embedding is what the text goes through first; norm and head come after all blocks and are not calibrated.
        """
        if name == "embed_tokens":
            self.hidden = [weights["embed_tokens.weight"][window.ids].float() for window in self.windows]
        if not name.startswith("layers."):
            return {}
        block = self.model.get_submodule(name)
        tensors = {full.removeprefix(f"{name}."): tensor.float() for full, tensor in weights.items()}
        block.load_state_dict(tensors, assign=True)
        made = {}
        for modules in SHARING:
            factor = inverse_factor(self.second_moments(block, modules[0]), f"{name}.{modules[0]}")
            for module in modules:
                linear, full = block.get_submodule(module), f"{name}.{module}"
                made[full] = parts = gptq(finite(linear.weight, full), factor, self.scheme.group_size)
                values = int4_values(unpack(parts["weight"]), parts["scale"], parts["zero"])
                linear.weight = nn.Parameter(values, requires_grad=False)  # the original may be a mapped file
        self.hidden = [run(self.model, block, x) for x in self.hidden]
        block.to("meta")
        return made

    def second_moments(self, block: Block, module: str) -> Tensor:
        """H, the mean of x x^T over the inputs x of a module: (K, K) float32."""
        linear = block.get_submodule(module)
        total = torch.zeros(linear.in_features, linear.in_features)

        def add(_, inputs: tuple[Tensor]) -> None:
            x = inputs[0].flatten(0, 1)  # (T, K)
            total.addmm_(x.T, x)
            raise Seen  # what the block would do from here on is not needed yet

        with linear.register_forward_pre_hook(add):
            for x in self.hidden:
                with suppress(Seen):
                    run(self.model, block, x)
        return total / sum(x.shape[1] for x in self.hidden)


class Seen(Exception):
    """An input has been looked at; the rest of the forward pass can be left out."""


def run(model: Llama, block: Block, x: Tensor) -> Tensor:
    """One block on a window of its own: (1, T, C) -> (1, T, C)."""
    T = x.shape[1]
    positions, visible = look_back(None, T, T, x.device)
    return block(x, model.rope(positions), visible, None)


def inverse_factor(moments: Tensor, name: str) -> Tensor:
    """The upper Cholesky factor U of the inverse of H, damped: H^-1 = U^T U, (K, K).

    Row k of U says where the error of column k goes. Of the inverse itself nothing else is needed (section 3.3).
    """
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    try:
        return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(moments)), upper=True)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"the inputs of {name} on the calibration text cannot be used: {error}") from error


def gptq(weight: Tensor, factor: Tensor, group_size: int) -> dict[str, Tensor]:
    """Round W (N, K) with the factor U (K, K) of its inputs -> the parts of an int4 weight."""
    N, K = weight.shape
    weight = weight.clone()
    q = torch.empty(N, K, dtype=torch.uint8)
    scale, zero = (torch.empty(N, K // group_size, dtype=torch.bfloat16) for _ in range(2))
    for start in range(0, K, BLOCK):
        end = min(start + BLOCK, K)
        errors = torch.empty(N, end - start)
        for k in range(start, end):
            group = k // group_size
            if k % group_size == 0:  # with all errors so far taken up
                found = fit_groups(weight[:, None, k : k + group_size], shrinks=(1.0,))  # less range was no better here
                scale[:, group : group + 1], zero[:, group : group + 1] = found
            column = weight[:, k, None]  # (N, 1)
            q[:, k, None] = nearest = nearest_int4(column[..., None], *found).squeeze(-1)
            error = (column - int4_values(nearest, *found)) / factor[k, k]
            weight[:, k + 1 : end] -= error * factor[k, k + 1 : end]
            errors[:, k - start, None] = error
        weight[:, end:] -= errors @ factor[start:end, end:]
    return {"weight": pack(q), "scale": scale, "zero": zero}
