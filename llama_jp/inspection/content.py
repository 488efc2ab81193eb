"""Everything that the page shows, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import LlamaConfig
from ..generation.filter_chain import named_filters
from ..model import ATTENTIONS, Llama
from ..text.tokenizer import Tokenizer
from .attention import STATISTICS, head_statistics, lower_triangle
from .choices import explain_choices
from .encoding import encode
from .lens import logit_lens
from .operations import OPERATIONS, Operation, highlighted, quote
from .run import VALUES, Run
from .text import piece_names


def page_content(
    model: Llama, tokenizer: Tokenizer, run: Run, layers: Sequence[int], heads: Sequence[int]
) -> dict[str, Any]:
    """The data of the page. The tensors are encoded, and the tokens are named."""
    options = run.task.options
    lens = logit_lens(model, run.hidden, torch.tensor(run.ids[1:]))
    filters = named_filters(options, run.task.prompt_length, run.task.ids.shape[1])
    choices = explain_choices(filters, run.ids, run.logits, vars(options))
    shown = [*run.ids, *lens.ids.flatten().tolist(), *(token for choice in choices for token in choice["ids"])]
    shown += [token for draft in run.drafts for token in draft.tokens]
    tensors: dict[str, tuple[Tensor, str]] = {
        "lens.ids": (lens.ids, "uint32"),
        "lens.p": (lens.probabilities, "unit16"),
        "lens.next_p": (lens.of_next, "unit16"),
        "lens.next_rank": (lens.rank_of_next, "uint32"),
    }
    for layer, weights in run.weights.items():
        tensors[f"attention.{layer}"] = (lower_triangle(weights), "unit16")
        tensors[f"heads.{layer}"] = (head_statistics(weights, run.ids), "float32")
    states = ["embed_tokens", *(f"layers.{i}" for i in range(len(model.layers)))]
    parts = [f"layers.{i}.{part}" for i in range(len(model.layers)) for part in ("self_attn", "mlp")]
    for name in (name for name in [*states, *parts] if name in run.norms):
        tensors[f"norm.{name}"] = (run.norms[name], "float32")
    for operation in OPERATIONS:
        for point in dict.fromkeys(operation.point_in(layer) for layer in layers):
            if point in run.samples:
                tensors[f"values.{point}"] = (run.samples[point], "float32")
    return {
        "model": describe_model(model),
        "sizes": letters(model.config),
        "ids": run.ids,
        "prompt_length": run.task.prompt_length,
        "pieces": piece_names(tokenizer, shown),
        "special": sorted(tokenizer.vocabulary.special & set(shown)),
        "answer": tokenizer.decode(run.answer.ids),
        "sampled": bool(options.do_sample),
        "seed": options.seed if isinstance(options.seed, int) else None,
        "layers": list(layers),
        "heads": list(heads),
        "fused": [attention_of(model, layer) is ATTENTIONS["sdpa"] for layer in layers],
        "statistics": STATISTICS,
        "values": VALUES,
        **quote_operations(model, layers),
        "choices": choices,
        "calls": [list(call) for call in run.calls],
        "drafts": [{"position": draft.position, "tokens": draft.tokens} for draft in run.drafts],
        "tensors": {name: encode(tensor, kind) for name, (tensor, kind) in tensors.items()},
    }


def describe_model(model: Llama) -> dict[str, Any]:
    """A few facts about the model for the head of the page."""
    attentions = [attention_of(model, layer) for layer in range(len(model.layers))]
    weight = model.embed_tokens.weight
    # quantised and optimised modules keep their weights elsewhere
    matrices = [module for name, module in model.named_modules() if name.endswith(("_proj", "lm_head"))]
    is_plain = all(isinstance(module, nn.Linear) for module in matrices)
    quantization = getattr(model, "quantization", None)
    return {
        "name": model.folder.name if model.folder is not None else type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()) if is_plain else None,
        "dtype": str(weight.dtype).removeprefix("torch."),
        "item_size": weight.dtype.itemsize,
        "layers": len(model.layers),
        "attention": ", ".join(dict.fromkeys(getattr(each, "__name__", type(each).__name__) for each in attentions)),
        "quantization": None if quantization is None else str(quantization),
    }


def attention_of(model: Llama, layer: int) -> object:
    """The attention function of a layer; its whole module where it has none."""
    module = model.layers[layer].self_attn
    return getattr(module, "attend", module)


def letters(config: LlamaConfig) -> dict[str, int]:
    """The sizes behind the letters of model.py. T and S change from call to call."""
    return {
        "B": 1,
        "C": config.hidden_size,
        "H": config.num_attention_heads,
        "K": config.num_key_value_heads,
        "D": config.head_dim,
        "F": config.intermediate_size,
        "V": config.vocab_size,
    }


def quote_operations(model: Llama, layers: Sequence[int]) -> dict[str, Any]:
    """The operations, and the source that computes them in each layer of this model, each text once."""
    sources: list[dict[str, Any]] = []

    def quoted(operation: Operation, layer: int) -> tuple[int, list[int]] | None:
        """The index of the source, and those of its lines to highlight."""
        try:
            source = quote(operation.source(model, model.layers[layer]))
        except AttributeError:  # a changed model may lack a part
            return None
        if source is None:
            return None
        if source not in sources:
            sources.append(source)
        return sources.index(source), highlighted(source["lines"], operation.lines)

    operations = [
        {
            "name": operation.name,
            "point": operation.point,
            "shape": operation.shape,
            "inputs": operation.inputs,
            "quotes": [quoted(operation, layer) for layer in layers],
        }
        for operation in OPERATIONS
    ]
    return {"sources": sources, "operations": operations}
