"""The config.json of a model, from the modules that are there.

The sizes are those of the tensors. Then the model is built as a loader would build it, and compared with the one to
save, module by module. A difference that config.json cannot hold is refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..linear.fused import FusedSlice
from ..linear.layer import QuantizedLinear
from ..linear.one_query import without_kernel
from ..linear.scheme import Scheme
from ..model import ATTENTIONS, Llama, LlamaConfig, RMSNorm, SelfAttention
from ..rope import make_rope
from .build import build_without_weights
from .config import config_to_json, parse_config
from .parts import Parts, describe, part_name, with_parts
from .recognise import shorten

# Modules around another one that do not change its result: torch.compile's, and activation checkpointing's.
WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module")

# Attributes that config.json, the shapes of the tensors or other files describe. Their values are not compared.
DESCRIBED: dict[type[nn.Module], set[str]] = {
    Llama: {"config", "generation_config", "folder", "quantization"},
    nn.Linear: {"in_features", "out_features"},
    nn.Embedding: {"num_embeddings", "embedding_dim"},
    QuantizedLinear: {"in_features", "out_features", "kernel", "kernel_dtype"},
}


def model_state(model: Llama) -> dict[str, Tensor]:
    """The tensors to save, under the model's names without those of wrappers; tied embeddings appear once."""
    state = {plain_path(name): tensor.detach() for name, tensor in model.state_dict().items()}
    if is_tied(model):
        del state["lm_head.weight"]
    return state


def describe_model(model: Llama, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of config.json that makes exactly this model.

    state  the result of `model_state`

    Raises ValueError, with a list of the differences, when config.json cannot describe the model, and for a part that
    no import can find again.
    """
    model_class = own_class(model)
    names = {} if model_class is Llama else {"class": part_name("class", model_class)}
    scheme: Scheme | None = getattr(model, "quantization", None)
    raw = config_to_json(measured_config(model, state), model.embed_tokens.weight.dtype)
    config = parse_config(raw)  # refuses whatever a loader would refuse
    twin = build_without_weights(config, scheme, Parts(model_class))
    functions = changed_functions(model, twin)
    if functions:
        if "rope" in functions and is_made_by_make_rope(model.rope):
            raise ValueError(
                f"model.rope is not the rope of model.config (rope_theta {config.rope_theta}, rope_scaling "
                f"{config.rope_scaling}); change model.config and set model.rope = make_rope(model.config)"
            )
        names |= {role: part_name(role, function) for role, function in functions.items()}
        twin = build_without_weights(config, scheme, Parts(model_class, **functions))
    if found := [*module_differences(model, twin)] or [*state_differences(state, model_state(twin))]:
        raise ValueError(
            f"config.json cannot describe this model: {shorten(found, 3)}; "
            "undo the change, or make it in the constructor of a subclass of Llama, which is then recorded"
        )
    if scheme is not None:
        raw["quantization_config"] = scheme.to_json()
    return with_parts(raw, names)


def measured_config(model: Llama, state: Mapping[str, Tensor]) -> LlamaConfig:
    """The configuration with the sizes, biases, tie and eps of the modules that are there.

    A value that has no tensor or module of the standard form keeps that of `model.config`.
    """
    embedding, attention, mlp = "embed_tokens.weight", "layers.0.self_attn", "layers.0.mlp"
    found: dict[str, Any] = {"num_hidden_layers": len(model.layers), "tie_word_embeddings": is_tied(model)}
    if embedding in state:
        found |= {"vocab_size": state[embedding].shape[0], "hidden_size": state[embedding].shape[1]}
    if state_has(state, attention, "q_proj", "k_proj") and hasattr(model.layers[0].self_attn, "head_dim"):
        head_dim: int = getattr(model.layers[0].self_attn, "head_dim")  # noqa: B009 (torch types it as a Module)
        found |= {
            "head_dim": head_dim,
            "num_attention_heads": state[f"{attention}.q_proj.weight"].shape[0] // head_dim,
            "num_key_value_heads": state[f"{attention}.k_proj.weight"].shape[0] // head_dim,
            "attention_bias": f"{attention}.q_proj.bias" in state,
        }
    if state_has(state, mlp, "gate_proj"):
        found |= {
            "intermediate_size": state[f"{mlp}.gate_proj.weight"].shape[0],
            "mlp_bias": f"{mlp}.gate_proj.bias" in state,
        }
    eps = {module.eps for module in model.modules() if isinstance(module, RMSNorm)}
    if len(eps) == 1:
        found["rms_norm_eps"] = eps.pop()
    fields = {field.name: getattr(model.config, field.name) for field in dataclasses.fields(LlamaConfig)}
    return LlamaConfig(**(fields | found))


def state_has(state: Mapping[str, Tensor], module: str, *projections: str) -> bool:
    return all(f"{module}.{projection}.weight" in state for projection in projections)


def is_tied(model: Llama) -> bool:
    """Whether the head and the embedding are one parameter. An optimised head has a packed copy of it."""
    if isinstance(model.lm_head, FusedSlice):
        return model.config.tie_word_embeddings
    return getattr(model.lm_head, "weight", None) is model.embed_tokens.weight


def changed_functions(model: Llama, twin: Llama) -> dict[str, Any]:
    """The functions "attention", "rope" and "norm" of a model that are not those of its twin, where there is one."""
    theirs, found = modules_by_path(twin), {}
    for role, kind, attribute in (("attention", SelfAttention, "attend"), ("norm", RMSNorm, "norm")):
        changed = {}
        for path, module in modules_by_path(model).items():
            if isinstance(module, kind) and isinstance(theirs.get(path), kind):
                function = getattr(module, attribute)
                if not is_same(function, getattr(theirs[path], attribute)):
                    changed[id(function)] = function
        if len(changed) == 1:
            found[role] = changed.popitem()[1]
    if not is_same(model.rope, twin.rope):
        found["rope"] = model.rope
    return found


def is_made_by_make_rope(rope: object) -> bool:
    function = rope.func if isinstance(rope, partial) else rope
    return getattr(function, "__module__", None) == make_rope.__module__


def module_differences(model: Llama, twin: Llama) -> Iterator[str]:
    """A sentence for each module of the model that is not as in its twin: class, attributes, buffers, hooks."""
    ours, theirs = modules_by_path(model), modules_by_path(twin)
    reported: set[str] = set()
    for path in dict.fromkeys([*theirs, *ours]):
        if any(path.startswith(f"{parent}.") for parent in reported):
            continue
        one, other = ours.get(path), theirs.get(path)
        if one is None or other is None:
            reported.add(path)
            yield f"{path} is missing" if one is None else f"{path} ({own_class(one).__name__}) is added"
        elif isinstance(one, FusedSlice):  # of an optimised model; it has the weight of the layer that it replaces
            continue
        elif own_class(one) is not own_class(other):
            reported.add(path)
            yield f"{path} is {own_class(one).__name__} where the loader builds {own_class(other).__name__}"
        else:
            yield from (f"{path}.{difference}".lstrip(".") for difference in attribute_differences(one, other))
            if (hooks := forward_hooks(one)) and len(hooks) != len(forward_hooks(other)):
                yield f"{path or 'the model'} has a forward hook ({describe(hooks[-1])}), which no file can hold"


def attribute_differences(one: nn.Module, other: nn.Module) -> Iterator[str]:
    """A sentence for each attribute or unsaved buffer of two modules that differs. Names with `_` are not compared."""
    described = {"training"}.union(*(names for kind, names in DESCRIBED.items() if isinstance(one, kind)))
    mine, others = compared_values(one), compared_values(other)
    for name in one._non_persistent_buffers_set & others.keys():
        others[name] = others[name].to(mine[name].dtype)  # as the loader does
    for name in sorted((mine.keys() | others.keys()) - described):
        if name not in mine:
            yield f"{name} is missing"
        elif name not in others:
            yield f"{name} is added"
        elif is_same(mine[name], others[name]):
            continue
        elif isinstance(mine[name], (Tensor, np.ndarray)):
            yield f"{name} holds other numbers than those of the constructor"
        else:
            yield f"{name} is {in_words(mine[name])} where the loader has {in_words(others[name])}"


def compared_values(module: nn.Module) -> dict[str, Any]:
    """The attributes and the unsaved buffers of a module by name."""
    unsaved = {name: module._buffers[name] for name in module._non_persistent_buffers_set}
    return unsaved | {name: value for name, value in vars(module).items() if not name.startswith("_")}


def state_differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Iterator[str]:
    """A sentence for each tensor that is missing, added or of another shape."""
    for name in dict.fromkeys([*expected, *state]):
        if name not in state or name not in expected:
            yield f"{name} is {'missing' if name in expected else 'added'}"
        elif state[name].shape != expected[name].shape:
            yield f"{name} is {tuple(state[name].shape)} where the loader expects {tuple(expected[name].shape)}"


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by path, without wrappers. A wrapper's path is that of the module inside."""
    return {
        plain_path(path): module
        for path, module in model.named_modules(remove_duplicate=False)
        if not any(hasattr(module, wrapper) for wrapper in WRAPPERS)
    }


def plain_path(path: str) -> str:
    return ".".join(part for part in path.split(".") if part not in WRAPPERS)


def own_class(module: nn.Module) -> type:
    """The class of a module. FSDP2 puts a class of its own before it."""
    classes = type(module).__mro__
    return classes[2] if classes[1].__module__.startswith("torch.distributed") else classes[0]


def forward_hooks(module: nn.Module) -> list[Any]:
    """The forward hooks of a module, without those with which torch.distributed gathers weights."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return [hook for hook in hooks if not (function_of(hook).__module__ or "").startswith("torch.distributed")]


def function_of(hook: Any) -> Any:
    hook = hook.func if isinstance(hook, partial) else hook
    return hook if hasattr(hook, "__module__") else type(hook)


def is_same(one: Any, other: Any, within: frozenset[tuple[int, int]] = frozenset()) -> bool:
    """Whether two values, functions included, stand for the same computation.

    Functions that are made twice by the same code are the same if they hold the same values. Modules inside a value are
    compared elsewhere, and so are a configuration and a tensor on the meta device.

    within  the pairs of values that this pair is a part of, since values can hold each other
    """
    if one is other or (id(one), id(other)) in within:
        return True
    if is_attention(one) and is_attention(other):  # a loader chooses between these
        return True
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.is_meta or other.is_meta:
            return True
        return one.dtype == other.dtype and torch.equal(one.detach().cpu(), other.detach().cpu())
    if isinstance(one, nn.Module) and isinstance(other, nn.Module):
        return own_class(one) is own_class(other)
    if type(one) is not type(other):
        return False
    if isinstance(one, LlamaConfig):
        return True
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, FunctionType) and one.__code__ != other.__code__:
        return False
    if isinstance(one, dict) and one.keys() != other.keys():
        return False
    if (parts := parts_of(one)) is None:
        return bool(one == other)
    within |= {(id(one), id(other))}
    others = parts_of(other) or []
    return len(parts) == len(others) and all(is_same(x, y, within) for x, y in zip(parts, others, strict=True))


def parts_of(value: Any) -> list[Any] | None:
    """The values that a value holds, if it is compared by them; None if it is compared as a whole."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, dict):
        return [value[key] for key in sorted(value, key=str)]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, FunctionType):  # its defaults, and the variables around it
        return [value.__defaults__, value.__kwdefaults__, *(cell.cell_contents for cell in value.__closure__ or ())]
    if getattr(type(value), "__eq__", None) is object.__eq__:  # equal to nothing but itself
        return [vars(value)] if hasattr(value, "__dict__") else []
    return None


def is_attention(value: Any) -> bool:
    return any(without_kernel(value) is attention for attention in ATTENTIONS.values())


def in_words(value: Any) -> str:
    """A value for an error message."""
    if isinstance(value, (bool, int, float, str, tuple)) or value is None:
        return repr(value)
    return describe(value)
