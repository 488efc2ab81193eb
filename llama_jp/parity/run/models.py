"""The models that can be compared, each with its settings.

a folder, hub repository or short name     this project's model with that checkpoint
transformers                               the reference, with the same checkpoint
transformers-cast                          the reference, loaded in the stored dtype and then cast with .to(dtype)
llama.cpp:FILE.gguf                        llama.cpp with a GGUF file, see `parity.llamacpp`
checkout:FOLDER                            the model of another checkout of this project, such as a pull request
package.module:function                    the result of a function: a model, or a callable ids -> logits
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoint.config import parse_config, read_config, read_scheme
from ...checkpoint.hub import find_checkpoint
from ...checkpoint.layouts import find_tensors
from ...checkpoint.load import choose_dtype
from ...checkpoint.meta import is_meta
from ...checkpoint.packed_weights import read_packing
from ...checkpoint.parts import call_function, describe_failure, import_part, is_function_name
from ...linear.layer import QuantizedLinear
from ...model import Llama, LlamaConfig
from ...tracing import is_compiled, is_reference, named_modules
from ..llamacpp.model import LlamaCpp

LLAMA_CPP = "llama.cpp:"
CHECKOUT = "checkout:"

# A text in progress: (new ids (B, T), mask (B, S) over all ids so far or None) -> logits (B, T, V)
Session = Callable[[Tensor, "Tensor | None"], Tensor]


@dataclass
class Settings:
    """The settings of one model: dtype, attention, CPU threads, and rows per forward pass (None: all rows).

    `kv_cache` is the dtype of llama.cpp's KV cache; None: float32. Models of torch have the cache in their own dtype.
    """

    dtype: str = "auto"
    attention: str = "sdpa"
    threads: int | None = None
    rows: int | None = None
    kv_cache: str | None = None


@dataclass
class ModelDescription:
    """A model of a comparison as reports show it. A tokenizer has a `segmentation` and no settings."""

    name: str
    settings: Settings | None = None
    computes_in: str | None = None  # the dtype of the weights
    segmentation: str | None = None  # of a text with special tokens, see `Tokenizer.encode`

    def as_dict(self) -> dict[str, Any]:
        if self.settings is None:
            return {"name": self.name, "segmentation": self.segmentation}
        return {"name": self.name, **asdict(self.settings), "computes_in": self.computes_in}


@dataclass
class ComparedModel:
    """One model of a comparison: a callable ids -> logits, and its known properties."""

    name: str
    call: Callable[..., Any]  # the model, or a function ids -> logits
    settings: Settings = field(default_factory=Settings)
    module: nn.Module | None = None  # the traceable module behind `call`
    config: LlamaConfig | None = None
    folder: Path | None = None  # of the checkpoint

    @property
    def has_cache(self) -> bool:
        return hasattr(self.call, "new_cache") or is_reference(self.call) or self.file is not None

    @property
    def file(self) -> LlamaCpp | None:
        """The GGUF file of llama.cpp. None: another model."""
        return self.call if isinstance(self.call, LlamaCpp) else None

    @property
    def is_compiled(self) -> bool:
        """Whether torch.compile compiled a part. It fuses operations, and hooks would change the compiled program."""
        if hasattr(self.call, "_torchdynamo_orig_callable") or hasattr(self.call, "_orig_mod"):
            return True
        return self.module is not None and is_compiled(self.module)

    def start_session(self, rows: int, length: int) -> Session:
        """Start a text of up to `length` tokens in each of `rows` rows, with an empty KV cache if the model has one."""
        if self.file is not None:
            return self.file.start_session(length)
        if hasattr(self.call, "new_cache"):
            cache = self.call.new_cache(batch_size=rows, max_length=length)
            return lambda ids, mask: self.call(ids, cache, mask=mask)
        return _ReferenceSession(self.call) if is_reference(self.call) else _CachelessSession(self.call)

    def run_whole(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (B, T, V) of ids (B, T) in one call, without a KV cache from the caller."""
        if is_reference(self.call):
            return _ReferenceSession(self.call)(ids, mask)
        if hasattr(self.call, "new_cache"):
            return self.call(ids, mask=mask)
        return _CachelessSession(self.call)(ids, mask)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the first parameter. None: the model shows no parameters."""
        parameter = next(self.module.parameters(), None) if self.module is not None else None
        return None if parameter is None else parameter.dtype

    def parameters(self) -> dict[str, Tensor]:
        """Every parameter by the name of its point. The weight of a quantised layer is dequantised."""
        if self.file is not None:
            return self.file.weights
        parameters: dict[str, Tensor] = {}
        if self.module is None:
            return parameters
        for path, module in named_modules(self.module).items():
            for name, value in module.named_parameters(recurse=False):
                parameters[f"{path}.{name}"] = value.detach()
            if isinstance(module, QuantizedLinear):
                parameters[f"{path}.weight"] = module.dequantize(self.dtype or torch.float32)
        return parameters

    def describe(self) -> ModelDescription:
        computes_in = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        if self.file is not None:
            computes_in = f"float32, KV cache in {self.file.kv_cache}"
        return ModelDescription(self.name, self.settings, computes_in)


class _ReferenceSession:
    """A text in transformers' model, with transformers' cache. Position ids follow from the mask."""

    def __init__(self, model: Callable[..., Any]):
        self.model = model
        self.past: dict[str, Any] = {}  # transformers' Cache, by the name of the argument

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        options: dict[str, Any] = {"use_cache": True}  # config.json may turn it off
        if mask is not None:
            positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
            options |= {"attention_mask": mask, "position_ids": positions[:, -ids.shape[1] :]}
        output = self.model(ids, **options, **self.past)
        name = "cache" if hasattr(output, "cache") else "past_key_values"  # renamed in transformers 5.24
        self.past = {name: getattr(output, name)}
        return output.logits


class _CachelessSession:
    """A text in a function ids -> logits. Each call runs the whole text so far, and each padded row by itself."""

    def __init__(self, call: Callable[..., Any]):
        self.call = call
        self.ids: Tensor | None = None

    def logits(self, ids: Tensor) -> Tensor:
        output = self.call(ids)
        return check_logits(getattr(output, "logits", output), ids, "the model")

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        T = ids.shape[1]
        self.ids = ids if self.ids is None else torch.cat((self.ids, ids), 1)  # (B, S)
        if mask is None:
            return self.logits(self.ids)[:, -T:]
        rows = []
        for row, tokens in zip(self.ids, mask.bool(), strict=True):
            logits = self.logits(row[None, tokens])[0]
            rows.append(F.pad(logits, (0, 0, mask.shape[1] - len(logits), 0)))  # (S, V)
        return torch.stack(rows)[:, -T:]


def check_logits(logits: object, ids: Tensor, name: str) -> Tensor:
    """The logits of a model for ids (B, T). Raises ValueError unless they are floating-point numbers (B, T, V)."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"{name} returns a {type(logits).__name__} for ids; a tensor of logits (B, T, V) is needed")
    if logits.dim() != 3 or logits.shape[0] != len(ids) or not logits.is_floating_point():
        shapes = f"ids {tuple(ids.shape)} give {logits.dtype} logits {tuple(logits.shape)}"
        raise ValueError(f"{name}: {shapes}; floating-point logits (B, T, V) are needed")
    return logits


def open_model(
    spec: str, settings: Settings | None = None, checkpoint: Path | None = None, trust_parts: bool = False
) -> ComparedModel:
    """Load the model that `spec` names (see the top of this file).

    `checkpoint` is the folder for a `spec` without a checkpoint: transformers or a function. `trust_parts` is that of
    `llama_jp.load`.
    Raises ValueError when such a folder is missing, when a function cannot be found, or when its result is no model.
    """
    settings = settings or Settings()
    if spec_kind(spec) == "transformers":
        return open_reference(require_folder(spec, checkpoint), settings, cast=spec.endswith("cast"))
    if spec_kind(spec) == "llama.cpp":
        return open_llama_cpp(spec, settings)
    if spec_kind(spec) == "checkout":
        return open_checkout(spec, settings, require_folder(spec, checkpoint))
    if spec_kind(spec) == "function":
        return open_from_function(spec, settings, checkpoint)
    folder = find_checkpoint(spec)
    model = Llama.from_pretrained(
        folder, dtype=settings.dtype, device="cpu", attention=settings.attention, trust_parts=trust_parts
    )
    return ComparedModel(spec, model, settings, model, model.config, folder)


def spec_kind(spec: str) -> str:
    """The kind of model in a specification: "checkpoint", "transformers", "llama.cpp", "checkout" or "function"."""
    if spec.startswith(LLAMA_CPP):
        return "llama.cpp"
    if spec.startswith(CHECKOUT):
        return "checkout"
    if spec in ("transformers", "transformers-cast"):
        return "transformers"
    return "function" if is_function_name(spec) else "checkpoint"


def open_llama_cpp(spec: str, settings: Settings) -> ComparedModel:
    """llama.cpp with a GGUF file: rows one by one, eager attention. Raises ValueError for other settings."""
    if settings.dtype not in ("auto", "float32"):
        raise ValueError(f"llama.cpp computes in float32, so {spec} has no dtype {settings.dtype}; leave it out")
    if settings.rows not in (None, 1):
        raise ValueError(f"llama.cpp runs one row at a time here, not {settings.rows}; leave the number out")
    file = LlamaCpp(spec.removeprefix(LLAMA_CPP), settings.threads, settings.kv_cache or "float32")
    return in_llama_cpp(file, spec)


def in_llama_cpp(file: LlamaCpp, name: str | None = None) -> ComparedModel:
    settings = Settings("float32", "eager", file.threads, rows=1, kv_cache=file.kv_cache)
    return ComparedModel(name or f"{LLAMA_CPP}{file.file}", file, settings, config=file.config, folder=file.file)


def open_checkout(spec: str, settings: Settings, folder: Path) -> ComparedModel:
    """The model class of another checkout with the weights of a checkpoint. Its package gets a name of its own.

    Raises ValueError for a folder without the package, and when its code fails.
    """
    file = Path(spec.removeprefix(CHECKOUT)).expanduser() / "llama_jp" / "__init__.py"
    if not file.is_file():
        raise ValueError(f"{spec}: there is no {file}; name the folder of a checkout of this project")
    name = f"llama_jp_checkout_{sum(each.startswith('llama_jp_checkout_') for each in sys.modules)}"
    location = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    assert location is not None and location.loader is not None, "the file has the suffix .py"
    package = sys.modules[name] = importlib.util.module_from_spec(location)
    try:
        location.loader.exec_module(package)
        model = package.Llama.from_pretrained(folder, dtype=settings.dtype, device="cpu", attention=settings.attention)
    except Exception as error:
        raise ValueError(f"{spec} failed: {describe_failure(error)}") from error
    return as_compared_model(model, settings, spec, folder)


def require_folder(spec: str, checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise ValueError(f"{spec} needs a checkpoint: name a folder for the other model, or give --checkpoint")
    return checkpoint


def open_reference(folder: Path, settings: Settings, cast: bool = False) -> ComparedModel:
    """transformers' Llama with the weights of a checkpoint.

    `cast`: load the stored dtype, then cast the model with .to(dtype), as many programs do.
    """
    try:
        from transformers import LlamaForCausalLM
        from transformers.utils import logging
    except ImportError:
        raise ValueError("the reference is transformers, which is not installed: pip install transformers") from None
    if folder.is_file():
        raise ValueError(
            f"{folder} is a GGUF file, of which transformers drops biases and rope scaling; write it as a folder with "
            "`llama-jp convert`, and compare that"
        )
    if scheme := read_scheme(folder):
        raise ValueError(f"transformers cannot load {folder} ({scheme}); compare it --against its original")
    if is_meta(folder) or read_packing(folder):
        raise ValueError(
            f"transformers cannot load {folder}, which is in another layout; write it with `llama-jp convert`, "
            "and name the new folder"
        )
    stored = find_tensors(folder)
    dtype = choose_dtype(settings.dtype, torch.device("cpu"), stored)
    loaded = choose_dtype("stored", torch.device("cpu"), stored) if cast else dtype
    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = LlamaForCausalLM.from_pretrained(folder, dtype=loaded, attn_implementation=settings.attention).eval()
    except Exception as error:  # transformers raises many types for a file that it does not take
        raise ValueError(f"transformers cannot load {folder}: {type(error).__name__}: {error}") from error
    finally:
        if shows_progress:
            logging.enable_progress_bar()
    model.config.return_dict = True  # with False in config.json the model fails in its own forward
    if cast:
        model.to(dtype)
    name = "transformers-cast" if cast else "transformers"
    return ComparedModel(name, model, settings, model, read_config(folder), folder)


def open_from_function(spec: str, settings: Settings, checkpoint: Path | None) -> ComparedModel:
    """The result of `package.module:function`. A function with a required argument gets the checkpoint's folder.

    Raises ValueError when the function cannot be imported or called, and when it fails.
    """
    function = import_part(spec)
    folder = [require_folder(spec, checkpoint)] if callable(function) and needs_argument(function) else []
    return as_compared_model(call_function(spec, *folder), settings, spec, checkpoint)


def needs_argument(function: Callable[..., Any]) -> bool:
    """Whether a function has a required positional argument."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return any(each.default is each.empty and each.kind in positional for each in parameters)


def as_compared_model(
    model: object, settings: Settings | None = None, name: str | None = None, folder: Path | None = None
) -> ComparedModel:
    """A model or a callable ids -> logits as one model of a comparison. Modules are set to evaluation mode.

    Raises ValueError when `model` is not callable.
    """
    if isinstance(model, ComparedModel):
        return model
    if isinstance(model, LlamaCpp):
        return in_llama_cpp(model, name)
    if not callable(model):
        raise ValueError(f"{name or repr(model)} is a {type(model).__name__}, which cannot be called with ids")
    module = find_module(model)
    module = getattr(module, "_orig_mod", module)  # the module that torch.compile wraps
    if module is not None:
        module.eval()
    return ComparedModel(
        name or type(model).__name__,
        model,
        settings or Settings(),
        module,
        config_of(module),
        folder or checkpoint_folder(module),
    )


def with_distinct_names(first: ComparedModel, second: ComparedModel) -> tuple[ComparedModel, ComparedModel]:
    """The two models, with "(first)" and "(second)" added to equal names."""
    if first.name != second.name:
        return first, second
    return replace(first, name=f"{first.name} (first)"), replace(second, name=f"{second.name} (second)")


def common_config(models: tuple[ComparedModel, ComparedModel]) -> LlamaConfig | None:
    """The configuration that both models should follow: the reference's, the second one's, if it has one.

    A GGUF file has only a copy of a checkpoint's settings, so a checkpoint's come first.
    """
    ordered = sorted((models[1], models[0]), key=lambda model: model.file is not None)
    return next((model.config for model in ordered if model.config is not None), None)


def find_module(call: Callable[..., Any]) -> nn.Module | None:
    """The module behind a callable: itself, the object of a bound method, or a module that a function closes over."""
    if isinstance(call, nn.Module):
        return call
    held = [getattr(call, "__self__", None), *vars(call).values()] if hasattr(call, "__dict__") else []
    held += [cell.cell_contents for cell in getattr(call, "__closure__", None) or ()]
    return next((each for each in held if isinstance(each, nn.Module)), None)


def config_of(module: nn.Module | None) -> LlamaConfig | None:
    """The configuration of a module of this project or of transformers. None: it has another one or none."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "to_dict"):
        return parse_config(config.to_dict())
    return config if hasattr(config, "rms_norm_eps") else None


def checkpoint_folder(module: nn.Module | None) -> Path | None:
    folder: Any = getattr(module, "folder", None)
    return Path(folder) if folder else None
