"""The three suspects of chapter 12. Close this file if you want to find the mistakes by yourself.

    llama-jp parity --model docs.learn.mystery:one --against demo --dtype float32 --attention eager

Each function returns demo, in float32 and with eager attention, after one change.
"""

import torch
from torch import Tensor

from llama_jp import Llama
from llama_jp.model import Attention, attend_eager


def one() -> Llama:
    model = load(attend_eager)
    model.layers[3].post_attention_layernorm.eps = 1e-5
    return model


def two() -> Llama:
    return load(attend_one_ahead)


def three() -> Llama:
    return load(attend_padding)


def load(attention: Attention) -> Llama:
    model = Llama.from_pretrained("demo", dtype="float32", device="cpu", attention=attention)
    return model.requires_grad_(False)


def attend_one_ahead(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Without padding, query i sees key i + 1 as well. Shapes as in `attend_eager`."""
    T, S = q.shape[2], k.shape[2]
    return attend_eager(q, k, v, torch.ones(T, S, dtype=torch.bool).tril(S - T + 1) if mask is None else mask)


def attend_padding(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """A query sees all keys before it, padding as well. Shapes as in `attend_eager`."""
    return attend_eager(q, k, v, None)
