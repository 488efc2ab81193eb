"""Activation patching: in which layer does the last token take over the name of the hero?

After 。 the most probable next word is the hero's name. The script copies the hidden state at the position of the name
from one text into the other, after one layer at a time. Once the last token holds the name, the copy has no effect.
"""

import torch
from torch import Tensor

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
model.requires_grad_(False)
texts = [f"むかしむかし、あるところに、{name}がいました。" for name in ("クマ", "ネコ")]
bear, cat = (torch.tensor([tokenizer.encode(text)]) for text in texts)
name_at = int((bear != cat)[0].nonzero())  # the only position at which the texts differ
names = [int(bear[0, name_at]), int(cat[0, name_at])]


def show(title: str, logits: Tensor) -> None:
    probabilities = logits[0, -1].softmax(-1)[names]
    print(f"{title:22} クマ {probabilities[0]:.3f}  ネコ {probabilities[1]:.3f}")


with llama_jp.trace(model, ["layers.*"]) as recorded:
    show("text about クマ", model(bear))
show("text about ネコ", model(cat))

for layer in range(len(model.layers)):
    point = f"layers.{layer}"

    def patch(hidden: Tensor, point: str = point) -> Tensor:
        hidden = hidden.clone()  # (B, T, C)
        hidden[:, name_at] = recorded[point][:, name_at]
        return hidden

    with llama_jp.trace(model, edit={point: patch}):
        show(f"ネコ, patched: {point}", model(cat))
