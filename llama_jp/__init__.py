"""Llama 2 from scratch in plain PyTorch, for ELYZA's Japanese models. Start reading at `llama_jp/model.py`."""

from .cache import Cache
from .checkpoint import load
from .generate import generate, stream_batch, stream_text
from .model import Llama, LlamaConfig
from .optimize import optimize
from .options import Generation, Options
from .prompt import DEFAULT_SYSTEM_PROMPT, instruct_prompt
from .tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "DEFAULT_SYSTEM_PROMPT",
    "Cache",
    "Generation",
    "Llama",
    "LlamaConfig",
    "Options",
    "Tokenizer",
    "generate",
    "instruct_prompt",
    "load",
    "optimize",
    "stream_batch",
    "stream_text",
]
