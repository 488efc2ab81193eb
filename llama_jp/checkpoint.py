"""Files to a model and back: finding a checkpoint, reading its config.json, filling in its weights, writing both again.

A checkpoint is what the hub publishes: config.json, weights as safetensors or as PyTorch's `.bin` zip files, one or
many, and the tokenizer's files. It loads completely or is refused, and what is refused is named.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from .model import Attention, Llama, LlamaConfig, Norm, Rope, make_rope
from .rope_scaling import ROPE_TYPES
from .tokenizer import TOKENIZER_FILES, Tokenizer

if TYPE_CHECKING:
    from .quantize.format import Scheme

SHORT_NAMES = {
    "7b": "elyza/ELYZA-japanese-Llama-2-7b",
    "7b-instruct": "elyza/ELYZA-japanese-Llama-2-7b-instruct",
    "7b-fast": "elyza/ELYZA-japanese-Llama-2-7b-fast",
    "7b-fast-instruct": "elyza/ELYZA-japanese-Llama-2-7b-fast-instruct",
}
# In the order in which transformers looks for them.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def load(
    source: str | Path = "demo",
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    attention: str | Attention = "sdpa",
) -> tuple[Llama, Tokenizer]:
    """A model and its tokenizer, ready to generate. For the arguments see `load_model`."""
    folder = find_checkpoint(source, revision)
    return load_model(folder, dtype, device, attention=attention), Tokenizer.from_pretrained(folder)


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
    model, stored = empty_model(folder, model_class, attention=attention, rope=rope, norm=norm)
    quantized = {name: stored.pop(name) for name, _ in model.named_buffers()}  # only quantised modules have buffers
    tensors = read_tensors(stored, choose_dtype(dtype, device, stored), device)
    if quantized:  # a mapping goes when its last tensor is packed, and so that a norm of 8 kB does not hold it: copies
        tensors = {name: tensor.clone() if tensor.dim() == 1 else tensor for name, tensor in tensors.items()}
    return fill(model, tensors | read_tensors(quantized, None, device), folder)


def empty_model(folder: Path, model_class: type[Llama], **parts) -> tuple[Llama, dict[str, Stored]]:
    """A model without weights, and the stored tensors, which are known to fit it."""
    from .quantize.format import make_quantized

    config, scheme = read_config(folder), read_scheme(folder)
    stored = find_tensors(folder)
    with torch.device("meta"), NothingDrawn():
        model = model_class(config, **parts)
        if scheme:
            make_quantized(model, scheme)
    untie_if_stored_apart(model, stored)
    check_complete(model, stored, folder)
    return model, stored


class NothingDrawn(TorchFunctionMode):
    """Inside, `torch.nn.init` leaves weights as they are: on the meta device, drawing them imports a compiler (1 s)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return function(*args, **kwargs)


def fill(model: Llama, tensors: dict[str, Tensor], folder: Path) -> Llama:
    """Give an empty model its weights, and what else the folder knows about it."""
    model.load_state_dict(tensors | tied_copies(model, tensors), assign=True)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.embed_tokens.weight

    model.folder = folder
    # As in transformers, a generation_config.json has the only word; without one the special ids of config.json stand.
    model.generation_config = read_json(folder / "generation_config.json", missing_ok=True) or model.generation_config
    return model.eval()


# ---- finding a checkpoint


def find_checkpoint(source: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The folder that holds a checkpoint, downloaded first when `source` names one on the hub.

    Only the files needed are fetched: safetensors where the revision has them, else `.bin`; without `weights`, the
    small files only.
    """
    folder, short_names = Path(source).expanduser(), ["demo", *SHORT_NAMES]
    if folder.is_dir() and (str(source) not in short_names or (folder / "config.json").is_file()):
        return folder
    if str(source) == "demo":
        return demo_folder()
    name = SHORT_NAMES.get(str(source), str(source))
    if isinstance(source, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise FileNotFoundError(
            f"{source} is no folder, no hub repository (owner/name) and no short name ({', '.join(short_names)})"
        )
    return download(name, revision, weights)


def demo_folder() -> Path:
    """Where the bundled model lies: inside an installed package, or beside the package in a clone."""
    package = Path(__file__).resolve().parent
    for folder in (package / "weights" / "demo", package.parent / "weights" / "demo"):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        "the bundled model weights/demo is not installed; name a folder or a hub repository instead"
    )


def download(repository: str, revision: str | None, weights: bool) -> Path:
    """Fetch what is needed of a hub repository into the usual cache; the HF_* environment variables apply.

    The small files come first: an index among them tells which weights there are. Without a network the cache is used.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    at = f"{repository} at revision {revision}" if revision else repository
    patterns = ["config.json", "generation_config.json", "certificate.json", "*.index.json", *TOKENIZER_FILES]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        for weight_file in WEIGHT_FILES if weights else ():
            if weight_file.endswith(".index.json"):
                if not (folder / weight_file).is_file():
                    continue
                patterns = sorted(set(read_json(folder / weight_file).get("weight_map", {}).values()))
            else:
                patterns = [weight_file]
            if not all((folder / name).is_file() for name in patterns):
                snapshot_download(repository, revision=revision, allow_patterns=patterns)
            if (folder / patterns[0]).is_file():
                break
        return folder
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{at} is not in the local cache and the hub cannot be reached (or HF_HUB_OFFLINE is set); "
            "download it once with a network, or give a folder"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub refused {at}: {' '.join(str(error).split())}") from error


# ---- config.json


def read_json(file: Path, missing_ok: bool = False) -> dict:
    if missing_ok and not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {file.name} in {file.parent}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__} where an object was expected")
    return content


def read_config(folder: str | Path) -> LlamaConfig:
    file = Path(folder) / "config.json"
    try:
        return parse_config(read_json(file))
    except (ValueError, KeyError) as error:
        raise ValueError(error.args[0] if str(file) in str(error) else f"{file}: {error.args[0]}") from error


def read_scheme(folder: str | Path) -> Scheme | None:
    """How the weights in a folder are quantised, or None where they are not."""
    from .quantize.format import Scheme

    raw = read_json(Path(folder) / "config.json").get("quantization_config")
    return None if raw is None else Scheme.from_json(raw)


def parse_config(raw: dict) -> LlamaConfig:
    """config.json's keys, old and new, to a `LlamaConfig`.

    Keys that cannot change the numbers are ignored. Those that would change them and are not supported are refused by
    name, and so is a missing or impossible size.
    """
    from .quantize.format import Scheme

    refuse_unsupported(raw)
    if (quantized := raw.get("quantization_config")) is not None:
        Scheme.from_json(quantized)
    known = {field.name for field in dataclasses.fields(LlamaConfig)}
    values = {key: value for key, value in raw.items() if key in known}
    values["torch_dtype"] = raw.get("dtype", raw.get("torch_dtype"))  # `dtype` is the newer name
    values |= parse_rope(raw)
    for key in ("attention_bias", "mlp_bias", "tie_word_embeddings", "max_position_embeddings"):
        if values.get(key, 0) is None:
            del values[key]

    required = [field.name for field in dataclasses.fields(LlamaConfig) if field.default is dataclasses.MISSING]
    if missing := [key for key in required if values.get(key) is None]:
        raise ValueError(f"no value for {', '.join(missing)}")
    sizes = [key for key in required if key != "rms_norm_eps"] + [
        "max_position_embeddings",
        "num_key_value_heads",
        "head_dim",
    ]
    for key in sizes:
        value = values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{key} is {value!r}, but it has to be a positive whole number")
    for key in ("rms_norm_eps", "rope_theta"):
        value = values[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise ValueError(f"{key} is {value!r}, but it has to be a positive number")
    config = LlamaConfig(**values)
    make_rope(config)  # refuses a scaling with a missing key
    return config


def refuse_unsupported(raw: dict) -> None:
    supported = {
        "model_type": ("llama",),
        "hidden_act": ("silu", "swish"),  # two names of one function
        "pretraining_tp": (1,),
        "partial_rotary_factor": (1,),
        "is_causal": (True,),
        "per_layer_config": (),
    }
    for key, values in supported.items():
        value = raw.get(key)
        if value is not None and value not in values:
            only = f"; only {' or '.join(map(repr, values))} is" if values else ""
            raise ValueError(f"{key} {value!r} is not supported{only}")


def parse_rope(raw: dict) -> dict:
    """`rope_theta` and `rope_scaling` from either way of writing them.

    Old: two keys, `rope_theta` and `rope_scaling: {type or rope_type: …}`.
    New: one key, `rope_parameters: {rope_theta, rope_type, …}`.
    """
    scaling = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise ValueError(f"rope_scaling is {scaling!r}, but it has to be an object or null")
    scaling = dict(scaling)
    theta = scaling.pop("rope_theta", None)
    theta = raw.get("rope_theta") if theta is None else theta
    rope_type = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    if scaling.pop("partial_rotary_factor", None) not in (None, 1):
        raise ValueError("partial_rotary_factor other than 1 is not supported")
    if rope_type == "default":
        scaling = None
    elif rope_type not in ROPE_TYPES:
        raise ValueError(f"rope_type {rope_type!r} is not supported; known are default, {', '.join(ROPE_TYPES)}")
    else:
        if (trained := raw.get("original_max_position_embeddings")) is not None:
            scaling["original_max_position_embeddings"] = trained  # transformers gives the outer key priority
        scaling = {"rope_type": rope_type, **scaling}
    return {"rope_theta": 10000.0 if theta is None else theta, "rope_scaling": scaling}


def config_to_json(config: LlamaConfig, dtype: torch.dtype) -> dict:
    """What config.json has to say for this project and for transformers, old and new."""
    values = dataclasses.asdict(config) | {"torch_dtype": dtype_name(dtype)}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        **dict(sorted(values.items())),
    }


# ---- reading weights


class Stored(NamedTuple):
    """A tensor in a file, known by its outside."""

    file: Path
    name: str  # as the file has it
    shape: tuple[int, ...]
    dtype: torch.dtype
    part: tuple[slice, ...] = ()  # what to read of it: a slice for each of the first dimensions

    @property
    def nbytes(self) -> int:
        sizes = list(self.shape)
        for i, part in enumerate(self.part):
            sizes[i] = len(range(*part.indices(sizes[i])))
        return self.dtype.itemsize * torch.Size(sizes).numel()

    @property
    def in_one_piece(self) -> bool:
        """Is what to read one run of bytes in the file?"""
        return len(self.part) <= 1


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, in the index's order."""
    for name in WEIGHT_FILES:
        file = folder / name
        if not file.is_file():
            continue
        if not name.endswith(".index.json"):
            return [file]
        shards = read_json(file).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ValueError(f"{file} has no weight_map")
        shards = list(dict.fromkeys(shards.values()))
        for shard in shards:
            if Path(shard).name != shard:
                raise ValueError(f"{file} names {shard!r}, which is not a file beside it")
            if not (folder / shard).is_file():
                raise FileNotFoundError(f"{file.name} names {shard}, which is not in {folder}")
        return [folder / shard for shard in shards]
    raise FileNotFoundError(f"there are no weights in {folder}: none of {', '.join(WEIGHT_FILES)}")


def find_tensors(folder: Path) -> dict[str, Stored]:
    """Every stored tensor under the name that the model has for it, without reading any.

    Passed over: `rotary_emb.inv_freq`, which old checkpoints carry and `plain_rope` computes.
    """
    found: dict[str, Stored] = {}
    for file in weight_files(folder):
        for stored in list_tensors(file):
            name = stored.name.removeprefix("model.")
            if name.endswith("rotary_emb.inv_freq"):
                continue
            if name in found:
                raise ValueError(f"{stored.name} is stored twice, in {found[name].file.name} and in {file.name}")
            found[name] = stored
    return found


def list_tensors(file: Path) -> Iterator[Stored]:
    if file.suffix == ".safetensors":
        with open_safetensors(file) as content:
            for name in content.keys():  # noqa: SIM118 (not a dict)
                part = content.get_slice(name)
                yield Stored(file, name, tuple(part.get_shape()), safetensors_dtype(part.get_dtype(), file, name))
    else:
        for name, tensor in read_bin(file, "meta").items():
            yield Stored(file, name, tuple(tensor.shape), tensor.dtype)


def safetensors_dtype(name: str, file: Path, tensor: str) -> torch.dtype:
    dtypes = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    dtypes |= {"I8": torch.int8, "U8": torch.uint8}  # quantised weights
    if name not in dtypes:
        raise ValueError(f"{tensor} in {file} is stored as {name}; supported are {', '.join(dtypes)}")
    return dtypes[name]


def open_safetensors(file: Path):
    try:
        return safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or incomplete ({file.stat().st_size:,} bytes): {error}") from error


def read_bin(file: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a `.bin` file, mapped. Its pickle may build tensors and nothing else (`weights_only=True`)."""
    if not zipfile.is_zipfile(file):
        raise ValueError(
            f"{file} is no PyTorch zip file ({file.stat().st_size:,} bytes): incomplete, damaged, or older than "
            "torch 1.6; download it again, or save it anew with torch.save"
        )
    try:
        content = torch.load(file, map_location=device, weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)", str(error))
        what = f"to run {wanted[1]}" if wanted else "for more than tensors"
        raise ValueError(f"{file} is refused: its pickle asks {what} when it is read, and only tensors are") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{file} is damaged or incomplete ({file.stat().st_size:,} bytes): {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{file} does not hold tensors by name; is it a training checkpoint rather than a model?")
    return content


def check_complete(model: Llama, stored: dict[str, Stored], folder: Path) -> None:
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


def untie_if_stored_apart(model: Llama, stored: dict[str, Stored]) -> None:
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


def choose_dtype(dtype: str | torch.dtype, device: torch.device, stored: dict[str, Stored]) -> torch.dtype:
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


def read_tensors(stored: dict[str, Stored], dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
    """All tensors in the wanted dtype (None: as stored) on the wanted device, with a progress bar in bytes.

    Mapped pages count as resident memory until the file is unmapped. So where tensors are converted or moved, the
    largest go first, and the file is opened anew for each group of them.
    """
    names = {id(tensor): name for name, tensor in stored.items()}
    largest_first = sorted(stored.values(), key=lambda tensor: -tensor.nbytes)
    tensors = {}
    total = sum(tensor.nbytes for tensor in stored.values())
    with tqdm(desc="loading", total=total, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for file, group in group_tensors(largest_first, dtype, device):
            for one, tensor in read_group(file, group):
                tensors[names[id(one)]] = tensor.to(device=device, dtype=dtype)
                bar.update(one.nbytes)
    return tensors


def group_tensors(
    tensors: Iterable[Stored], dtype: torch.dtype | None, device: torch.device, most_bytes: int = 32 << 20
) -> Iterator[tuple[Path, list[Stored]]]:
    """Which tensors to read at one opening of a file: all that stay mapped, or about `most_bytes` of the others."""
    groups: dict[tuple[Path, bool], list[Stored]] = {}
    for tensor in tensors:
        stays_mapped = dtype in (None, tensor.dtype) and device.type == "cpu" and tensor.in_one_piece
        group = groups.setdefault((tensor.file, stays_mapped), [])
        group.append(tensor)
        if not stays_mapped and sum(one.nbytes for one in group) >= most_bytes:
            yield tensor.file, groups.pop((tensor.file, stays_mapped))
    for (file, _), group in groups.items():
        yield file, group


def read_group(file: Path, group: list[Stored]) -> Iterator[tuple[Stored, Tensor]]:
    """Mapped tensors of one file, or the parts wanted. The mapping lives as long as a tensor of it."""
    if file.suffix == ".safetensors":
        with open_safetensors(file) as content:
            for stored in group:
                if stored.part:
                    yield stored, content.get_slice(stored.name)[stored.part].contiguous()
                else:
                    yield stored, content.get_tensor(stored.name)
    else:
        content = read_bin(file)
        for stored in group:
            tensor = content.pop(stored.name)
            yield stored, tensor[stored.part].contiguous() if stored.part else tensor


# ---- writing


def save_model(model: Llama, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
    """Write sharded safetensors, config.json, generation_config.json and, where they are known, the tokenizer's files.

    transformers loads the result without a warning and with equal logits. Everything is written beside the folder
    first and moved in at the end, so an interrupted save leaves nothing; weights that an earlier save left in the
    folder are replaced.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"cannot save to {folder}: it is a file")
    tensors = {file_name(name): tensor.detach() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    if any(tensor.is_meta for tensor in tensors.values()):
        raise ValueError("the model has no weights to save: it is on the meta device")
    shards = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)

    with all_or_nothing(folder) as made:
        for file, names in shards.filename_to_tensors.items():
            save_file({name: tensors[name].contiguous() for name in names}, made / file, metadata={"format": "pt"})
        if shards.is_sharded:
            index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
            write_json(index, made / "model.safetensors.index.json")
        config = config_to_json(model.config, model.embed_tokens.weight.dtype)
        if scheme := getattr(model, "quantization", None):
            config["quantization_config"] = scheme.to_json()
        write_json(config, made / "config.json")
        if model.generation_config:
            write_json(model.generation_config, made / "generation_config.json")
        if model.folder is not None:
            copy_tokenizer(model.folder, made)


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """A new folder to write into. At the end its files move to `folder` and replace the weights of an earlier save;
    where something is raised before that, nothing is left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        made = Path(temporary)
        yield made
        folder.mkdir(exist_ok=True)
        new = {file.name for file in made.iterdir()}
        mode = (made / "config.json").stat().st_mode  # safetensors makes files that only their owner can read
        for name in new:
            (made / name).chmod(mode)
            (made / name).replace(folder / name)
        for old in folder.iterdir():
            weights = r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
            if old.name not in new and re.fullmatch(weights, old.name):
                old.unlink()


def file_name(name: str) -> str:
    """The checkpoint's name of a parameter: ours, with `model.` before everything but the head."""
    return name if name.startswith("lm_head.") else f"model.{name}"


def write_json(content: dict, file: Path) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
