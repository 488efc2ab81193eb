"""GGUF files, the format of llama.cpp. A GGUF file is loaded as the folder of a checkpoint is.

header.py       keys and list of tensors, without numpy and torch
key_types.py    the types of the values of keys
keys.py         the keys as the content of config.json
small_files.py  the small files of a checkpoint, derived from the keys: config.json, tokenizer files
vocabulary.py   the vocabulary in the keys as a tokenizer.model or a tokenizer.json
data.py         the numbers as stored: floats, and the bytes of quantised blocks
writer.py       a new file: header, then the tensors one after the other
encoding.py     numbers as the bytes of a type
weights.py      the tensors under the model's names, dequantised and with the rows in the model's order
"""
