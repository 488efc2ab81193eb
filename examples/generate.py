"""Ask the bundled model for a story, print it while it is made, then show the confidence in each token.

Shows the three steps of every program: load, prompt, stream.
"""

import math

import llama_jp

model, tokenizer = llama_jp.load("demo", dtype="float32")
prompt = llama_jp.instruct_prompt(tokenizer, "ネコが森に行ってウサギと友達になる短編小説を書いてください。")

stream = llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=200)
for piece in stream:
    print(piece, end="", flush=True)

answer = stream.generation
print(f"\n\n{len(prompt)} prompt tokens, {len(answer.ids)} new tokens, ended by {answer.finish_reason}")

# logprobs are natural logarithms of the model's own distribution, so exp(-mean) is the perplexity of the answer.
print(f"perplexity of the answer: {math.exp(-sum(answer.logprobs) / len(answer.logprobs)):.3f}")
least = min(range(len(answer.ids)), key=lambda i: answer.logprobs[i])
piece = tokenizer.decode([answer.ids[least]])
print(f"least expected token: {piece!r}, probability {math.exp(answer.logprobs[least]):.3f}")
