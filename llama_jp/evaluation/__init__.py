"""Measuring a model on a text.

perplexity.py        evaluate: loss, perplexity, bits per byte, distance from a reference      start here
versions.py          several versions of a model beside the original
conventions.py       a text as windows: the rules of transformers, lm-eval, llama.cpp, and documents
documents.py         texts with several documents as windows of token ids
logits.py            logits of many windows in batches
divergence.py        KL divergence, top-1 agreement and perplexity of a model and its reference
layerwise.py         logits of a checkpoint with one layer in memory at a time
choices.py           log-likelihoods of given continuations
tasks.py             ELYZA-tasks-100: answers as ELYZA made them; published_answers.py: comparison with them
lm_eval_adapter.py   this model in the lm-evaluation-harness; flexeval_adapter.py: in flexeval
stop_sequences.py    the stop sequences of the two harnesses
"""
