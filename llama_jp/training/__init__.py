"""Training: from lines of text to a fine-tuned checkpoint. Start at `finetuning.py`.

finetuning.py       `finetune`: the settings of a run, and what it leaves in its folder
loop.py             the steps, the held-out losses, the log
losses.py           `loss`: cross entropy with transformers' labels
examples.py         `example`: a conversation as ids and labels
packing.py          `pack`: several documents in one row
data.py             the examples of a JSONL file, and their order
initialisation.py   `initialise`: random weights as transformers makes them
optimization.py     AdamW, the learning rate of a step, activation checkpointing
state.py            the state of a run on disk, complete at any moment
sharding.py         FSDP2: a run on several processes
memory.py           the memory that a run needs, and what the machine has
curve.py            the losses of a run as a picture
adapters.py         LoRA adapters with PEFT: add, save and load them, under transformers' names
quantized_lora.py   LoRA on int8 and int4 layers, as PEFT needs it
"""

from .examples import example
from .finetuning import finetune
from .initialisation import initialise
from .losses import loss
from .packing import pack

__all__ = ["example", "finetune", "initialise", "loss", "pack"]
