"""Training.

adapters.py         LoRA adapters with PEFT: add, save and load them, under transformers' names
quantized_lora.py   LoRA on int8 and int4 layers, as PEFT needs it
"""
