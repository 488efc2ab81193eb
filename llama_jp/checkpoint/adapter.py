"""A PEFT folder: read its LoRA adapter, check that it fits a model, and merge it into the weights.

This file needs only arithmetic on weights, not PEFT. `training/adapters.py` trains adapters, with PEFT.

    W' = W + s B A                          LoRA; s = alpha / rank, with rslora alpha / √rank
    W' = m (W + s B A) / ‖W + s B A‖        DoRA; the norm is that of a row, m has one value per row

The letters in the shapes:

    N outputs   K inputs   r rank   V vocabulary   C hidden size

See: "LoRA", arXiv:2106.09685; "rsLoRA", arXiv:2312.03732; "DoRA", arXiv:2402.09353; reference: `peft/tuners/lora`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..linear.layer import QuantizedLinear
from ..model import Llama, RMSNorm
from .config import IDS, NUMBER, POSITIVE, SIZE, SWITCH, Kind, as_list
from .hub import SHORT_NAMES, local_path
from .json_files import read_json
from .recognise import cached_repository, shorten
from .tensors import TensorInfo, list_tensors, read_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # in order of preference, which is PEFT's
PARTS = (
    "lora_A.weight", "lora_B.weight", "lora_B.bias", "lora_magnitude_vector", "lora_embedding_A", "lora_embedding_B",
    "trainable_tokens_delta", "weight", "bias",
)  # fmt: skip
EMBEDDINGS = {"embed_tokens.weight", "lm_head.weight"}
PREFIX = "base_model.model."  # of every tensor in the file; transformers' name of the parameter follows


def is_regex(value: object) -> bool:
    try:
        return isinstance(value, str) and re.compile(value) is not None
    except re.error:
        return False


def is_names(value: object) -> bool:
    return all(isinstance(name, str) for name in value) if isinstance(value, list) else is_regex(value)


def is_pattern(value: object) -> bool:
    return isinstance(value, dict) and all(is_regex(key) and POSITIVE.holds(value[key]) for key in value)


def is_tokens(value: object) -> bool:
    lists = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(ids, list) and IDS.holds(ids) and len(set(ids)) == len(ids) for ids in lists)


BIAS = ("none", "all", "lora_only")
NAMES = Kind("a list of names or a regular expression", is_names)
TOKENS = Kind("a list of different ids, or an object with one for each embedding", is_tokens)
PATTERN = Kind("an object of regular expressions and positive numbers", is_pattern)

# The keys of adapter_config.json, judged as in config.py. The judge is PEFT: tests/checkpoint/test_adapter.py. A key
# with the value null counts as absent.

# These keys change the numbers and are supported.
SUPPORTED = {
    "r": SIZE,
    "lora_alpha": NUMBER,
    "rank_pattern": PATTERN,
    "alpha_pattern": PATTERN,
    "use_rslora": SWITCH,
    "use_dora": SWITCH,
    "lora_bias": SWITCH,
    "bias": Kind(" or ".join(map(repr, BIAS)), lambda value: value in BIAS),
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "modules_to_save": NAMES,
    "layers_pattern": Kind("a regular expression or a list of them", lambda value: all(map(is_regex, as_list(value)))),
    "trainable_token_indices": TOKENS,
    "layers_to_transform": Kind("the number of a layer or a list of them", IDS.holds),
}

# These keys change the numbers and are refused where they are set, or set to other values than these.
REFUSED = {
    "peft_type": ("LORA",),
    "fan_in_fan_out": (),
    "init_lora_weights": (True, "gaussian", "eva", "orthogonal"),  # these leave the base weights as they are
    "layer_replication": (),
    "target_parameters": (),
    "alora_invocation_tokens": (),  # active only after these tokens, so there are no merged weights
    "ensure_weight_tying": (),
    "megatron_config": (),
    "use_qalora": (),
}
ADVICE = {
    "peft_type": "where PEFT can merge it, merge it there, and save the merged model",
    "init_lora_weights": "convert it to plain LoRA with PEFT's save_pretrained(…, "
    "path_initial_model_for_weight_conversion=…), or merge it with PEFT, and save the merged model",
}

# These keys change nothing in a merge.
IGNORED = {
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "lora_dropout", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core",
    "qalora_group_size", "runtime_config",
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """The content of a PEFT folder; the tensors are listed, not loaded.

    settings  the supported keys of adapter_config.json that are set
    base      base_model_name_or_path; "" if the file names none
    tensors   by the model's names, such as "layers.0.self_attn.q_proj.lora_A.weight"
    """

    folder: Path
    settings: dict[str, Any]
    base: str
    tensors: dict[str, TensorInfo]

    def rank(self, module: str) -> int:
        """The rank r of a module."""
        return int(self._of_module("rank_pattern", module, self.settings["r"]))

    def alpha(self, module: str) -> float:
        """The alpha of a module."""
        alpha: float = self._of_module("alpha_pattern", module, self.settings["lora_alpha"])
        return alpha

    def scale(self, module: str) -> float:
        """The factor s of B A."""
        rank = self.rank(module)
        return self.alpha(module) / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _of_module(self, pattern: str, module: str, default: Any) -> Any:
        """The value of the first key that matches the end of a module's name in transformers, or the default."""
        for key, value in self.settings.get(pattern, {}).items():
            if re.match(rf"(.*\.)?({key})$", transformers_name(module)):
                return value
        return default

    def is_target(self, module: str) -> bool:
        """Whether `target_modules` and its exceptions choose a linear layer or an embedding.

        Reference: `check_target_module_exists` in peft/tuners/tuners_utils.py.
        """
        name, settings = transformers_name(module), self.settings
        if matches(settings.get("exclude_modules", []), name) or self.is_saved(module):
            return False
        targets = settings["target_modules"]
        if targets == "all-linear":
            return ".layers." in name  # not lm_head, and no embedding
        if not matches(targets, name):
            return False
        layers = settings.get("layers_to_transform", [])
        if layers == []:
            return True
        patterns = settings.get("layers_pattern") or "[^.]*"
        for pattern in as_list(patterns):
            if layer := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", name):
                return int(layer[1]) in as_list(layers)
        return False

    def trained_tokens(self, module: str) -> list[int]:
        """The ids whose rows of an embedding, or of the head, the file holds as a whole."""
        tokens: Any = self.settings.get("trainable_token_indices", [])
        of_module = tokens if isinstance(tokens, dict) else {"embed_tokens": tokens}
        return next((ids for key, ids in of_module.items() if matches([key], transformers_name(module))), [])

    def is_saved(self, module: str) -> bool:
        """Whether `modules_to_save` names a module, or one that contains it: the file holds its whole weights."""
        parts = transformers_name(module).split(".")
        paths = [".".join(parts[: count + 1]) for count in range(len(parts))]
        names = self.settings.get("modules_to_save", [])
        return any(path.endswith(name) for path in paths for name in as_list(names))


def matches(names: str | list[str], name: str) -> bool:
    """Whether a name matches a regular expression as a whole, or ends with one of a list of names."""
    if isinstance(names, str):
        return re.fullmatch(names, name) is not None
    return any(name == each or name.endswith(f".{each}") for each in names)


def transformers_name(module: str) -> str:
    """transformers' name of a module."""
    return module if module == "lm_head" else f"model.{module}"


def read_adapter(folder: str | Path) -> Adapter:
    """Read the settings of a PEFT folder and list its tensors, without loading any.

    Raises FileNotFoundError for a folder without an adapter. Raises ValueError for a method other than LoRA, for a
    setting that is not supported, and for a damaged file.
    """
    folder = find_adapter(folder)
    raw = read_json(folder / CONFIG_FILE)
    settings = check_settings(raw, folder / CONFIG_FILE)
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"there are no weights in {folder}: none of {', '.join(WEIGHT_FILES)}")
    tensors: dict[str, TensorInfo] = {}
    for info in list_tensors(file):
        name = info.name.removeprefix(PREFIX).removeprefix("model.")
        name = name.replace(".token_adapter.", ".").replace(".base_layer.", ".")
        if name in tensors:
            raise ValueError(f"{info.name} and {tensors[name].name} in {file} are the same tensor")
        tensors[name] = info
    return Adapter(folder, settings, str(raw.get("base_model_name_or_path") or ""), tensors)


def find_adapter(folder: str | Path) -> Path:
    """The folder of an adapter as a path. Raises FileNotFoundError, which says what the folder is instead."""
    path = local_path(folder)
    if (path / CONFIG_FILE).is_file():
        return path
    if path.is_file():
        raise FileNotFoundError(f"{path} is a file; name the adapter's folder, {path.parent}")
    if not path.is_dir():
        raise FileNotFoundError(
            f"there is no folder {path} with an adapter; download one with `hf download OWNER/NAME --local-dir FOLDER`"
        )
    if (path / "config.json").is_file():
        raise FileNotFoundError(f"{path} is a whole model, not an adapter: name it as the model")
    inside = sorted(str(file.parent) for file in path.glob(f"*/{CONFIG_FILE}"))
    raise FileNotFoundError(
        f"there is no {CONFIG_FILE} in {path}" + (f"; its subfolders hold adapters: use {inside[0]}" if inside else "")
    )


def check_settings(raw: Mapping[str, Any], file: str | Path) -> dict[str, Any]:
    """The supported keys of adapter_config.json that are set.

    file  where they come from, for error messages

    Raises ValueError for a key that has a wrong value, is not supported, or is unknown and switched on.
    """
    settings = {key: value for key, value in raw.items() if value is not None}
    if not raw.get("peft_type"):
        raise ValueError(f"{file} names no peft_type; it has to be 'LORA'")
    for key, value in settings.items():
        if key in REFUSED:
            supported, refused = REFUSED[key], bool(value) and value not in REFUSED[key]
        else:
            # an unknown key is a later PEFT's: a number belongs to a method that another key switches on
            supported = ()
            known = key in SUPPORTED or key in IGNORED
            refused = not known and bool(value) and (value is True or not NUMBER.holds(value))
        if refused:
            advice = ADVICE.get(key, "merge the adapter with PEFT, and save the merged model")
            choice = f" (supported: {', '.join(map(repr, supported))})" if supported else ""
            raise ValueError(f"{file}: {key} is {value!r}, which is not supported{choice}; {advice}")
    for key, kind in SUPPORTED.items():
        if key in settings and not kind.holds(settings[key]):
            raise ValueError(f"{file}: {key} is {settings[key]!r}, but it has to be {kind.name}")
    if missing := [key for key in ("r", "lora_alpha", "target_modules") if key not in settings]:
        raise ValueError(f"{file} has no value for {', '.join(missing)}")
    return {key: settings[key] for key in SUPPORTED if key in settings}


def expected_tensors(adapter: Adapter, model: Llama) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """The tensors that an adapter of these settings has for a model: name, shape, and whether it must be there.

    Raises ValueError for settings that do not go with a module.
    """
    settings = adapter.settings
    bias = settings.get("bias", "none")
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | QuantizedLinear):
            shape: tuple[int, ...] = (module.out_features, module.in_features)
        elif isinstance(module, nn.Embedding | RMSNorm):
            shape = tuple(module.weight.shape)
        else:
            continue
        has_bias = getattr(module, "bias", None) is not None
        is_saved = adapter.is_saved(name)
        is_target = not isinstance(module, RMSNorm) and adapter.is_target(name)
        if is_target and isinstance(module, nn.Embedding):
            if settings.get("use_dora"):
                raise ValueError(f"{adapter.folder} has DoRA on {name}, and DoRA is supported on linear layers only")
            yield f"{name}.lora_embedding_A", (adapter.rank(name), shape[0]), True  # (r, V)
            yield f"{name}.lora_embedding_B", (shape[1], adapter.rank(name)), True  # (C, r)
        elif is_target:
            yield f"{name}.lora_A.weight", (adapter.rank(name), shape[1]), True  # (r, K)
            yield f"{name}.lora_B.weight", (shape[0], adapter.rank(name)), True  # (N, r)
            if settings.get("use_dora"):
                yield f"{name}.lora_magnitude_vector", shape[:1], True  # (N,)
            if settings.get("lora_bias"):
                if not has_bias:
                    raise ValueError(f"{adapter.folder} has lora_bias on {name}, and {name} has no bias to add it to")
                yield f"{name}.lora_B.bias", shape[:1], True  # (N,)
        tokens = adapter.trained_tokens(name)
        if tokens:
            if is_saved or is_target:
                raise ValueError(
                    f"{adapter.folder} has trainable_token_indices on {name} beside LoRA or whole weights of it, which "
                    "is not supported; merge the adapter with PEFT, and save the merged model"
                )
            if min(tokens) < 0 or max(tokens) >= shape[0]:
                raise ValueError(
                    f"{adapter.folder} trains the ids {min(tokens)} to {max(tokens)}, and {name} has {shape[0]} rows"
                )
            yield f"{name}.trainable_tokens_delta", (len(tokens), shape[1]), True  # (tokens, C)
        if is_saved or is_target or tokens:
            yield f"{name}.weight", shape, is_saved  # of a target: a copy of the base, from which PEFT goes on
        if has_bias and (is_saved or bias == "all" or (is_target and bias == "lora_only")):
            yield f"{name}.bias", shape[:1], True


def check_fit(adapter: Adapter, model: Llama) -> None:
    """Check that a model has a place for every tensor of an adapter, and that no tensor is missing.

    Raises ValueError with a list of all problems.
    """
    expected = list(expected_tensors(adapter, model))
    shapes = {name: shape for name, shape, _ in expected}
    problems = []
    if not expected:
        problems.append(f"the model has no module of target_modules {adapter.settings['target_modules']!r}")
    if missing := [name for name, _, needed in expected if needed and name not in adapter.tensors]:
        problems.append(f"missing {shorten(missing, 4)}")
    if unexpected := [info.name for name, info in adapter.tensors.items() if name not in shapes]:
        problems.append(f"unexpected {shorten(unexpected, 4)}")
    misshapen = [
        f"{info.name} is {info.shape} where the model and the rank make it {shapes[name]}"
        for name, info in adapter.tensors.items()
        if name in shapes and info.shape != shapes[name]
    ]
    if misshapen:
        found = {name: adapter.tensors[name].shape for name in EMBEDDINGS & shapes.keys() & adapter.tensors.keys()}
        enlarge = "; for added tokens, enlarge the model first, with transformers' resize_token_embeddings"
        has_added = any(shape > shapes[name] for name, shape in found.items())
        problems.append(f"misshapen {shorten(misshapen, 2)}{enlarge * has_added}")
    if integers := [info.name for info in adapter.tensors.values() if not info.dtype.is_floating_point]:
        problems.append(f"no floats in {shorten(integers, 4)}")
    if problems:
        base = f", trained on {adapter.base}," if adapter.base else ""
        raise ValueError(f"the adapter {adapter.folder}{base} does not fit this model: {'; '.join(problems)}")


def check_mergeable(adapter: Adapter, model: Llama) -> None:
    """`check_fit`, and ValueError for a quantised model, whose weights are too coarse for a merge."""
    if scheme := getattr(model, "quantization", None):
        raise ValueError(
            f"the adapter {adapter.folder} cannot be merged into quantised weights ({scheme}); quantise the original "
            "with it (`llama-jp quantize ORIGINAL OUT --adapter FOLDER`), or keep it beside the weights with "
            "llama_jp.training.adapters.load_adapter"
        )
    check_fit(adapter, model)


def is_other_base(adapter: Adapter, source: str | Path, folder: Path | None) -> bool:
    """Whether an adapter names another base model than this one. The last part of a path or repository counts."""
    names = {Path(SHORT_NAMES.get(str(source), str(source))).name}
    if folder is not None:
        names |= {folder.resolve().name, Path(base_name(folder)).name}
    return adapter.base != "" and Path(adapter.base).name not in names


def base_name(folder: Path) -> str:
    """The name of a base model in an adapter: the repository if its folder lies in the hub's cache, else the path."""
    cached = [part for part in folder.parts if part.startswith("models--")]
    return cached_repository(cached[-1]) if cached else str(folder)


@torch.no_grad()
def merge_adapter(adapter: Adapter, model: Llama) -> None:
    """Merge an adapter that fits into the weights of a model, bit-identical to PEFT's `merge_and_unload`.

    A change to one of two tied matrices unties them, with a warning. PEFT would change both, which is another model
    than the trained one; it advises to untie them before a merge.
    """
    tensors = read_tensors(adapter.tensors, None, model.embed_tokens.weight.device)
    tied = model.config.tie_word_embeddings
    for name, module in model.named_modules():
        # copies, since products of memory-mapped tensors, which are not aligned, may round differently
        parts = {
            part: tensors[f"{name}.{part}"].to(torch.float32, copy=True)
            for part in PARTS
            if f"{name}.{part}" in tensors
        }
        if parts:
            weight, bias = merge_module(module, parts, adapter.scale(name), adapter.trained_tokens(name))
            module.weight = nn.Parameter(weight, module.weight.requires_grad)
            if bias is not None:
                module.bias = nn.Parameter(bias, module.bias.requires_grad)
    changes_head = any(name.startswith("lm_head.") for name in tensors)
    if tied and adapter.trained_tokens("embed_tokens") and not changes_head:
        model.lm_head.weight = model.embed_tokens.weight  # PEFT trains the rows of both
    if tied and model.lm_head.weight is not model.embed_tokens.weight:
        warnings.warn("the adapter changes the embedding or lm_head, which were tied: they are untied", stacklevel=4)
        model.config.tie_word_embeddings = False


def merge_module(
    module: Any, parts: Mapping[str, Tensor], scale: float, tokens: list[int]
) -> tuple[Tensor, Tensor | None]:
    """The weight and the bias of a module after the merge of its tensors of an adapter.

    tokens  the rows of the weight that are replaced

    Shapes: weight (N, K) or (V, C), bias (N,) or None.

    rounding: PEFT holds an adapter in float32, whatever the dtype of the file or of the weight. B A is rounded before
    the scale, and the sum once, to the weight's dtype. The delta of an embedding alone is rounded before the sum.
    """
    dtype, bias = module.weight.dtype, getattr(module, "bias", None)
    weight = parts["weight"].to(dtype) if "weight" in parts else module.weight
    if "lora_A.weight" in parts:
        weight = weight + parts["lora_B.weight"] @ parts["lora_A.weight"] * scale  # (N, K) float32
        if "lora_magnitude_vector" in parts:
            norm = torch.linalg.norm(weight, dim=1)  # (N,)
            weight = (parts["lora_magnitude_vector"] / norm)[:, None] * weight
        weight = weight.to(dtype)
    if "lora_embedding_A" in parts:
        delta = (parts["lora_embedding_B"] @ parts["lora_embedding_A"]).T * scale  # (V, C)
        weight = weight + delta.to(dtype)
    if tokens:
        rows = torch.tensor(tokens, device=weight.device)
        weight = weight.index_copy(0, rows, parts["trainable_tokens_delta"].to(dtype))
    if "bias" in parts:
        bias = parts["bias"].to(dtype)
    if "lora_B.bias" in parts:
        assert bias is not None, "check_fit refuses lora_bias without a bias"
        bias = (bias + parts["lora_B.bias"] * scale).to(dtype)
    return weight, bias
