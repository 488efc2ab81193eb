"""Measuring a model on a text.

documents.py    texts as windows of token ids
layerwise.py    logits of a checkpoint with one layer in memory at a time
divergence.py   KL divergence, top-1 agreement and perplexity of a model and its reference
"""
