"""The tensors of a GGUF file: their names in the model, and their numbers."""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import LlamaConfig
from ..tensors import Recipe, TensorInfo
from .data import DTYPES
from .header import GgufTensor, read_header
from .keys import has_one_list, head_counts

if TYPE_CHECKING:
    from torch import Tensor

NAMES = {"token_embd": "embed_tokens", "output_norm": "norm", "output": "lm_head"}
NAMES_IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
PARTS = {module: part for part, module in NAMES.items()}
PARTS_IN_LAYER = {module: part for part, module in NAMES_IN_LAYER.items()}
# The frequencies of the rotation: config.json has them as rope_scaling. Old files repeat the plain ones in each layer.
FREQUENCIES = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?")


def find_gguf_tensors(file: Path) -> dict[str, TensorInfo]:
    """List the tensors of a GGUF file under the model's names. A tensor that the model has not keeps its own name.

    Quantised tensors have a recipe, and so have q and k, whose rows are in another order.
    """
    header = read_header(file)
    permuted = dict(zip((".attn_q.", ".attn_k."), head_counts(header), strict=True))
    found = {}
    for name, tensor in header.tensors.items():
        if FREQUENCIES.fullmatch(name):
            continue
        heads = next((count for part, count in permuted.items() if part in name), None)
        info = TensorInfo(
            tensor.file, name, tensor.shape, DTYPES.get(tensor.type_name, "float32"), type_name=tensor.type_name
        )
        stored = info
        if tensor.type_name not in DTYPES:
            rows = math.prod(tensor.shape[:-1])
            stored = info._replace(shape=(*tensor.shape[:-1], tensor.nbytes // rows), dtype_name="uint8")
        if stored is not info or heads is not None:
            info = info._replace(recipe=Recipe((stored,), partial(decode, tensor, heads)))
        found[model_name(name)] = info
    return found


def model_name(name: str) -> str:
    """The model's name for a tensor: "blk.0.attn_q.weight" is "layers.0.self_attn.q_proj.weight"."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return f"layers.{layer}.{NAMES_IN_LAYER[part]}.{kind}" if part in NAMES_IN_LAYER else name
    part, _, kind = name.partition(".")
    return f"{NAMES[part]}.{kind}" if part in NAMES else name


def gguf_name(name: str) -> str:
    """The name in a GGUF file of a tensor of the model. Inverse of `model_name`."""
    module, _, kind = name.rpartition(".")
    if match := re.fullmatch(r"layers\.(\d+)\.(.+)", module):
        return f"blk.{match[1]}.{PARTS_IN_LAYER[match[2]]}.{kind}"
    return f"{PARTS[module]}.{kind}"


def decode(tensor: GgufTensor, heads: int | None, stored: Tensor) -> Tensor:
    """The numbers of a tensor from those that are stored, with the rows of q and k in the model's order.

    heads  of q or k; None for the other tensors
    """
    from ..permutation import unpermute

    numbers = stored if tensor.type_name in DTYPES else dequantize(tensor, stored)
    return numbers if heads is None else unpermute(numbers, heads)


def rope_divisors(config: LlamaConfig) -> Tensor | None:
    """The content of rope_freqs.weight: divisors of the frequencies, (D / 2,) float32; None for other ropes.

    rounding: for Llama 3, in the order of llama.cpp's converter, whose divisors differ from the quotients of the
    frequencies in the last bits.
    """
    import torch

    from ...rope import inverse_frequencies

    scaling = config.rope_scaling or {}
    if has_one_list(config):
        return torch.tensor(scaling["short_factor"], dtype=torch.float32)
    if scaling.get("rope_type") != "llama3":
        return None
    factor, low, high = (scaling[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    trained = scaling.get("original_max_position_embeddings", config.max_position_embeddings)
    wavelength = 2 * math.pi / inverse_frequencies(config.rope_theta, config.head_dim)
    smooth = (trained / wavelength - low) / (high - low)
    blended = 1 / ((1 - smooth) / factor + smooth)
    divided = torch.where(wavelength > trained / low, torch.full_like(blended, factor), blended)
    return torch.where(wavelength < trained / high, torch.ones_like(blended), divided)


def dequantize(tensor: GgufTensor, blocks: Tensor) -> Tensor:
    """The float32 numbers of quantised blocks, by the `gguf` package."""
    import numpy as np
    import torch

    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise ValueError(
            f"{tensor.file} holds {tensor.type_name} weights, and they need the package gguf: "
            "pip install 'llama-jp[gguf]'"
        ) from None
    with np.errstate(all="ignore"):  # damaged scales; logits that are not finite are an error of their own
        return torch.from_numpy(quants.dequantize(blocks.numpy(), GGMLQuantizationType[tensor.type_name]))
