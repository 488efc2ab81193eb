"""Replace attention by a sliding window, and show exactly which logits change.

Attention is a plain function (q, k, v, mask) -> mixed values, so a variant is a function and not a copy of the model.
"""

import torch
from torch import Tensor

import llama_jp
from llama_jp.model import attend_eager

WINDOW = 8  # tokens that a query sees, itself included


def attend_window(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Like `attend_eager`, but query i sees only keys i - WINDOW + 1 … i."""
    T, S = q.shape[2], k.shape[2]
    distance = torch.arange(S - T, S)[:, None] - torch.arange(S)  # (T, S): 0 is the query's own key
    near = (distance >= 0) & (distance < WINDOW)
    return attend_eager(q, k, v, near if mask is None else mask & near)


def attend_all(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The plain function, handed in by a reader."""
    return attend_eager(q, k, v, mask)


reference, tokenizer = llama_jp.load("demo", dtype="float32", attention="eager")
ids = torch.tensor([tokenizer.encode("むかしむかし、あるところに、" * 4)])
expected = reference(ids)  # (1, T, V)

for attention in (attend_all, attend_window):
    model = llama_jp.Llama.from_pretrained("demo", dtype="float32", attention=attention)
    equal = (model(ids) == expected).all(-1)[0]  # (T,): every logit at a position is bit-identical
    print(f"{attention.__name__}: logits are equal at {int(equal.sum())} of {len(equal)} positions")
    if not equal.all():
        print(f"  first different position: {int((~equal).nonzero()[0])}")
