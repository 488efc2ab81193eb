"""Logit lens: the most probable next token after each layer, if no other layer came.

The last norm and lm_head turn any hidden state into logits.
See: "interpreting GPT: the logit lens", nostalgebraist, 2020.
"""

import torch

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
story = llama_jp.instruct_prompt(tokenizer, "クマが海辺に行って、アザラシと友達になる話を書いてください。")
story += tokenizer.encode("「おはよう。」はずかしがりやのクマは、今日もお日さまにあいさつをしました。", bos=False)
story += tokenizer.encode(
    "クマは、絵本で海辺を見ました。ページをめくるたびに、行きたい気持ちがふくらみました。", bos=False
)
ids = torch.tensor([story])  # (1, T)

with torch.no_grad(), llama_jp.trace(model, ["layers.*"]) as seen:
    model(ids)
    lens = {name: model.lm_head(model.norm(hidden))[0].softmax(-1) for name, hidden in seen.items()}  # (T, V)

for kind, (before, after) in {
    "idiom": ("気持ちがふくら", "みました"),
    "place": ("絵本で", "海辺"),
    "name": ("はずかしがりやの", "クマ"),
}.items():
    words = [tokenizer.decode([token]) for token in story]
    at = max(t for t in range(len(story) - 1) if (words[t], words[t + 1]) == (before, after))
    print(f"{kind}: {before} -> {after}")
    for name, probabilities in lens.items():
        best = int(probabilities[at].argmax())
        wanted = float(probabilities[at, story[at + 1]])
        print(f"  {name}  {wanted:.3f}  best: {tokenizer.decode([best])} {float(probabilities[at, best]):.3f}")
