"""A text read with one layer in memory at a time, so that a model larger than the memory can be measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..checkpoint.load import build_on_meta, multiplies_bfloat16
from ..checkpoint.tensors import TensorInfo, read_group
from ..linear.weight import PARTS, Weight, dequantized
from ..model import Llama, LlamaConfig, positions_and_mask
from .documents import Window

SMALL = 5 * 10**8  # parameters up to which nobody waits long for float32


def choose_arithmetic(config: LlamaConfig) -> torch.dtype:
    """What to read a text in: float32, and for large models bfloat16 where the CPU multiplies that."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in Llama(config).parameters())
    return torch.float32 if parameters < SMALL or not multiplies_bfloat16() else torch.bfloat16


@torch.inference_mode()
def logits_by_layer(folder: Path, windows: list[Window], dtype: torch.dtype, title: str) -> Iterator[Tensor]:
    """The logits (T, V) of each window: those of the model in `folder`, each quantised weight dequantised first.

    All layers are read at once; the logits, which are large, are made when they are asked for, in inference mode.
    """
    checked, stored = build_on_meta(folder, Llama)
    with torch.device("meta"):
        model = Llama(checked.config)
    if model.config.tie_word_embeddings:
        shared = stored.get("embed_tokens.weight") or stored["lm_head.weight"]
        stored |= {"embed_tokens.weight": shared, "lm_head.weight": shared}

    def filled(name: str) -> nn.Module:
        module = model.get_submodule(name)
        own = {full.removeprefix(f"{name}."): one for full, one in stored.items() if full.startswith(f"{name}.")}
        module.load_state_dict(read_numbers(own, dtype), assign=True)
        return module

    embed = filled("embed_tokens")
    hidden = [embed(window.ids) for window in windows]
    embed.to("meta")
    for i in tqdm(range(len(model.layers)), desc=f"reading with {title}", unit=" layers", disable=None, leave=False):
        block = filled(f"layers.{i}")
        hidden = [block(x, *seen_from(model, x), None) for x in hidden]
        block.to("meta")
    norm, head = filled("norm"), filled("lm_head")
    return (head(norm(x))[0] for x in hidden)


def seen_from(model: Llama, x: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
    """What a block of the model wants to know beside x (1, T, C), a window of its own: the rotation, and the mask."""
    T = x.shape[1]
    positions, visible = positions_and_mask(None, T, T, x.device)
    cos, sin = model.rope(positions)
    return (cos.to(x.dtype), sin.to(x.dtype)), visible


def read_one(stored: TensorInfo) -> Tensor:
    ((_, tensor),) = read_group(stored.file, [stored])
    return tensor


def read_numbers(stored: dict[str, TensorInfo], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors as the numbers that they stand for: what is quantised becomes one weight, without scale and zero."""
    tensors = {name: read_one(one) for name, one in stored.items()}
    for name in [name for name in tensors if name.endswith("weight")]:
        parts = [tensors.pop(name.removesuffix("weight") + part, None) for part in PARTS]
        tensors[name] = dequantized(Weight(*parts), dtype)
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}
