"""Checkpoints on disk: find, load, check and save them. Start at `load.py`.

hub.py                  a name to a folder: the bundled demo, a local folder, a repository on the Hugging Face hub
json_files.py           read and write the JSON files of a checkpoint
chat_template.py        the chat template of a checkpoint; elyza.jinja is ELYZA's
config.py               config.json to a `LlamaConfig`, and back
recognise.py            name a file or folder that cannot be loaded for what it is
layouts.py              the files and tensors of a checkpoint in each layout that is published
meta.py                 Meta's own files
packed_weights.py       GPTQ and AWQ, dequantised at loading
permutation.py          the order of the rows of q_proj and k_proj
tensors.py              list and read tensors in files, memory-mapped
adapter.py              a PEFT (LoRA) adapter, merged into the weights
load.py                 a folder to a model
save.py                 a model to a folder
saved_files.py          the tokenizer files of a save, and the files of an earlier save that it removes
random_checkpoint.py    checkpoints with random weights, for tests and benchmarks
published_form.py       the same at 7B size, in the file format of ELYZA's published checkpoints
"""
