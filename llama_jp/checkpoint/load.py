"""Build a model from a checkpoint."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..model import Attention, Llama, Norm
from ..rope import Rope
from .config import read_config, read_scheme
from .hub import find_checkpoint
from .json_files import read_json
from .tensors import TensorInfo, file_name, find_tensors, read_group, read_tensors


def load_model(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    *,
    model_class: type[Llama] = Llama,
    attention: str | Attention = "sdpa",
    rope: Rope | None = None,
    norm: Norm | None = None,
) -> Llama:
    """Build the model that config.json describes and fill in its weights.

    source    a folder, a hub repository ("elyza/…", at a `revision`) or a short name (demo and `SHORT_NAMES`)
    dtype     a torch.dtype, its name, "stored" (as in the files) or "auto": as stored on a GPU; on a CPU bfloat16
              where the CPU multiplies bfloat16 natively, else float32
    device    where the weights go; "auto" takes a CUDA GPU when there is one

    A weight already of the wanted dtype is mapped from its file, not copied, and so is everything quantised. Others are
    converted one by one, and the pages read are given back, so peak memory is the weights plus about one tensor.

    Raises FileNotFoundError and ValueError in one sentence that names the file, the tensor and both shapes.
    """
    folder = find_checkpoint(source, revision)
    device = choose_device(device)
    model, stored = build_on_meta(folder, model_class, attention=attention, rope=rope, norm=norm)
    quantized = {name: stored.pop(name) for name, _ in model.named_buffers()}  # only quantised modules have buffers
    tensors = read_tensors(stored, choose_dtype(dtype, device, stored), device)
    if quantized:  # a mapping goes when its last tensor is packed, and so that a norm of 8 kB does not hold it: copies
        tensors = {name: tensor.clone() if tensor.dim() == 1 else tensor for name, tensor in tensors.items()}
    return assign_weights(model, tensors | read_tensors(quantized, None, device), folder)


def build_on_meta(folder: Path, model_class: type[Llama], **parts) -> tuple[Llama, dict[str, TensorInfo]]:
    """A model without weights, and the stored tensors, which are known to fit it."""
    from ..linear.layer import make_quantized

    config, scheme = read_config(folder), read_scheme(folder)
    stored = find_tensors(folder)
    with torch.device("meta"), SkipInit():
        model = model_class(config, **parts)
        if scheme:
            make_quantized(model, scheme)
    untie_if_stored_apart(model, stored)
    check_complete(model, stored, folder)
    return model, stored


class SkipInit(TorchFunctionMode):
    """Inside, `torch.nn.init` leaves weights as they are: on the meta device, drawing them imports a compiler (1 s)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def assign_weights(model: Llama, tensors: dict[str, Tensor], folder: Path) -> Llama:
    """Give an empty model its weights, and what else the folder knows about it."""
    model.load_state_dict(tensors | tied_copies(model, tensors), assign=True)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight

    model.folder = folder
    # As in transformers, a generation_config.json has the only word; without one the special ids of config.json stand.
    model.generation_config = read_json(folder / "generation_config.json", missing_ok=True) or model.generation_config
    return model.eval()


def check_complete(model: Llama, stored: dict[str, TensorInfo], folder: Path) -> None:
    """Every parameter has its tensor, every tensor its parameter, every shape fits; or one error lists what fails."""
    wanted = model.state_dict()
    if model.config.tie_word_embeddings and len({"lm_head.weight", "embed_tokens.weight"} & stored.keys()) == 1:
        wanted.pop(next(iter({"lm_head.weight", "embed_tokens.weight"} - stored.keys())))
    problems = []
    if missing := [file_name(name) for name in wanted if name not in stored]:
        problems.append(f"missing {shorten(missing)}")
    if unexpected := [f"{t.name} in {t.file.name}" for name, t in stored.items() if name not in wanted]:
        problems.append(f"unexpected {shorten(unexpected)}")
    misshapen = [
        f"{has.name} in {has.file.name} is {has.shape} where config.json makes it {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if (has := stored.get(name)) is not None and has.shape != tuple(tensor.shape)
    ]
    if misshapen:
        problems.append(f"misshapen {shorten(misshapen)}")
    quantized = dict(model.named_buffers())
    for name, tensor in stored.items():
        if name in quantized and tensor.dtype != quantized[name].dtype:
            problems.append(f"{tensor.name} in {tensor.file.name} is {tensor.dtype}, not {quantized[name].dtype}")
        elif name in wanted and name not in quantized and not tensor.dtype.is_floating_point:
            problems.append(f"{tensor.name} in {tensor.file.name} is {tensor.dtype}, not a float")
    if problems:
        raise ValueError(f"the weights in {folder} do not fit config.json: {'; '.join(problems)}")


def shorten(names: list[str], most: int = 8) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def untie_if_stored_apart(model: Llama, stored: dict[str, TensorInfo]) -> None:
    """A checkpoint that says "tied" but stores two different matrices means the two, as transformers reads it."""
    pair = [stored.get("embed_tokens.weight"), stored.get("lm_head.weight")]
    if not model.config.tie_word_embeddings or None in pair or pair[0].shape != pair[1].shape:
        return
    embedding, head = (next(read_group(one.file, [one]))[1] for one in pair)
    if not torch.equal(embedding, head):
        warnings.warn(
            "tie_word_embeddings is true, but lm_head.weight differs from embed_tokens.weight: not tied", stacklevel=4
        )
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.embed_tokens.weight))


def tied_copies(model: Llama, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A tied checkpoint stores one of two names; give the other the same tensor."""
    if not model.config.tie_word_embeddings:
        return {}
    shared = tensors["embed_tokens.weight"] if "embed_tokens.weight" in tensors else tensors["lm_head.weight"]
    return {"embed_tokens.weight": shared, "lm_head.weight": shared}


def choose_device(device: str | torch.device) -> torch.device:
    """The device meant; "auto" is a CUDA GPU when there is one. One that cannot be used is refused."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch says it either way
        raise ValueError(f"the device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def choose_dtype(dtype: str | torch.dtype, device: torch.device, stored: dict[str, TensorInfo]) -> torch.dtype:
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
    """Does this CPU have instructions for bfloat16 products? Without them they are slower than float32's."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # torch 2.11 and later
    if capabilities is not None:
        return any(capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
