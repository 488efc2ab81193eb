"""Load a model from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..model import Attention, Llama, Norm
from ..rope import Rope
from .adapter import Adapter, check_mergeable, is_other_base, merge_adapter, read_adapter
from .build import build_without_weights
from .config import config_file, read_config, read_parts, read_scheme
from .hub import find_checkpoint
from .json_files import read_json
from .layouts import find_tensors
from .parts import Parts, call_function, describe, is_function_name, resolve_parts
from .recognise import shorten
from .tensors import TensorInfo, checkpoint_name, read_tensor, read_tensors

Model = TypeVar("Model", bound=Llama)


def load_model(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
    adapter: str | Path | None = None,
    trust_parts: bool = False,
    missing: str = "refuse",
    *,
    model_class: type[Llama] = Llama,
) -> Llama:
    """Build the model that config.json describes, and load its weights.

    These are the loader arguments; `llama_jp.load` and `Llama.from_pretrained` pass the same ones on.

    source       a folder, a hub repository ("elyza/…"), "demo", or a key of `SHORT_NAMES` (see hub.py); or
                 "module:function", which is called and returns a `Llama`
    dtype        a torch.dtype, its name, "stored" (as in the files) or "auto": as stored on a GPU; on a CPU, bfloat16
                 if the CPU has bfloat16 instructions, else float32
    device       a torch.device or its name; "auto" is the CUDA GPU, or the CPU on a machine without one
    revision     a branch, tag or commit of a hub repository
    attention    "sdpa", "eager" or a function, as in `Llama`
    rope, norm   functions that replace the standard ones, as in `Llama`
    adapter      the folder of a PEFT (LoRA) adapter, which is merged into the weights; see adapter.py
    trust_parts  import the functions and the class that the checkpoint of a changed model names, and run their code
    missing      "refuse", or "initialise": parameters of a subclass that the checkpoint lacks keep the values of its
                 constructor, and a warning names them. Weights of a plain Llama are never initialised
    model_class  a subclass of `Llama` with the same constructor

    Buffers that are not stored, and plain tensors, have the values of the constructor.

    On the CPU, quantised weights and weights that are stored in the dtype stay memory-mapped. Other weights, and those
    that have to be joined or dequantised (see layouts.py), are converted in small groups, so peak memory is the weights
    plus about one tensor, or a few where tensors are joined or dequantised.

    Raises FileNotFoundError for missing files. Raises ValueError for damaged files, for unsupported settings, for
    tensors that do not fit config.json, for an adapter that does not fit the model, and for a changed model whose parts
    are neither handed in nor trusted. The message is one line with the file and the reason.
    """
    if missing not in ("refuse", "initialise"):
        raise ValueError(f"missing is 'refuse' or 'initialise', not {missing!r}")
    lora = None if adapter is None else read_adapter(adapter)
    if is_function_name(source):
        parts = Parts(model_class, attention, rope, norm)
        model = model_from_function(str(source), dtype, device, revision, parts)
        if lora is not None:
            check_mergeable(lora, model)
            add_adapter(lora, model, source)
        return model
    folder = find_checkpoint(source, revision)
    device = choose_device(device)
    model, stored = build_on_meta(folder, model_class, attention, rope, norm, trust_parts, missing)
    if lora is not None:
        check_mergeable(lora, model)  # before gigabytes are loaded
    as_stored = [name for name, buffer in model.named_buffers() if buffer.is_meta or not buffer.is_floating_point()]
    quantized = {name: stored.pop(name) for name in as_stored if name in stored}  # in the order of their use
    dtype = choose_dtype(dtype, device, stored)
    give_values(model, stored.keys() | quantized.keys(), dtype, device)
    tensors = read_tensors(stored, dtype, device)
    if quantized:
        # A file stays mapped while any tensor in it exists. The quantised weights are unmapped once they are packed;
        # copies of the small norms let that happen.
        tensors = {name: tensor.clone() if tensor.dim() == 1 else tensor for name, tensor in tensors.items()}
    assign_weights(model, tensors | read_tensors(quantized, None, device, released=True), folder)
    if lora is not None:
        add_adapter(lora, model, source)
    return model


def add_adapter(adapter: Adapter, model: Llama, source: str | Path) -> None:
    """Merge an adapter into a loaded model. A warning says if it was trained on another one."""
    if is_other_base(adapter, source, model.folder):
        warnings.warn(f"the adapter {adapter.folder} was trained on {adapter.base}, not on {source}", stacklevel=3)
    merge_adapter(adapter, model)


def model_from_function(
    spec: str, dtype: str | torch.dtype, device: str | torch.device, revision: str | None, parts: Parts
) -> Llama:
    """The model that "module:function" returns, in another dtype or on another device if one is named."""
    if revision is not None:
        raise ValueError(f"{spec} is a function, so it has no revision {revision!r}")
    if parts[1:] != Parts(Llama)[1:]:
        raise ValueError(f"the model of {spec} has its own attention, rope and norm; set them in the function")
    model = call_function(spec)
    if not isinstance(model, parts.model_class):
        raise ValueError(f"{spec} returns {describe(model)}, but a {parts.model_class.__qualname__} is needed")
    model.eval()
    if dtype not in ("auto", "stored"):
        model.to(named_dtype(dtype))
    return model if device == "auto" else model.to(choose_device(device))


def build_on_meta(
    folder: Path,
    model_class: type[Model],
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
    trust_parts: bool = False,
    missing: str = "refuse",
) -> tuple[Model, dict[str, TensorInfo]]:
    """Build a model with parameters on the meta device, and list the stored tensors, after a check that they fit it.

    With `missing="initialise"`, new parameters that are not stored are real.
    """
    config, scheme = read_config(folder, changed_ok=True), read_scheme(folder)
    parts = resolve_parts(folder, read_parts(folder), Parts(model_class, attention, rope, norm), trust_parts)
    stored = find_tensors(folder)
    model = build_without_weights(config, scheme, parts)
    untie_if_stored_separately(model, stored)
    absent = check_complete(model, stored, folder, missing)
    if absent:
        parameters = [name for name, _ in model.named_parameters() if name in absent]
        model = build_without_weights(model.config, scheme, parts, parameters)
        warnings.warn(f"initialised, because {folder} does not hold them: {shorten(absent)}", stacklevel=4)
    assert isinstance(model, model_class), "a class that is imported is a subclass of the one that is given"
    return model, stored


def give_values(model: Llama, stored: Collection[str], dtype: torch.dtype, device: torch.device) -> None:
    """Bring what is not stored, but real, to its dtype and device: parameters to train anew, and buffers.

    As `.to(dtype)` does, only floating-point numbers are rounded.
    """
    for path, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or tensor.is_meta or f"{path}.{name}".lstrip(".") in stored:
                    continue
                moved = tensor.detach().to(device, dtype if tensor.is_floating_point() else None)
                is_parameter = isinstance(tensor, nn.Parameter)
                tensors[name] = nn.Parameter(moved, tensor.requires_grad) if is_parameter else moved


def assign_weights(model: Model, tensors: dict[str, Tensor], folder: Path) -> Model:
    """Fill a model on the meta device with weights, and attach the folder and its generation_config.json."""
    real = {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_meta}
    model.load_state_dict(real | tensors | tied_copies(model, tensors), assign=True)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight

    model.folder = folder
    # As in transformers, generation_config.json replaces the special ids of config.json as a whole.
    model.generation_config = read_json(folder / "generation_config.json", missing_ok=True) or model.generation_config
    return model.eval()


def check_complete(model: Llama, stored: dict[str, TensorInfo], folder: Path, missing: str = "refuse") -> list[str]:
    """Check that every parameter is stored, every stored tensor is used, and every shape and kind of dtype fits.

    missing  "initialise": parameters that a plain Llama has not may be absent. Returns their names

    Raises ValueError with a list of all problems.
    """
    wanted = model.state_dict()
    if model.config.tie_word_embeddings and len({"lm_head.weight", "embed_tokens.weight"} & stored.keys()) == 1:
        wanted.pop(next(iter({"lm_head.weight", "embed_tokens.weight"} - stored.keys())))
    problems = []
    described_by = config_file(folder).name
    absent = [name for name in wanted if name not in stored]
    new = new_names(model) if absent and type(model) is not Llama else set()
    unexpected = [f"{info.name} in {info.file.name}" for name, info in stored.items() if name not in wanted]
    if absent and not (missing == "initialise" and new.issuperset(absent)):
        can_start = new.issuperset(absent) and not unexpected
        hint = ' (missing="initialise" starts them with the values of the constructor)' if can_start else ""
        problems.append(f"missing {shorten([checkpoint_name(name) for name in absent])}{hint}")
    if unexpected:
        problems.append(f"unexpected {shorten(unexpected)}")
    misshapen = [
        f"{info.name} in {info.file.name} is {info.shape} where {described_by} makes it {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if (info := stored.get(name)) is not None and info.shape != tuple(parameter.shape)
    ]
    if misshapen:
        problems.append(f"misshapen {shorten(misshapen)}")
    buffers = dict(model.named_buffers())
    for name, info in stored.items():
        as_stored = name in buffers and (buffers[name].is_meta or not buffers[name].is_floating_point())
        if as_stored and info.dtype != buffers[name].dtype:
            problems.append(f"{info.name} in {info.file.name} is {info.dtype}, not {buffers[name].dtype}")
        elif name in wanted and not as_stored and not info.dtype.is_floating_point:
            problems.append(f"{info.name} in {info.file.name} is {info.dtype}, not a float")
    if problems:
        raise ValueError(f"the weights in {folder} do not fit {described_by}: {'; '.join(problems)}")
    return absent


def new_names(model: Llama) -> set[str]:
    """The names of the tensors that a subclass of `Llama` has and `Llama` has not."""
    plain = build_without_weights(model.config, getattr(model, "quantization", None), Parts(Llama))
    return model.state_dict().keys() - plain.state_dict().keys()


def untie_if_stored_separately(model: Llama, stored: dict[str, TensorInfo]) -> None:
    """Untie the embedding and the head if config.json ties them but the files hold two different matrices.

    The two matrices count, as in transformers; a warning names the conflict.
    """
    embedding, head = stored.get("embed_tokens.weight"), stored.get("lm_head.weight")
    if not model.config.tie_word_embeddings or embedding is None or head is None or embedding.shape != head.shape:
        return
    if not torch.equal(read_tensor(embedding), read_tensor(head)):
        warnings.warn(
            "tie_word_embeddings is true, but lm_head.weight differs from embed_tokens.weight: not tied", stacklevel=4
        )
        model.config.tie_word_embeddings = False
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.embed_tokens.weight))


def tied_copies(model: Llama, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The shared matrix of a tied model under both of its names; nothing for a model that is not tied."""
    if not model.config.tie_word_embeddings:
        return {}
    shared = tensors["embed_tokens.weight"] if "embed_tokens.weight" in tensors else tensors["lm_head.weight"]
    return {"embed_tokens.weight": shared, "lm_head.weight": shared}


def choose_device(device: str | torch.device) -> torch.device:
    """The device to load to; "auto" is the CUDA GPU, or the CPU on a machine without one.

    Raises ValueError for a device that torch cannot use.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device).startswith("meta"):
        raise ValueError(f"the device {str(device)!r} holds no numbers; take one that computes, such as cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch raises AssertionError if it was built without CUDA
        raise ValueError(f"the device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def choose_dtype(dtype: str | torch.dtype, device: torch.device, stored: dict[str, TensorInfo]) -> torch.dtype:
    """The dtype to load in; "stored" and "auto" as in `load_model`.

    Raises ValueError for anything but a float dtype.
    """
    as_stored = stored["embed_tokens.weight" if "embed_tokens.weight" in stored else "lm_head.weight"].dtype
    if dtype == "stored" or (dtype == "auto" and device.type != "cpu"):
        return as_stored
    if dtype == "auto":
        return torch.bfloat16 if multiplies_bfloat16() else torch.float32
    return named_dtype(dtype)


def named_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """A float dtype, or the one of a name such as "bfloat16". ValueError for anything else."""
    chosen = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(chosen, torch.dtype) or not chosen.is_floating_point:
        raise ValueError(f"dtype is a torch float type, its name, 'stored' or 'auto', not {dtype!r}")
    return chosen


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 products. Without them, float32 products are faster."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 and later
    if capabilities is not None:
        return any(capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
