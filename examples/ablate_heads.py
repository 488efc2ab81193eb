"""Ablate heads: by how much does the loss of a story rise without one attention head?

The edit sets the output of one head to zero. The loss is the mean -log p, in nats per token, of the model's own story.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
model.requires_grad_(False)
prompt = llama_jp.instruct_prompt(tokenizer, "クマが海辺に行って、アザラシと友達になる話を書いてください。")
answer = llama_jp.generate(model, [prompt], max_new_tokens=200)[0].ids
ids = torch.tensor([prompt + answer])


def losses() -> Tensor:
    return cross_entropy(model(ids)[0, len(prompt) - 1 : -1], torch.tensor(answer), reduction="none")


def without_head(head: int, x: Tensor) -> Tensor:
    return x.index_fill(1, torch.tensor([head]), 0)  # (B, H, T, D)


plain = losses()
print(f"loss {plain.mean():.3f}; the rise without one head:")
for layer in range(len(model.layers)):
    rises, point = [], f"layers.{layer}.self_attn.attn_output"
    for head in range(model.config.num_attention_heads):
        with llama_jp.trace(model, edit={point: partial(without_head, head)}):
            rises.append(losses() - plain)
    print(f"layer {layer}: " + "  ".join(f"{rise.mean():+.3f}" for rise in rises))
worst = rises[1].topk(8).indices.tolist()
print(f"layer 5, head 1: the loss rises most at {' '.join(tokenizer.decode([answer[at]]) for at in worst)}")
