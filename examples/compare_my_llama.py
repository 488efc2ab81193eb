"""Compare your own change with the original: the verdict names the first operation that is wrong, and why.

Two changes of RMSNorm. One is written differently and computes the same. The other multiplies by the weight before the
cast back to bfloat16, which looks tidier and gives other bits.
"""

import torch
from torch import Tensor

import llama_jp


def same_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    return weight * (y * (y * y).mean(-1, keepdim=True).add(eps).rsqrt()).to(x.dtype)


def tidy_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    return (weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps))).to(x.dtype)


original, tokenizer = llama_jp.load("demo", dtype="bfloat16", device="cpu")
ids = torch.tensor([tokenizer.encode("むかしむかし、あるところに、クマがいました。")])

for norm in (same_norm, tidy_norm):
    changed = llama_jp.Llama.from_pretrained("demo", dtype="bfloat16", device="cpu", norm=norm)
    report = llama_jp.compare(changed, original, ids, mode="whole")
    print(f"{norm.__name__}: {report.verdict}")
    if report.bug:
        print(f"  first wrong operation: {report.bug.operation}\n  cause: {report.bug.cause}")
