"""Attribution by gradient: which tokens of the text decide the logit of the next one?

gradient · input   the change of the logit when the token's embedding grows by its own length, to first order
size               |gradient| |input|: the most that a change of this length can do, in any direction

Norms remove the length of an embedding, so the first number is small where the second is large.
"""

import torch

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
model.requires_grad_(False)
request = llama_jp.instruct_prompt(tokenizer, "クマが海辺に行って、アザラシと友達になる話を書いてください。")
place = "「おはよう。」はずかしがりやのクマは、今日もお日さまにあいさつをしました。クマは、絵本で"
friend = "「ここが海辺かあ。」クマは、大きく息をすいこみました。「こんにちは。」後ろで声がしました。ふりむくと、"

for story in (place, friend):
    ids = request + tokenizer.encode(story, bos=False)
    with llama_jp.trace(model, ["embed_tokens"], keep_graph=True) as seen:
        logits = model(torch.tensor([ids]), last_only=True)[0, -1]  # (V,)
    predicted = int(logits.argmax())
    (gradient,) = torch.autograd.grad(logits[predicted], seen["embed_tokens"])
    gradient, embeddings = gradient[0], seen["embed_tokens"].detach()[0]  # (T, C)
    product = (gradient * embeddings).sum(-1)  # (T,)
    size = gradient.norm(dim=-1) * embeddings.norm(dim=-1)  # (T,)
    print(f"next: {tokenizer.decode([predicted])}")
    for at in size.topk(5).indices.tolist():
        print(f"  gradient · input {product[at]:+.2f}  size {size[at]:5.2f}  {tokenizer.decode([ids[at]])} (at {at})")
