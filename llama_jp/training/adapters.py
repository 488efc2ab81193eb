"""LoRA adapters with PEFT: add one to a model, save it, load it. The files carry transformers' names.

    adapted = add_lora(model, rank=8, seed=0)  # a PeftModel; everything but the adapter is frozen
    logits = adapted(ids)                      # train it like any module
    save_adapter(adapted, "adapter")           # opens in transformers with PeftModel.from_pretrained, too
    adapted = load_adapter(model, "adapter")   # this one, or one that was trained in transformers

`llama_jp.load(…, adapter="adapter")` merges an adapter into the weights, without PEFT. PEFT writes the names of the
model that it wraps, such as `layers.0.…`, where transformers has `model.layers.0.…`; its own `save_pretrained` on a
`Llama` therefore makes a folder of which transformers loads nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from ..checkpoint.adapter import (
    CONFIG_FILE,
    PREFIX,
    WEIGHT_FILES,
    Adapter,
    base_name,
    check_fit,
    check_settings,
    read_adapter,
    transformers_name,
)
from ..checkpoint.description import plain_path
from ..checkpoint.json_files import read_json, write_json
from ..checkpoint.recognise import shorten
from ..checkpoint.save import separate_memory, write_atomically
from ..checkpoint.tensors import checkpoint_name, read_tensors
from ..linear.layer import QuantizedLinear
from ..model import Llama

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def import_peft() -> ModuleType:
    """PEFT. Raises ValueError with the way to install it if it is missing."""
    try:
        import peft
    except ImportError:
        raise ValueError("adapters are trained with PEFT, which is missing: pip install 'llama-jp[train]'") from None
    return peft


def add_lora(
    model: Llama,
    rank: int = 8,
    alpha: float | None = None,
    targets: str | Sequence[str] = "all-linear",
    *,
    seed: int | None = None,
    dropout: float = 0.0,
    use_rslora: bool = False,
    use_dora: bool = False,
    modules_to_save: Sequence[str] = (),
) -> PeftModel:
    """Add a new LoRA adapter to a model, float or quantised, and freeze everything else.

    rank             r of A (r, K) and B (N, r)
    alpha            the scale of B A is alpha / rank, or alpha / √rank with `use_rslora`; default: 2 × rank
    targets          ends of the names of modules, such as ["q_proj", "v_proj"]; "all-linear": every linear layer of the
                     blocks, without lm_head
    seed             of the start: A is random and B zero, with the numbers of PEFT on transformers' model after
                     `torch.manual_seed(seed)`. None: torch's random state goes on
    dropout          probability with which an input of A is dropped in training
    modules_to_save  ends of the names of modules that are trained as a whole, such as ["embed_tokens", "lm_head"]

    The model is changed in place. The result is PEFT's wrapper around it: it is called like the model, and
    `get_base_model()` returns the model.

    Raises ValueError if PEFT is missing, if a target matches no module, and for DoRA on a quantised model.
    """
    names = list(ALL_LINEAR) if targets == "all-linear" else [targets] if isinstance(targets, str) else list(targets)
    config = import_peft().LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules=names,
        lora_dropout=dropout,
        use_rslora=use_rslora,
        use_dora=use_dora,
        modules_to_save=list(modules_to_save) or None,
    )
    every = [name for name, _ in model.named_modules()]
    if unknown := [name for name in [*names, *modules_to_save] if not any(path.endswith(name) for path in every)]:
        raise ValueError(f"no module of the model is called {', '.join(unknown)}; LoRA takes {', '.join(ALL_LINEAR)}")
    return wrap_model(model, config, seed)


def wrap_model(model: Llama, config: LoraConfig, seed: int | None = None) -> PeftModel:
    """`peft.get_peft_model` for any `LoraConfig`, with LoRA on quantised layers as well.

    seed  of the adapter's start, as in `add_lora`

    Raises ValueError if PEFT is missing, and for a model that has an adapter already.
    """
    peft = import_peft()
    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already; load it again, or merge the adapter first")
    if any(isinstance(module, QuantizedLinear) for module in model.modules()):
        from .quantized_lora import QuantizedLoraLinear

        config._register_custom_module({QuantizedLinear: QuantizedLoraLinear})
    config.task_type = None  # PEFT would look for the methods of a PreTrainedModel
    if seed is None:
        return peft.get_peft_model(model, config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def save_adapter(model: nn.Module, folder: str | Path, name: str = "default") -> None:
    """Write an adapter as PEFT does on transformers' model: adapter_config.json and adapter_model.safetensors.

    model  a `PeftModel` around a `Llama` or around a model with transformers' names, or the model inside
    name   PEFT's name of the adapter

    `PeftModel.from_pretrained(LlamaForCausalLM…, folder)` then has equal logits. An interrupted save leaves the folder
    as it was.

    Raises ValueError for a model without this adapter, and for a method that `llama_jp.load` does not take.
    """
    import_peft()
    from peft.utils import get_peft_model_state_dict

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot save to {folder}: it is a file")
    configs: dict[str, Any] = getattr(model, "peft_config", {})
    if name not in configs:
        known = f"it has {', '.join(configs)}" if configs else "add one with add_lora"
        raise ValueError(f"the model has no adapter {name!r}; {known}")
    settings = adapter_settings(model, name)
    refuse_tokens(check_settings(settings, f"the adapter {name!r}"), f"the adapter {name!r}")
    parameters = dict(model.named_parameters(remove_duplicate=False))  # without the base's quantised buffers
    state = get_peft_model_state_dict(model, parameters, name, save_embedding_layers=False)
    tensors = {PREFIX + checkpoint_name(own_name(key)): tensor.detach().contiguous() for key, tensor in state.items()}
    with write_atomically(folder) as new_folder:
        save_file(separate_memory(tensors), new_folder / WEIGHT_FILES[0], metadata={"format": "pt"})
        write_json(settings, new_folder / CONFIG_FILE)


def adapter_settings(model: nn.Module, name: str) -> dict[str, Any]:
    """The content of adapter_config.json for an adapter, with transformers' names of the modules that it changes."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    config: LoraConfig = getattr(model, "peft_config", {})[name]
    modules = {own_name(path): module for path, module in model.named_modules()}
    lora = {path: each for path, each in modules.items() if isinstance(each, LoraLayer) and name in each.r}
    saved = [
        path
        for path, each in modules.items()
        if isinstance(each, ModulesToSaveWrapper) and name in each.modules_to_save
    ]
    settings = {key: sorted(each) if isinstance(each, set) else each for key, each in config.to_dict().items()}
    folder: Path | None = getattr(
        next((each for each in modules.values() if isinstance(each, Llama)), None), "folder", None
    )
    return settings | {
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "base_model_name_or_path": config.base_model_name_or_path or (folder and base_name(folder)),
        "target_modules": short_names(lora, modules),
        "modules_to_save": short_names(saved, modules) or None,
        # these chose the modules by the names of this model
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {
            transformers_name(path): each.r[name] for path, each in lora.items() if each.r[name] != config.r
        },
        "alpha_pattern": {
            transformers_name(path): each.lora_alpha[name]
            for path, each in lora.items()
            if each.lora_alpha[name] != config.lora_alpha
        },
    }


def own_name(path: str) -> str:
    """The name that a `Llama` has for a module or parameter, from its name inside PEFT, transformers or a wrapper."""
    return plain_path(path).removeprefix(PREFIX).removeprefix("model.")


def short_names(chosen: Collection[str], every: Collection[str]) -> list[str]:
    """The last parts of the names of modules if they choose exactly these, else transformers' whole names."""
    last = {path.rpartition(".")[2] for path in chosen}
    exact = {path for path in every if path.endswith(tuple(last))} == set(chosen)
    return sorted(last if exact else map(transformers_name, chosen))


def load_adapter(model: Llama, folder: str | Path, trainable: bool = False) -> PeftModel:
    """Add the adapter of a PEFT folder to a model, beside the weights. `llama_jp.load(…, adapter=…)` merges it.

    model      float or quantised; it is changed in place
    trainable  whether training goes on; everything but the adapter is frozen either way

    The result is PEFT's wrapper, as in `add_lora`, with the logits of the adapter in transformers. Without `trainable`
    it is in evaluation mode.

    Raises the errors of `read_adapter`, and ValueError if PEFT is missing, for an adapter that does not fit the model,
    and for DoRA on a quantised model.
    """
    peft = import_peft()
    if not isinstance(model, Llama):
        raise ValueError(f"the model is a {type(model).__name__}; an adapter is loaded into a Llama")
    adapter = read_adapter(folder)
    refuse_tokens(adapter.settings, str(folder))
    check_fit(adapter, model)
    wrapped = wrap_model(model, config_for(adapter, model, trainable))
    device = model.embed_tokens.weight.device
    state = {peft_name(name, wrapped): tensor for name, tensor in read_tensors(adapter.tensors, None, device).items()}
    peft.set_peft_model_state_dict(wrapped, state)
    wrapped.peft_config["default"].base_model_name_or_path = adapter.base or None  # PEFT removed it
    return wrapped if trainable else wrapped.requires_grad_(False).eval()


def refuse_tokens(settings: Mapping[str, Any], name: str) -> None:
    """Raise ValueError for an adapter with trained rows of the embedding."""
    if settings.get("trainable_token_indices"):
        raise ValueError(
            f"{name} has trainable_token_indices, which only a merge takes: load it with llama_jp.load(…, adapter=…)"
        )


def config_for(adapter: Adapter, model: Llama, trainable: bool) -> LoraConfig:
    """PEFT's configuration of an adapter for a model of this project: every module by its whole name."""
    raw, settings = read_json(adapter.folder / CONFIG_FILE), adapter.settings
    kinds = nn.Linear | QuantizedLinear | nn.Embedding
    targets = [name for name, each in model.named_modules() if isinstance(each, kinds) and adapter.is_target(name)]
    weights = [name for name, each in model.named_modules() if hasattr(each, "weight")]
    saved = [name for name in weights if adapter.is_saved(name)]
    if extra := [name for name in weights if name not in saved and name.endswith(tuple(saved))]:
        raise ValueError(
            f"{adapter.folder} has whole weights of {', '.join(saved)}, and PEFT finds modules by the ends of their "
            f"names, so it would also take {shorten(extra, 3)}; merge the adapter at loading with adapter="
        )
    copied = ("bias", "lora_bias", "use_dora", "use_rslora")
    return import_peft().LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        target_modules=targets,
        modules_to_save=saved or None,
        rank_pattern={name: adapter.rank(name) for name in targets},
        alpha_pattern={name: adapter.alpha(name) for name in targets},
        lora_dropout=raw.get("lora_dropout") or 0.0,
        inference_mode=not trainable,
        **{key: settings[key] for key in copied if key in settings},
    )


def peft_name(name: str, wrapped: nn.Module) -> str:
    """The name under which PEFT loads a tensor of an adapter. A weight of the base itself lies in `base_layer`."""
    from peft.tuners.lora import LoraLayer

    module, _, part = name.rpartition(".")
    in_base = part in ("weight", "bias") and isinstance(wrapped.get_submodule(PREFIX + module), LoraLayer)
    return f"{PREFIX}{module}.{'base_layer.' * in_base}{part}"
