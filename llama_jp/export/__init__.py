"""Write a model for other programs.

gguf.py                  a GGUF file, for llama.cpp
gguf_vocabulary.py       the vocabulary of a tokenizer as the keys of a GGUF file
sentencepiece_model.py   the content of a tokenizer.model
"""

from .gguf import save_gguf

__all__ = ["save_gguf"]
