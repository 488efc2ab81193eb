"""Reuse a KV cache for the beginning of the next prompt."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from ..cache import Cache
from ..checkpoint.parts import describe
from ..model import ATTENTIONS, Llama, RMSNorm, SelfAttention

SAMPLES = 8  # numbers of each tensor; a sample from a memory-mapped file loads little of it
SETTINGS = ("num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_scaling", "max_position_embeddings")


def fingerprint(model: Llama) -> str:
    """A hash of all that decides the keys and values: settings, functions, cos and sin, and a sample of each tensor.

    The model comes from its loader: a kernel that packs a weight would have to unpack it. The attention functions of
    `ATTENTIONS` count as one, since they differ in rounding only.
    """
    functions = [type(model), *(module.norm for module in model.modules() if isinstance(module, RMSNorm))]
    attentions = [module.attend for module in model.modules() if isinstance(module, SelfAttention)]
    functions += [function for function in attentions if function not in ATTENTIONS.values()]
    about = [sorted(set(map(describe, functions))), {name: getattr(model.config, name) for name in SETTINGS}]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    positions = torch.tensor([[0, 1, model.config.max_position_embeddings - 1]])
    tensors = dict(zip(("cos", "sin"), model.rope(positions), strict=True)) | model.state_dict()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLES)].contiguous().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def open_cache(file: Path, model: Llama, ids: Sequence[int], wanted: str) -> tuple[Cache, int]:
    """A KV cache with the prompt's first tokens from `file`, and their number; empty if there is no such file.

    wanted  the fingerprint of the model; ValueError for the file of another one
    """
    cache = model.new_cache(1, model.config.context_length)
    cached = common_prefix_length(cache.load(file, wanted), ids) if file.exists() else 0
    cache.crop(cached)
    return cache, cached


def save_cache(cache: Cache, file: Path, ids: Sequence[int], model: str) -> None:
    """Save the cache, complete or not at all: a full disk or an interruption leaves an earlier file as it was."""
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.absolute().parent) as folder:
        complete = Path(folder) / file.name
        cache.save(complete, ids, model)
        complete.replace(file)


def common_prefix_length(cached: Sequence[int], ids: Sequence[int]) -> int:
    """The number of tokens of the prompt `ids` that a cache of the tokens `cached` can serve.

    The prompt's last token never counts: the model has to process it, because its logits give the first new token.
    """
    longest = min(len(cached), len(ids) - 1)
    return next((i for i in range(longest) if cached[i] != ids[i]), longest)
