"""Llama 2 from scratch in plain PyTorch, for ELYZA's Japanese models. Start reading at `llama_jp/model.py`."""

import importlib
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .cache import Cache
    from .config import LlamaConfig
    from .evaluation.choices import choice_log_likelihoods
    from .evaluation.perplexity import evaluate
    from .export import save_gguf
    from .generation.interface import generate, generate_many, stream_batch, stream_many, stream_text
    from .generation.options import Options
    from .generation.results import Generation
    from .loading import load
    from .model import Llama
    from .parity import compare
    from .quantization import quantize
    from .speed.optimization import optimize
    from .text.template import DEFAULT_SYSTEM_PROMPT, instruct_prompt
    from .text.tokenizer import Tokenizer
    from .tracing import trace

# Each public name and its module, which is imported at first use: `llama-jp --help` starts without torch.
MODULES = {
    "DEFAULT_SYSTEM_PROMPT": "text.template",
    "Cache": "cache",
    "Generation": "generation.results",
    "Llama": "model",
    "LlamaConfig": "config",
    "Options": "generation.options",
    "Tokenizer": "text.tokenizer",
    "choice_log_likelihoods": "evaluation.choices",
    "compare": "parity",
    "evaluate": "evaluation.perplexity",
    "generate": "generation.interface",
    "generate_many": "generation.interface",
    "instruct_prompt": "text.template",
    "load": "loading",
    "optimize": "speed.optimization",
    "quantize": "quantization",
    "save_gguf": "export",
    "stream_batch": "generation.interface",
    "stream_many": "generation.interface",
    "stream_text": "generation.interface",
    "trace": "tracing",
}

__all__ = [
    "DEFAULT_SYSTEM_PROMPT",
    "Cache",
    "Generation",
    "Llama",
    "LlamaConfig",
    "Options",
    "Tokenizer",
    "__version__",
    "choice_log_likelihoods",
    "compare",
    "evaluate",
    "generate",
    "generate_many",
    "instruct_prompt",
    "load",
    "optimize",
    "quantize",
    "save_gguf",
    "stream_batch",
    "stream_many",
    "stream_text",
    "trace",
]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
