"""The names of the points of a model, without the parts that wrappers add."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

IN_ATTENTION = ("q_rot", "k_rot", "keys", "values", "scores", "probabilities", "attn_output")
NOT_EDITABLE = ("rope.cos", "rope.sin", "k_rot", "after_attention")  # an edit would reach only some of their consumers

NOT_REACHED = (
    "the model did not compute it inside the block; code that torch.compile compiled from a model calls no hooks, "
    "so trace the compiled model itself"
)

WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")  # of torch.compile, FSDP, checkpointing
PREFIXES = ("module.", "base_model.model.", "model.", "llama.")  # of DDP, PEFT, transformers; from outside to inside


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model under the names of their points, without wrappers and transformers' prefix `model.`.

    A module that occurs at several places of the tree has one name for each place.
    """
    modules = {}
    for path, module in model.named_modules(remove_duplicate=False):
        # a wrapper and the module in it get the same name, and the module in it comes later
        modules[".".join(part for part in path.split(".") if part not in WRAPPERS)] = module
    for prefix in PREFIXES:
        if any(path.startswith(prefix) and without_wrappers(path) == "layers" for path in modules):
            outer = [path for path in modules if prefix.startswith(f"{path}.")]
            modules = {path.removeprefix(prefix): module for path, module in modules.items() if path not in outer}
    return {path: module for path, module in modules.items() if path}


def without_wrappers(name: str) -> str:
    """The name or pattern of a point without the parts that wrappers add."""
    name = ".".join(part for part in name.split(".") if part not in WRAPPERS)
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile compiled a model or a part of it. Compiled code calls no hooks."""
    return any(
        hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def point_names(model: nn.Module) -> list[str]:
    """The names of all points of a model."""
    names = []
    modules = named_modules(model)
    for path, module in modules.items():
        names.append(path)
        if is_attention(path, module):
            names += [f"{path}.{point}" for point in IN_ATTENTION]
        elif f"{path}.o_proj" in modules and head_size(module):
            names.append(f"{path}.attn_output")  # the input of o_proj
        if f"{path}.post_attention_layernorm" in modules:
            names.append(f"{path}.after_attention")
        if f"{path}.down_proj" in modules:
            names.append(f"{path}.mlp_act")
        if path == "layers.0":
            names += ["rope.cos", "rope.sin"]
    return names


def layer_of(name: str) -> int | None:
    """N of `layers.N.…`; None for a point outside the layers."""
    found = re.search(r"(?:^|\.)layers\.(\d+)(?:\.|$)", name)
    return int(found[1]) if found else None


def is_attention(path: str, module: nn.Module) -> bool:
    """Whether a module calls its attention through an attribute `attend` or through transformers' table."""
    return path.endswith("self_attn") and (hasattr(module, "attend") or is_reference(module))


def is_reference(model: object) -> bool:
    """Whether a model or module is one of transformers'."""
    return type(model).__module__.startswith("transformers.")


def head_size(attention: nn.Module) -> int:
    """D of an attention module; 0 where it is not known."""
    return getattr(attention, "head_dim", 0)


def matching_points(pattern: str, names: Sequence[str]) -> list[str]:
    """The names that equal a name or match a pattern. A pattern may have the parts that wrappers add to names."""
    inner = without_wrappers(pattern)
    return match_names(pattern, names) or (match_names(inner, names) if inner != pattern else [])


def match_names(pattern: str, names: Sequence[str]) -> list[str]:
    if "*" not in pattern:
        return [pattern] if pattern in names else []
    parts = {"*": r"[^.]+", "**": r".+"}
    expression = re.compile(r"\.".join(parts.get(part, re.escape(part)) for part in pattern.split(".")))
    return [name for name in names if expression.fullmatch(name)]
