"""Attention maps: which tokens does each head look at, before the model writes the hero's name?

Attention weights are point `probabilities`, (B, H, T, S). Fused attention has none inside; the trace computes them from
the same q and k. The script prints the three largest weights of the last token for each head of the last layer.
"""

import torch

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
request = llama_jp.instruct_prompt(tokenizer, "クマが海辺に行って、アザラシと友達になる話を書いてください。")
story = "「おはよう。」はずかしがりやのクマは、今日もお日さまにあいさつをしました。「ここが海辺かあ。」"
ids = request + tokenizer.encode(story, bos=False)
words = [tokenizer.decode([token]).strip() or "␣" for token in ids]

point = f"layers.{len(model.layers) - 1}.self_attn.probabilities"
with torch.no_grad(), llama_jp.trace(model, [point]) as seen:
    logits = model(torch.tensor([ids]), last_only=True)

weights = seen[point][0, :, -1]  # (H, S): the last token's weight on every token
print(f"next: {tokenizer.decode([int(logits.argmax())])}")
for head, row in enumerate(weights):
    best = row.topk(3)
    shown = [
        f"{words[at]} {weight:.3f} (at {at})" for weight, at in zip(best.values, best.indices.tolist(), strict=True)
    ]
    print(f"head {head}: {', '.join(shown)}")
