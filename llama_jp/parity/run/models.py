"""What can be held against what: this model, transformers' model, or somebody else's, each with its settings.

a folder, hub repository or short name     this project's model with that checkpoint
transformers                               the reference, with the same checkpoint
transformers-cast                          the reference loaded as stored, then cast with .to(dtype)
package.module:function                    what the function returns: a model, or a callable ids -> logits
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoint.config import parse_config, read_config, read_scheme
from ...checkpoint.hub import find_checkpoint
from ...checkpoint.load import choose_dtype
from ...checkpoint.tensors import find_tensors
from ...linear.layer import QuantizedLinear
from ...model import Llama, LlamaConfig
from ...tracing import is_reference, named_modules


@dataclass
class Settings:
    """How one side runs. `rows`: how many rows of a batch go through the model at once (None: all of them)."""

    dtype: str = "auto"
    attention: str = "sdpa"
    threads: int | None = None
    rows: int | None = None


@dataclass
class Subject:
    """One side of a comparison: something that turns ids into logits, and what is known about it."""

    name: str
    call: Callable  # the model, or a function ids -> logits
    settings: Settings = field(default_factory=Settings)
    model: nn.Module | None = None  # what can be traced
    config: LlamaConfig | None = None
    folder: Path | None = None

    @property
    def has_cache(self) -> bool:
        return hasattr(self.call, "new_cache") or is_reference(self.call)

    @property
    def compiled(self) -> bool:
        """torch.compile computes several operations in one, and hooks would make another program of it."""
        parts = self.model.modules() if self.model is not None else ()
        whole = hasattr(self.call, "_torchdynamo_orig_callable") or hasattr(self.call, "_orig_mod")
        return whole or any(getattr(part, "_compiled_call_impl", None) is not None for part in parts)

    def begin(self, rows: int, length: int) -> Callable[[Tensor, Tensor | None], Tensor]:
        """Start a text of up to `length` tokens: a function (new ids, mask over all ids so far) -> logits."""
        if hasattr(self.call, "new_cache"):
            cache = self.call.new_cache(batch_size=rows, max_length=length)
            return lambda ids, mask: self.call(ids, cache, mask=mask)
        if is_reference(self.call):
            return _ReferenceText(self.call)
        return _PlainText(self.call)

    def whole(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of a text in one call, the way it is called without a thought about caches."""
        if is_reference(self.call):
            return _ReferenceText(self.call)(ids, mask)
        if hasattr(self.call, "new_cache"):
            return self.call(ids, mask=mask)
        return _PlainText(self.call)(ids, mask)

    @property
    def dtype(self) -> torch.dtype | None:
        parameter = next(self.model.parameters(), None) if self.model is not None else None
        return None if parameter is None else parameter.dtype

    def parameters(self) -> dict[str, Tensor]:
        """Every parameter under the name that points have; of a quantised layer, the numbers it stands for."""
        found = {}
        for path, module in named_modules(self.model).items() if self.model is not None else ():
            found |= {f"{path}.{name}": value.detach() for name, value in module.named_parameters(recurse=False)}
            if isinstance(module, QuantizedLinear):
                found[f"{path}.weight"] = module.dequantize(self.dtype)
        return found

    def describe(self) -> dict:
        return {"name": self.name, **asdict(self.settings), "computes_in": str(self.dtype).removeprefix("torch.")}


class _ReferenceText:
    """transformers' model over one text: its cache, and positions that follow from the mask."""

    def __init__(self, model: nn.Module):
        self.model, self.past, self.length = model, None, 0

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        given = {}
        if mask is not None:
            positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
            given = {"attention_mask": mask, "position_ids": positions[:, -ids.shape[1] :]}
        if self.past is not None:
            given["past_key_values"] = self.past
        output = self.model(ids, **given)
        self.past = output.past_key_values
        return output.logits


class _PlainText:
    """A function of ids alone: each call gives it the whole text so far, and a padded row without its padding."""

    def __init__(self, call: Callable):
        self.call, self.ids = call, None

    def logits(self, ids: Tensor) -> Tensor:
        output = self.call(ids)
        return getattr(output, "logits", output)

    def __call__(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        self.ids = ids if self.ids is None else torch.cat((self.ids, ids), 1)
        if mask is None:
            return self.logits(self.ids)[:, -ids.shape[1] :]
        rows = [self.logits(row[None, used]) for row, used in zip(self.ids, mask.bool(), strict=True)]
        padded = [F.pad(row[0], (0, 0, mask.shape[1] - row.shape[1], 0)) for row in rows]
        return torch.stack(padded)[:, -ids.shape[1] :]


def open_subject(spec: str, settings: Settings, checkpoint: Path | None = None) -> Subject:
    """Load one side. `checkpoint` is the folder for subjects that name none themselves."""
    if spec in ("transformers", "transformers-cast"):
        return open_reference(need_folder(spec, checkpoint), settings, cast=spec.endswith("cast"))
    if is_function(spec):
        return open_function(spec, settings, checkpoint)
    folder = find_checkpoint(spec)
    model = Llama.from_pretrained(folder, dtype=settings.dtype, device="cpu", attention=settings.attention)
    return Subject(spec, model, settings, model, model.config, folder)


def is_function(spec: str) -> bool:
    return re.fullmatch(r"[\w.]+:\w+", spec) is not None


def need_folder(spec: str, checkpoint: Path | None) -> Path:
    if checkpoint is None:
        raise ValueError(f"{spec} needs a checkpoint: name a folder on the other side, or give --checkpoint")
    return checkpoint


def open_reference(folder: Path, settings: Settings, cast: bool = False) -> Subject:
    """transformers' Llama, loaded from the same files."""
    try:
        from transformers import LlamaForCausalLM
        from transformers.utils import logging
    except ImportError:
        raise ValueError("the reference is transformers, which is not installed: pip install transformers") from None
    logging.disable_progress_bar()
    if scheme := read_scheme(folder):
        raise ValueError(f"transformers cannot read {folder} ({scheme}); compare it --against its original")
    stored = find_tensors(folder)
    dtype = choose_dtype(settings.dtype, torch.device("cpu"), stored)
    loaded = choose_dtype("stored", torch.device("cpu"), stored) if cast else dtype
    model = LlamaForCausalLM.from_pretrained(folder, dtype=loaded, attn_implementation=settings.attention).eval()
    if cast:
        model.to(dtype)
    name = "transformers-cast" if cast else "transformers"
    return Subject(name, model, settings, model, read_config(folder), folder)


def open_function(spec: str, settings: Settings, checkpoint: Path | None) -> Subject:
    """What `package.module:function` returns, called with the checkpoint's folder if it takes an argument."""
    module, _, name = spec.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot find {spec}: {error}") from error
    required = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return as_subject(function(need_folder(spec, checkpoint)) if required else function(), settings, spec, checkpoint)


def as_subject(
    thing: object, settings: Settings | None = None, name: str | None = None, folder: Path | None = None
) -> Subject:
    """A model or a callable as one side of a comparison."""
    if isinstance(thing, Subject):
        return thing
    if not callable(thing):
        raise ValueError(f"{name or thing!r} gives a {type(thing).__name__}, which cannot be called with ids")
    model = find_model(thing)
    model = getattr(model, "_orig_mod", model)  # what torch.compile was given
    if isinstance(model, nn.Module):
        model.eval()
    return Subject(
        name or type(thing).__name__, thing, settings or Settings(), model, config_of(model), folder or _origin(model)
    )


def find_model(thing: Callable) -> nn.Module | None:
    """The module behind a callable: itself, the object of a bound method, or one that a function closes over."""
    if isinstance(thing, nn.Module):
        return thing
    held = [getattr(thing, "__self__", None), *vars(thing).values()] if hasattr(thing, "__dict__") else []
    held += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    return next((each for each in held if isinstance(each, nn.Module)), None)


def config_of(model: nn.Module | None) -> LlamaConfig | None:
    config = getattr(model, "config", None)
    if hasattr(config, "to_dict"):
        return parse_config(config.to_dict())
    return config if hasattr(config, "rms_norm_eps") else None


def _origin(model: nn.Module | None) -> Path | None:
    folder = getattr(model, "folder", None)
    return Path(folder) if folder else None
