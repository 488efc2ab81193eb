"""Tiny models for tests of tracing: this project's and the reference, with the same weights."""

from __future__ import annotations

import pytest
import torch

from llama_jp.checkpoint.random_checkpoint import random_config, random_ids
from llama_jp.model import Llama
from llama_jp.tracing import is_reference

CONFIG = random_config("tiny", 3)
IDS = random_ids(CONFIG, 2, 9)


def here(folder, dtype="float32", attention="sdpa"):
    return Llama.from_pretrained(folder, dtype=dtype, device="cpu", attention=attention)


def reference(folder, dtype="float32", attention="sdpa"):
    transformers = pytest.importorskip("transformers")
    return transformers.LlamaForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation=attention
    ).eval()


def logits(model):
    with torch.no_grad():
        output = model(IDS)
    return getattr(output, "logits", output)


def state_of(model):
    """Everything that a trace may change: hooks, attention functions, transformers' table of attention functions."""
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
    attends = [vars(m).get("attend") for m in model.modules()]
    if not is_reference(model):
        return hooks, attends
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    return hooks, attends, dict(vars(ALL_ATTENTION_FUNCTIONS))
