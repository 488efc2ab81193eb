"""Load a model from a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..linear.layer import make_quantized
from ..model import Attention, Llama, Norm
from ..rope import Rope
from .config import read_config, read_scheme
from .hub import find_checkpoint
from .json_files import read_json
from .recognise import shorten
from .tensors import TensorInfo, checkpoint_name, find_tensors, read_tensor, read_tensors

Model = TypeVar("Model", bound=Llama)


def load_model(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
    *,
    model_class: type[Llama] = Llama,
) -> Llama:
    """Build the model that config.json describes, and load its weights.

    These are the loader arguments; `llama_jp.load` and `Llama.from_pretrained` pass the same ones on.

    source       a folder, a hub repository ("elyza/…"), "demo", or a key of `SHORT_NAMES` (see hub.py)
    dtype        a torch.dtype, its name, "stored" (as in the files) or "auto": as stored on a GPU; on a CPU, bfloat16
                 if the CPU has bfloat16 instructions, else float32
    device       a torch.device or its name; "auto" is the CUDA GPU, or the CPU on a machine without one
    revision     a branch, tag or commit of a hub repository
    attention    "sdpa", "eager" or a function, as in `Llama`
    rope, norm   functions that replace the standard ones, as in `Llama`
    model_class  a subclass of `Llama` with the same constructor

    On the CPU, quantised weights and weights that are stored in the dtype stay memory-mapped. Other weights are
    converted in small groups, so peak memory is the weights plus about one tensor.

    Raises FileNotFoundError for missing files. Raises ValueError for damaged files, for unsupported settings, and for
    tensors that do not fit config.json. The message is one line with the file and the reason.
    """
    folder = find_checkpoint(source, revision)
    device = choose_device(device)
    model, stored = build_on_meta(folder, model_class, attention=attention, rope=rope, norm=norm)
    quantized = {name: stored.pop(name) for name, _ in model.named_buffers()}  # only quantised modules have buffers
    tensors = read_tensors(stored, choose_dtype(dtype, device, stored), device)
    if quantized:
        # A file stays mapped while any tensor in it exists. The quantised weights are unmapped once they are packed;
        # copies of the small norms let that happen.
        tensors = {name: tensor.clone() if tensor.dim() == 1 else tensor for name, tensor in tensors.items()}
    return assign_weights(model, tensors | read_tensors(quantized, None, device), folder)


def build_on_meta(
    folder: Path,
    model_class: type[Model],
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
) -> tuple[Model, dict[str, TensorInfo]]:
    """Build a model on the meta device, and list the stored tensors, after a check that they fit the model."""
    config, scheme = read_config(folder), read_scheme(folder)
    stored = find_tensors(folder)
    with torch.device("meta"), SkipInit():
        model = model_class(config, attention=attention, rope=rope, norm=norm)
        if scheme:
            make_quantized(model, scheme)
    untie_if_stored_separately(model, stored)
    check_complete(model, stored, folder)
    return model, stored


class SkipInit(TorchFunctionMode):
    """A context in which the functions of `torch.nn.init` do nothing.

    On the meta device there is nothing to initialise, and random initialisation there imports a compiler (1 s).
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def assign_weights(model: Model, tensors: dict[str, Tensor], folder: Path) -> Model:
    """Fill a model on the meta device with weights, and attach the folder and its generation_config.json."""
    model.load_state_dict(tensors | tied_copies(model, tensors), assign=True)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight

    model.folder = folder
    # As in transformers, generation_config.json replaces the special ids of config.json as a whole.
    model.generation_config = read_json(folder / "generation_config.json", missing_ok=True) or model.generation_config
    return model.eval()


def check_complete(model: Llama, stored: dict[str, TensorInfo], folder: Path) -> None:
    """Check that every parameter is stored, every stored tensor is used, and every shape and kind of dtype fits.

    Raises ValueError with a list of all problems.
    """
    wanted = model.state_dict()
    if model.config.tie_word_embeddings and len({"lm_head.weight", "embed_tokens.weight"} & stored.keys()) == 1:
        wanted.pop(next(iter({"lm_head.weight", "embed_tokens.weight"} - stored.keys())))
    problems = []
    if missing := [checkpoint_name(name) for name in wanted if name not in stored]:
        problems.append(f"missing {shorten(missing)}")
    if unexpected := [f"{info.name} in {info.file.name}" for name, info in stored.items() if name not in wanted]:
        problems.append(f"unexpected {shorten(unexpected)}")
    misshapen = [
        f"{info.name} in {info.file.name} is {info.shape} where config.json makes it {tuple(parameter.shape)}"
        for name, parameter in wanted.items()
        if (info := stored.get(name)) is not None and info.shape != tuple(parameter.shape)
    ]
    if misshapen:
        problems.append(f"misshapen {shorten(misshapen)}")
    quantized = dict(model.named_buffers())
    for name, info in stored.items():
        if name in quantized and info.dtype != quantized[name].dtype:
            problems.append(f"{info.name} in {info.file.name} is {info.dtype}, not {quantized[name].dtype}")
        elif name in wanted and name not in quantized and not info.dtype.is_floating_point:
            problems.append(f"{info.name} in {info.file.name} is {info.dtype}, not a float")
    if problems:
        raise ValueError(f"the weights in {folder} do not fit config.json: {'; '.join(problems)}")


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
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.embed_tokens.weight))


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
