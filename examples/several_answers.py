"""Several answers at once: sampled ones that stream side by side, then the two best of beam search.

Each sampled row has its own seed, so its answer does not depend on its neighbours.
"""

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
prompt = tokenizer.encode("むかしむかし、あるところに、")

seeds = [1, 2, 3]
texts = [""] * len(seeds)
stream = llama_jp.stream_batch(
    model, tokenizer, [prompt] * len(seeds), do_sample=True, temperature=0.8, seed=seeds, max_new_tokens=24
)
for row, piece in stream:  # pieces of all rows, in the order in which they are made
    texts[row] += piece
for seed, text, answer in zip(seeds, texts, stream.generations, strict=True):
    print(f"seed {seed}, {len(answer.ids)} tokens: {text}")

alone = llama_jp.generate(model, [prompt], do_sample=True, temperature=0.8, seed=[2], max_new_tokens=24)
print(f"seed 2 alone gives the same ids: {alone[0].ids == stream.generations[1].ids}")

beams = llama_jp.generate(model, [prompt], num_beams=4, num_return_sequences=2, max_new_tokens=24)
for answer in beams:
    print(f"beam, score {answer.sequence_score:.3f}: {tokenizer.decode(answer.ids)}")
