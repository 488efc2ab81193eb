"""GPTQ: int4 weights that compensate for their rounding errors on a calibration text.

Let x be an input of a linear module. A good rounding W' of W keeps W' x near W x on real inputs; it need not keep W'
near W. The error depends on the inputs only through H, the mean of x x^T. With H = U^T U, U upper triangular, and e a
row of W - W', the mean of (e x)^2 over the text is

    e H e^T  =  sum over k of (U[k, k] e[k] + U[k, k+1:] e[k+1:])^2

Columns are rounded from the last to the first. Column k is not rounded from W[k] but from the value that makes its
term of the sum zero: W[k] + U[k, k+1:] e[k+1:] / U[k, k]. So it compensates for the errors of the later columns.

See: "GPTQ", arXiv:2210.17323, algorithm 1. The paper goes from the first column to the last, with the inverse of H.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..evaluation.documents import Window
from ..evaluation.layerwise import rotation_and_mask
from ..linear.scheme import Scheme
from ..linear.weight import Weight, dequantize, dequantize_int4, pack_int4
from ..model import Block, Llama
from .rounding import check_finite, fit_groups, nearest_int4

# This fraction of the mean of H's diagonal is added to the diagonal: a text does not cover every direction, and H must
# be positive definite.
DAMPING = 0.01

PANEL = 1024  # rows of H that one product computes


class Calibration:
    """Runs the calibration text through the quantised blocks, so that each block is rounded for its real inputs.

    model    on the meta device; each block gets its weights for the time of its calibration only
    windows  of the calibration text
    dtype    of weights and activations; moments and rounding are float32
    bar      counts the weights that are quantised
    """

    def __init__(self, model: Llama, scheme: Scheme, windows: list[Window], dtype: torch.dtype, bar: tqdm):
        self.model, self.scheme, self.windows, self.dtype, self.bar = model, scheme, windows, dtype, bar
        self.hidden: list[Tensor] = []  # hidden states of each window, (1, T, C)

    @torch.inference_mode()
    def quantize_block(self, name: str, tensors: dict[str, Tensor]) -> dict[str, Weight]:
        """Round the linear modules of one block and compute the block's hidden states.

        name     "embed_tokens" first, then "layers.0", "layers.1", …; others are not calibrated and give {}
        tensors  the stored tensors of the block, by full name

        Returns the weights by the full name of the linear module.
        """
        if name == "embed_tokens":
            self.hidden = [tensors["embed_tokens.weight"][window.ids].to(self.dtype) for window in self.windows]
        if not name.startswith("layers."):
            return {}
        block = self.model.get_submodule(name)
        assert isinstance(block, Block)
        own = {full.removeprefix(f"{name}."): tensor for full, tensor in tensors.items()}
        # Norms and biases stay as they are. Matrices stay memory-mapped until their rounded values replace them.
        values = {part: tensor.to(self.dtype) if tensor.dim() == 1 else tensor for part, tensor in own.items()}
        block.load_state_dict(values, assign=True)
        rounded: dict[str, Weight] = {}

        def round_modules(modules: list[str], inputs: list[Tensor]) -> None:
            """Round the modules that share these inputs, and put the rounded values into the block."""
            factor = unit_factor(second_moments(inputs), f"{name}.{modules[0]}")
            for module in modules:
                full = f"{name}.{module}"
                group_size = self.scheme.weight_format(full).group_size
                assert group_size is not None, "Scheme allows gptq for int4 only"
                matrix = check_finite(own[f"{module}.weight"].float(), full)
                rounded[full] = round_gptq(matrix, factor, group_size)
                linear = block.get_submodule(module)
                linear.weight = nn.Parameter(dequantize(rounded[full], self.dtype), requires_grad=False)
                self.bar.update(matrix.numel())

        # `Block.forward`, window by window, with a stop before each product
        attention, mlp, hidden = block.self_attn, block.mlp, self.hidden
        normed = [block.input_layernorm(x) for x in hidden]
        round_modules(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], normed)
        with skipped(attention, "o_proj"):
            attn_output = [attention(x, *rotation_and_mask(self.model, x), None) for x in normed]
        round_modules(["self_attn.o_proj"], attn_output)
        hidden = [x + attention.o_proj(y) for x, y in zip(hidden, attn_output, strict=True)]
        normed = [block.post_attention_layernorm(x) for x in hidden]
        round_modules(["mlp.gate_proj", "mlp.up_proj"], normed)
        with skipped(mlp, "down_proj"):
            mlp_act = [mlp(x) for x in normed]
        round_modules(["mlp.down_proj"], mlp_act)
        self.hidden = [x + mlp.down_proj(y) for x, y in zip(hidden, mlp_act, strict=True)]
        block.to("meta")
        return rounded


@contextmanager
def skipped(parent: nn.Module, child: str) -> Iterator[None]:
    """Inside the context, the submodule `child` returns its input, so `parent` returns the input of `child`."""
    module = parent.get_submodule(child)
    setattr(parent, child, nn.Identity())
    try:
        yield
    finally:
        setattr(parent, child, module)


def second_moments(inputs: list[Tensor]) -> Tensor:
    """H, the mean of x x^T: inputs (1, T, K) each -> (K, K) float32. Only the upper half is valid; H is symmetric."""
    K = inputs[0].shape[-1]
    total = torch.zeros(K, K)
    for x in inputs:
        x = x[0].float()  # (T, K)
        for start in range(0, K, PANEL):
            total[start : start + PANEL, start:].addmm_(x[:, start : start + PANEL].T, x[:, start:])
    return total.div_(sum(x.shape[1] for x in inputs))


def unit_factor(moments: Tensor, name: str) -> Tensor:
    """The upper triangular U with U^T U = H, each row divided by its diagonal element: (K, K) -> (K, K).

    The function uses the upper half of `moments` and adds the damping in place. Raises ValueError, with the module's
    name, when the factorisation fails.
    """
    moments.diagonal().add_(DAMPING * moments.diagonal().mean())
    try:
        factor = torch.linalg.cholesky(moments, upper=True)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]  # missing from torch's stubs
        raise ValueError(
            f"the calibration text gives unusable inputs of {name}; use another text or method rtn ({error})"
        ) from error
    return factor.div_(factor.diagonal()[:, None].clone())


def round_gptq(weight: Tensor, factor: Tensor, group_size: int) -> Weight:
    """Round a weight (N, K) to int4 with the unit factor (K, K) of its inputs."""
    columns = weight.T.contiguous()  # (K, N): each column of the weight is contiguous
    errors = torch.empty_like(columns)
    q = torch.empty(columns.shape, dtype=torch.uint8)
    scales: list[Tensor] = []
    zeros: list[Tensor] = []
    for start in reversed(range(0, len(columns), group_size)):
        end = start + group_size
        correction = factor[start:end, end:] @ errors[end:]  # (g, N): compensates for the errors after the group
        # The scale must cover the values to round. Their estimate assumes no rounding error within the group.
        shift = torch.linalg.solve_triangular(factor[start:end, start:end], correction, upper=True, unitriangular=True)
        estimate = (columns[start:end] + shift).T  # (N, g)
        scale, zero = fit_groups(estimate[:, None], shrinks=(1.0,))  # (N, 1); a smaller range gave no better results
        corrected = columns[start:end] + correction
        for k in reversed(range(start, end)):
            value = torch.addmv(corrected[k - start], errors[k + 1 : end].T, factor[k, k + 1 : end])
            nearest = nearest_int4(value[:, None, None], scale, zero)  # (N, 1, 1)
            q[k] = nearest.view(-1)
            errors[k] = columns[k] - dequantize_int4(nearest, scale, zero).view(-1)
        scales.insert(0, scale)
        zeros.insert(0, zero)
    return Weight(pack_int4(q.T.contiguous()), torch.cat(scales, 1), torch.cat(zeros, 1))
