"""The tensors of a GGUF file: their names in the model, and their numbers."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .header import FLOATS, GgufTensor, read_header
from .keys import head_counts

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
assert DTYPES.keys() == {stored_as.name for stored_as in FLOATS.values()}

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
# The frequencies of the rotation: config.json has them as rope_scaling. Old files repeat the plain ones in each layer.
FREQUENCIES = re.compile(r"rope_freqs\.weight|blk\.\d+\.attn_rot_embd(\.weight)?")


def find_weights(file: Path) -> dict[str, GgufTensor]:
    """The tensors of a GGUF file under the model's names. A tensor that the model has not keeps its own name."""
    header = read_header(file)
    heads = dict(zip((".attn_q.", ".attn_k."), head_counts(header), strict=True))
    found = {}
    for name, tensor in header.tensors.items():
        if FREQUENCIES.fullmatch(name):
            continue
        permuted = next((count for part, count in heads.items() if part in name), None)
        found[model_name(name)] = tensor._replace(heads=permuted)
    return found


def model_name(name: str) -> str:
    """The model's name for a tensor: "blk.0.attn_q.weight" is "layers.0.self_attn.q_proj.weight"."""
    if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
        layer, part, kind = match.groups()
        return f"layers.{layer}.{NAMES_IN_LAYER[part]}.{kind}" if part in NAMES_IN_LAYER else name
    part, _, kind = name.partition(".")
    return f"{NAMES[part]}.{kind}" if part in NAMES else name


def loaded_dtype(tensor: GgufTensor) -> str:
    """The dtype of a loaded tensor, by torch's name. Quantised numbers are float32."""
    return DTYPES.get(tensor.type_name, "float32")


def read_weights(file: Path, tensors: Iterable[GgufTensor]) -> Iterator[Tensor]:
    """Load tensors of one file. Floats stay memory-mapped; quantised numbers are computed in float32."""
    with file.open("rb") as opened:
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)  # writes to a tensor do not reach the file
    for tensor in tensors:
        yield read_weight(data, tensor)


def read_weight(data: mmap.mmap, tensor: GgufTensor) -> Tensor:
    """Load one tensor from the mapped bytes of its file, with the rows of q and k in the model's order."""
    import torch

    from ..permutation import unpermute

    if tensor.type_name in DTYPES:
        dtype = getattr(torch, DTYPES[tensor.type_name])
        count = tensor.nbytes // dtype.itemsize
        weight = torch.frombuffer(data, dtype=dtype, count=count, offset=tensor.start).view(tensor.shape)
    else:
        weight = dequantize(data, tensor)
    return weight if tensor.heads is None else unpermute(weight, tensor.heads)


def dequantize(data: mmap.mmap, tensor: GgufTensor) -> Tensor:
    """The float32 numbers of a quantised tensor, by the `gguf` package."""
    import numpy as np
    import torch

    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise ValueError(
            f"{tensor.file} holds {tensor.type_name} weights, and they need the package gguf: "
            "pip install 'llama-jp[gguf]'"
        ) from None
    blocks = np.frombuffer(data, np.uint8, tensor.nbytes, tensor.start).reshape(*tensor.shape[:-1], -1)
    return torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType[tensor.type_name]))
