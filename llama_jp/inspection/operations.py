"""The operations of a forward, in order, and the source lines that compute them.

Each operation has a card in page/cards.html, which holds its sentence and its equation.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..generation.decoding import next_tokens
from ..generation.sampling import choose
from ..generation.task import DecodingTask
from ..model import ATTENTIONS, Llama, attend_eager, rotate

Source = Callable[[Llama, Any], object]  # (model, block) -> the object to quote


class Operation(NamedTuple):
    """One operation.

    point   of llama_jp.tracing, whose values the card shows; N is the layer. "": the card shows no values
    shape   in the letters of model.py
    source  the object that computes it in this model
    lines   a part of each line to highlight
    inputs  the operations whose results it takes
    """

    name: str
    point: str
    shape: tuple[str, ...]
    source: Source
    lines: tuple[str, ...]
    inputs: tuple[str, ...]

    def point_in(self, layer: int | str) -> str:
        """The point in one layer. "*" makes it a pattern for all layers."""
        return self.point.replace("layers.N", f"layers.{layer}")


def model_hidden(model: Llama, block: Any) -> object:
    return type(model).hidden


def model_forward(model: Llama, block: Any) -> object:
    return type(model).forward


def block_forward(model: Llama, block: Any) -> object:
    return type(block).forward


def attention_forward(model: Llama, block: Any) -> object:
    return type(block.self_attn).forward


def attention_function(model: Llama, block: Any) -> object:
    """The model's own function; the written-out one for a fused one, which shows no scores."""
    attend = block.self_attn.attend
    return attend_eager if attend in ATTENTIONS.values() else attend


def norm_function(model: Llama, block: Any) -> object:
    return block.input_layernorm.norm


def mlp_forward(model: Llama, block: Any) -> object:
    return type(block.mlp).forward


NORM_LINES = ("torch.rsqrt(", "weight * y")
MLP_LINE = ("self.down_proj(",)

OPERATIONS = (
    Operation("embed", "embed_tokens", ("B", "T", "C"), model_hidden, ("self.embed_tokens(ids)",), ()),
    Operation("rope", "rope.cos", ("B", "T", "D"), lambda model, block: model.rope, ("positions[", "angles.cos()"), ()),
    Operation("attention_norm", "layers.N.input_layernorm", ("B", "T", "C"), norm_function, NORM_LINES, ("block",)),
    Operation(
        "q", "layers.N.self_attn.q_proj", ("B", "T", "H·D"), attention_forward, ("self.q_proj(",), ("attention_norm",)
    ),
    Operation(
        "k", "layers.N.self_attn.k_proj", ("B", "T", "K·D"), attention_forward, ("self.k_proj(",), ("attention_norm",)
    ),
    Operation(
        "v", "layers.N.self_attn.v_proj", ("B", "T", "K·D"), attention_forward, ("self.v_proj(",), ("attention_norm",)
    ),
    Operation(
        "q_rot",
        "layers.N.self_attn.q_rot",
        ("B", "H", "T", "D"),
        lambda model, block: rotate,
        ("rotated = ", "torch.cat("),
        ("q", "rope"),
    ),
    Operation(
        "k_rot",
        "layers.N.self_attn.k_rot",
        ("B", "K", "T", "D"),
        lambda model, block: rotate,
        ("rotated = ", "torch.cat("),
        ("k", "rope"),
    ),
    Operation("cache", "", ("B", "K", "S", "D"), attention_forward, ("cache.append(k, v)",), ("k_rot", "v")),
    Operation(
        "scores",
        "layers.N.self_attn.scores",
        ("B", "H", "T", "S"),
        attention_function,
        ("scores = ",),
        ("q_rot", "cache"),
    ),
    Operation(
        "weights",
        "layers.N.self_attn.probabilities",
        ("B", "H", "T", "S"),
        attention_function,
        (".softmax(",),
        ("scores",),
    ),
    Operation(
        "mix",
        "layers.N.self_attn.attn_output",
        ("B", "H", "T", "D"),
        attention_function,
        ("@ v",),
        ("weights", "cache"),
    ),
    Operation("o", "layers.N.self_attn", ("B", "T", "C"), attention_forward, ("self.o_proj(",), ("mix",)),
    Operation(
        "attention_add",
        "layers.N.after_attention",
        ("B", "T", "C"),
        block_forward,
        ("x + self.self_attn(",),
        ("block", "o"),
    ),
    Operation(
        "mlp_norm", "layers.N.post_attention_layernorm", ("B", "T", "C"), norm_function, NORM_LINES, ("attention_add",)
    ),
    Operation("gate", "layers.N.mlp.gate_proj", ("B", "T", "F"), mlp_forward, ("self.gate_proj(",), ("mlp_norm",)),
    Operation("up", "layers.N.mlp.up_proj", ("B", "T", "F"), mlp_forward, ("self.up_proj(",), ("mlp_norm",)),
    Operation("act", "layers.N.mlp.mlp_act", ("B", "T", "F"), mlp_forward, ("F.silu(",), ("gate", "up")),
    Operation("down", "layers.N.mlp", ("B", "T", "C"), mlp_forward, MLP_LINE, ("act",)),
    Operation("block", "layers.N", ("B", "T", "C"), block_forward, ("x + self.mlp(",), ("attention_add", "down")),
    Operation("norm", "norm", ("B", "T", "C"), lambda model, block: model.norm.norm, NORM_LINES, ("block",)),
    Operation("logits", "", ("B", "1", "V"), model_forward, ("self.lm_head(",), ("norm",)),
    Operation("filter", "", ("B", "V"), lambda model, block: DecodingTask.filter, ("logits = each(",), ("logits",)),
    Operation("choose", "", ("B",), lambda model, block: choose, ("return ",), ("filter",)),
    Operation("append", "", ("B", "N + 1"), lambda model, block: next_tokens, ("ids[:, end] = ",), ("choose",)),
)


def quote(source: object) -> dict[str, Any] | None:
    """The name, the file and the lines of an object's source; None where Python has no source of it.

    `is_llama` is False for code from outside this package, which may compute something else than Llama.
    """
    while isinstance(source, functools.partial):
        source = source.func
    source = inspect.unwrap(source) if callable(source) else source
    try:
        lines = textwrap.dedent(inspect.getsource(source)).splitlines()  # type: ignore[arg-type]
        file = Path(inspect.getsourcefile(source) or "").name  # type: ignore[arg-type]
    except (OSError, TypeError):  # code typed at a prompt, or written in C
        return None
    name = getattr(source, "__qualname__", type(source).__qualname__)
    is_llama = getattr(source, "__module__", "").startswith("llama_jp.")
    return {"name": name, "file": file, "is_llama": is_llama, "lines": lines}


def highlighted(lines: list[str], parts: tuple[str, ...]) -> list[int]:
    """The indices of the lines that contain one of the parts, outside the docstring's first line and comments."""
    return [i for i, line in enumerate(lines) if any(part in line.partition("  # ")[0] for part in parts)]
