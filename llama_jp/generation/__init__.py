"""Prompts to answers.

interface.py     generate, stream_text, stream_batch, generate_many, stream_many      start here
options.py       every option and its checks; results.py: what comes back
task.py          prompts and options, checked and put together
decoding.py      greedy decoding and sampling: one token per step
in_flight.py     many prompts: the next one takes the place of an answer that ends
ragged.py        one call of the model for rows of different lengths
beams.py         beam search
speculation.py   several tokens per call of the model: prompt lookup, a draft model
runner.py        prefill and decoding steps for a batch
filter_chain.py  the filters for given options; filters.py, guidance.py: each of them
sampling.py      filtered logits to the next id
stopping.py      when an answer ends; stop_strings.py: its text as it grows
"""
