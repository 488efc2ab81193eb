"""Extend the context of a loaded model by scaling its rotary embeddings."""

from __future__ import annotations

import dataclasses

import torch

from .checkpoint.config import refuse_windows
from .checkpoint.json_files import read_json
from .model import Llama
from .rope import make_rope


def extend_context(model: Llama, rope_type: str, factor: float) -> None:
    """Give a loaded model a longer context, as `rope_scaling` in config.json does. The weights do not change.

    rope_type: "linear", "dynamic" or "yarn", the types that need only a factor.
    factor: at least 1. Without training for it, quality falls as the factor grows.

    Raises ValueError for another type or factor, when the model has its own `rope_scaling` or its own rope, and when
    config.json sets a window (`sliding_window`) that the longer context exceeds.
    """
    positions = torch.tensor([[0, 1, model.config.max_position_embeddings - 1]])
    if not all(map(torch.equal, model.rope(positions), make_rope(model.config)(positions))):
        raise ValueError("the model has a rope of its own, which rope_scaling would replace")
    if model.config.rope_scaling is not None:
        raise ValueError(f"the checkpoint has its own rope_scaling: {model.config.rope_scaling}")
    if rope_type not in ("linear", "dynamic", "yarn"):
        raise ValueError(f"rope_type {rope_type!r} needs more than a factor; choose linear, dynamic or yarn")
    if not factor >= 1:
        raise ValueError(f"a factor of {factor:g} does not extend the context; choose one of at least 1")
    scaling: dict[str, object] = {"rope_type": rope_type, "factor": factor}
    if rope_type == "yarn":
        scaling["original_max_position_embeddings"] = model.config.max_position_embeddings
    config = dataclasses.replace(model.config, rope_scaling=scaling)
    if model.folder is not None:
        refuse_windows(read_json(model.folder / "config.json", missing_ok=True), config)
    model.config = config
    model.rope = make_rope(model.config)
