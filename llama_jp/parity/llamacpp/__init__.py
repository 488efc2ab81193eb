"""llama.cpp as a model of a comparison, through the package llama-cpp-python.

library.py     the package, and the C structures of ggml that it does not declare
graph.py       the operations of ggml's graph under the names of this project's points
rounding.py    how ggml rounds the inputs of a product
model.py       a GGUF file in llama.cpp: texts in, logits and points out
metadata.py    whether the metadata of a GGUF file are the settings of a checkpoint
weights.py     whether its weights are those of the checkpoint, rounded to its types
check.py       both, before a comparison
"""
