"""Logits of a checkpoint with one layer in memory at a time, for models larger than the memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoint.load import build_on_meta, multiplies_bfloat16
from ..checkpoint.tensors import TensorInfo, read_tensor
from ..linear.weight import PARTS, Weight, dequantize
from ..model import Llama, LlamaConfig, positions_and_mask
from .documents import Window

FLOAT32_LIMIT = 5 * 10**8  # parameters; smaller models take little time in float32


def choose_compute_dtype(config: LlamaConfig) -> torch.dtype:
    """The dtype for measurements: float32, or bfloat16 for a large model on a CPU that multiplies it natively."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Llama(config).parameters())
    return torch.float32 if parameters < FLOAT32_LIMIT or not multiplies_bfloat16() else torch.bfloat16


@torch.inference_mode()
def logits_by_layer(folder: Path, windows: list[Window], dtype: torch.dtype, title: str) -> Iterator[Tensor]:
    """Compute the logits (T, V) of each window. Quantised weights are dequantised.

    folder  of the checkpoint
    dtype   of weights and activations
    title   names the model in the progress bar

    All windows pass through a layer before the next layer is loaded. The blocks run when the function is called; the
    logits of a window, which are large, are computed when the iterator reaches them. Iterate in inference mode.
    """
    built, stored = build_on_meta(folder, Llama)
    with torch.device("meta"):
        model = Llama(built.config)  # with nn.Linear everywhere, since the weights are dequantised
    if model.config.tie_word_embeddings:
        shared = stored.get("embed_tokens.weight") or stored["lm_head.weight"]
        stored |= {"embed_tokens.weight": shared, "lm_head.weight": shared}

    def load(name: str) -> nn.Module:
        """Fill the module `name` of the model with its stored weights."""
        module = model.get_submodule(name)
        prefix = f"{name}."
        own = {full.removeprefix(prefix): info for full, info in stored.items() if full.startswith(prefix)}
        module.load_state_dict(read_dequantized(own, dtype), assign=True)
        return module

    embedding = load("embed_tokens")
    hidden = [embedding(window.ids) for window in windows]  # (1, T, C) each
    embedding.to("meta")  # frees the weights
    for i in tqdm(range(len(model.layers)), desc=f"running {title}", unit=" layers", disable=None, leave=False):
        block = load(f"layers.{i}")
        hidden = [block(x, *rotation_and_mask(model, x), None) for x in hidden]
        block.to("meta")
    norm, head = load("norm"), load("lm_head")
    return (head(norm(x))[0] for x in hidden)


def rotation_and_mask(model: Llama, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """The arguments of a block besides its input x (1, T, C), a whole window: (cos, sin), and the attention mask."""
    T = x.shape[1]
    positions, visible = positions_and_mask(None, T, T, x.device)
    cos, sin = model.rope(positions)
    return (cos.to(x.dtype), sin.to(x.dtype)), visible  # rounding: as in `Llama.forward`


def read_dequantized(stored: dict[str, TensorInfo], dtype: torch.dtype) -> dict[str, Tensor]:
    """Read tensors by name in `dtype`. A quantised `weight` and its `scale` and `zero` become one float `weight`."""
    tensors = {name: read_tensor(info) for name, info in stored.items()}
    for name in [name for name in tensors if name.endswith("weight")]:
        prefix = name.removesuffix("weight")
        parts = {part: tensors.pop(prefix + part) for part in PARTS if prefix + part in tensors}
        tensors[name] = dequantize(Weight.from_tensors(parts), dtype)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}
