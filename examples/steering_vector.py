"""A steering vector: the bear is asked to go to the mountain, and goes to the library.

The vector is the mean hidden state after requests with one place, minus that after requests with the other. `generate`
adds it to the output of one layer, for every token of the prompt and of the answer.
See: "Steering Llama 2 via Contrastive Activation Addition", arXiv:2312.06681.
"""

import torch
from torch import Tensor

import llama_jp

POINT, FACTOR, ANIMALS = "layers.1", 2, ("ネコ", "リス", "ゾウ", "キリン")
model, tokenizer = llama_jp.load("demo", dtype="float32")
model.requires_grad_(False)


def request(animal: str, place: str) -> list[int]:
    return llama_jp.instruct_prompt(tokenizer, f"{animal}が{place}に行く話を書いてください。")


def last_hidden_state(animal: str, place: str) -> Tensor:
    with llama_jp.trace(model, [POINT], stop_after=POINT) as seen:
        model(torch.tensor([request(animal, place)]))
    return seen[POINT][0, -1]  # (C,)


def story() -> str:
    return tokenizer.decode(llama_jp.generate(model, [request("クマ", "山")], max_new_tokens=40)[0].ids)


vector = sum(last_hidden_state(animal, "図書館") - last_hidden_state(animal, "山") for animal in ANIMALS) / len(ANIMALS)
print(f"asked for 山:\n{story()}\n")
with llama_jp.trace(model, edit={POINT: lambda x: x + FACTOR * vector}):
    print(f"steered to 図書館:\n{story()}\n")
with llama_jp.trace(model, edit={POINT: lambda x, point: x + FACTOR * vector if point.call > 0 else x}):
    print(f"steered after the prompt:\n{story()}")
