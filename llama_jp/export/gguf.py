"""Write a GGUF file, the format of llama.cpp, from any model that loads."""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checkpoint.config import parse_config, read_config
from ..checkpoint.description import describe_model, model_state
from ..checkpoint.gguf.encoding import BLOCK, encode
from ..checkpoint.gguf.keys import config_keys
from ..checkpoint.gguf.weights import gguf_name, rope_divisors
from ..checkpoint.gguf.writer import TensorToWrite, write_gguf
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.json_files import read_json
from ..checkpoint.load import build_on_meta, load_model
from ..checkpoint.parts import is_function_name, recorded_parts
from ..checkpoint.permutation import permute
from ..checkpoint.recognise import cached_repository, shorten
from ..checkpoint.save import is_sharded
from ..checkpoint.tensors import read_tensor
from ..config import LlamaConfig
from ..linear.weight import PARTS, Weight, dequantize
from ..loading import find_mismatch
from ..model import Llama
from ..text.tokenizer import Tokenizer
from .gguf_vocabulary import WAY_OUT, vocabulary_keys

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "BF16": 32}  # llama.cpp's numbers of `general.file_type`
OF_DTYPE = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class LazyTensor(NamedTuple):
    """A tensor of the model, which is loaded when it is written."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


class Source(NamedTuple):
    """What a GGUF file holds of a model. `tensors` are under the model's names."""

    config: LlamaConfig
    tensors: dict[str, LazyTensor]
    folder: Path | None  # of the checkpoint
    stop_ids: list[int]


def save_gguf(
    model: Llama | str | Path,
    file: str | Path,
    type_name: str = "auto",
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
) -> None:
    """Write a model and its tokenizer as one GGUF file, with the keys and tensors of llama.cpp's own converter.

    model      a `Llama`, or a source; revision and adapter are those of the source, as in `checkpoint.load.load_model`
    file       the file to write, which must not exist
    type_name  of the matrices: "f32", "f16", "bf16", "q8_0", "q4_0", or "auto", the dtype of the weights, with which
               nothing is lost. Norms and biases are F32. A matrix whose rows are no whole blocks of 32 is F16 in a
               quantised file, and a warning says so
    tokenizer  a `Tokenizer`, or its source; None is the model's

    A source is written tensor by tensor, so memory is that of about one tensor. With an adapter, and for a function
    that returns a model, it is that of the model. An interrupted run leaves no file. A GGUF file holds no settings of
    generation but the ids that end a text.

    Raises ValueError for a file that exists, for a changed model, for a scaling of the rope or a tokenizer that
    llama.cpp has not, and for numbers that the type cannot hold. Reference: llama.cpp's `convert_hf_to_gguf.py`.
    """
    file = Path(file)
    if file.exists():
        raise ValueError(f"{file} exists; choose another name, or remove it")
    if type_name != "auto" and type_name.upper() not in FILE_TYPES:
        raise ValueError(f"type_name is 'auto', {', '.join(map(repr, map(str.lower, FILE_TYPES)))}, not {type_name!r}")
    if isinstance(model, Llama):
        if revision is not None or adapter is not None:
            raise ValueError("revision and adapter belong to a source; a model in memory has its weights already")
    elif adapter is not None or is_function_name(model):
        model = load_model(model, "stored", "cpu", revision, adapter=adapter)
    source = source_of_model(model) if isinstance(model, Llama) else source_of_files(model, revision)
    chosen = lossless_type(source) if type_name == "auto" else type_name.upper()
    keys = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": file.stem if source.folder is None else name_of(source.folder),
        "general.size_label": size_label(source.tensors),
        **config_keys(source.config),
        "general.file_type": FILE_TYPES[chosen],
        "general.quantization_version": 2,
        **tokenizer_keys(source, tokenizer),
    }
    tensors = tensors_to_write(source, chosen)
    if others := [each.name for each in tensors if len(each.shape) == 2 and each.type_name != chosen]:
        warnings.warn(
            f"the rows of {shorten(others, 3)} are no whole blocks of {BLOCK} numbers, so they are F16", stacklevel=2
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.parent) as folder:
        complete = Path(folder) / file.name
        write_gguf(complete, keys, tensors)
        complete.replace(file)


def source_of_files(name: str | Path, revision: str | None) -> Source:
    """What to write of a checkpoint. The weights are listed and checked, and not loaded."""
    folder = find_checkpoint(name, revision)
    read_config(folder)  # refuses a changed model
    model, stored = build_on_meta(folder, Llama)
    tensors = {name: LazyTensor(info.shape, info.dtype, partial(read_tensor, info)) for name, info in stored.items()}
    # as in `assign_weights`, this file replaces the ids of config.json as a whole
    generation_config = read_json(folder / "generation_config.json", missing_ok=True) or model.generation_config
    return Source(model.config, plain_tensors(tensors), folder, stop_ids(generation_config))


def source_of_model(model: Llama) -> Source:
    """What to write of a model in memory."""
    state = model_state(model)
    if any(tensor.is_meta or is_sharded(tensor) for tensor in state.values()):
        raise ValueError(
            "the model has no whole weights in this process; save it with save_pretrained, and name that folder"
        )
    raw = describe_model(model, state)
    if parts := recorded_parts(raw):
        names = ", ".join(f"{role} {name}" for role, name in parts.items())
        raise ValueError(
            f"the model is a changed one ({names}), which llama.cpp cannot run; only a plain Llama is written"
        )
    tensors = {name: LazyTensor(tuple(tensor.shape), tensor.dtype, tensor.detach) for name, tensor in state.items()}
    return Source(parse_config(raw), plain_tensors(tensors), model.folder, stop_ids(model.generation_config))


def plain_tensors(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors of a plain model: int8 and int4 weights are dequantised when they are loaded."""
    for name in [name for name in tensors if name.endswith(".scale")]:
        module = name.removesuffix(".scale")
        parts = {part: tensors.pop(f"{module}.{part}") for part in PARTS if f"{module}.{part}" in tensors}
        rows, columns = parts["weight"].shape
        shape = (rows, columns * 2 if "zero" in parts else columns)  # int4 has two numbers in a byte
        tensors[f"{module}.weight"] = LazyTensor(shape, torch.float32, partial(read_dequantized, parts))
    return tensors


def read_dequantized(parts: dict[str, LazyTensor]) -> Tensor:
    """The float32 numbers of an int8 or int4 weight."""
    return dequantize(Weight.from_tensors({name: part.read() for name, part in parts.items()}), torch.float32)


def stop_ids(generation_config: dict[str, Any]) -> list[int]:
    """The ids that end a text."""
    ids = generation_config.get("eos_token_id")
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def tensors_to_write(source: Source, type_name: str) -> list[TensorToWrite]:
    """The tensors of the file, in the order of the model. Each is loaded when it is written."""
    config, tensors = source.config, dict(source.tensors)
    if config.tie_word_embeddings:
        head = tensors.pop("lm_head.weight", None)
        if head is not None:
            tensors.setdefault("embed_tokens.weight", head)
    found = []
    if (divisors := rope_divisors(config)) is not None:
        found.append(
            TensorToWrite("rope_freqs.weight", tuple(divisors.shape), "F32", partial(encode, "", divisors, "F32"))
        )
    for name, tensor in tensors.items():
        heads = None
        if ".q_proj." in name or ".k_proj." in name:
            heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        kind = type_name if len(tensor.shape) == 2 else "F32"
        if kind in ("Q8_0", "Q4_0") and tensor.shape[1] % BLOCK:
            kind = "F16"
        found.append(TensorToWrite(gguf_name(name), tensor.shape, kind, partial(encoded, name, tensor, heads, kind)))
    return found


def encoded(name: str, tensor: LazyTensor, heads: int | None, type_name: str) -> Iterator[memoryview]:
    """The bytes of a tensor, with the rows of q and k in llama.cpp's order."""
    numbers = tensor.read()
    return encode(name, numbers if heads is None else permute(numbers, heads), type_name)


def tokenizer_keys(source: Source, given: Tokenizer | str | Path | None) -> dict[str, Any]:
    """The keys of the vocabulary, and of the ids that end a text."""
    home = given or source.folder
    if home is None:
        raise ValueError(f"the model has no tokenizer, and a GGUF file needs one; {WAY_OUT}")
    try:
        tokenizer = home if isinstance(home, Tokenizer) else Tokenizer.from_pretrained(home)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; a GGUF file needs one: {WAY_OUT}") from error
    if problem := find_mismatch(tokenizer, source.config):
        raise ValueError(problem)
    rows = source.config.vocab_size
    if beyond := [piece for i, piece in sorted(tokenizer.vocabulary.pieces.items()) if i >= rows]:
        warnings.warn(
            f"left out, because the embedding has no row for them: the added tokens {shorten(beyond, 3)}", stacklevel=3
        )
    keys = vocabulary_keys(tokenizer, rows)
    others = [token_id for token_id in source.stop_ids if token_id != tokenizer.eos_id]
    if others:
        keys["tokenizer.ggml.eot_token_id"] = others[0]
    if others[1:]:
        warnings.warn(f"a GGUF file holds two ids that end a text; {others[1:]} are left out", stacklevel=3)
    return keys


def lossless_type(source: Source) -> str:
    """The type that holds all matrices without a loss: that of their dtype, or F32 for several dtypes."""
    dtypes = {tensor.dtype for tensor in source.tensors.values() if len(tensor.shape) == 2}
    return OF_DTYPE.get(dtypes.pop(), "F32") if len(dtypes) == 1 else "F32"


def name_of(folder: Path) -> str:
    """The name of the model in a folder or GGUF file; of a folder in the hub's cache, that of its repository."""
    cached = next((part for part in folder.parts if part.startswith("models--")), None)
    return cached_repository(cached).split("/")[-1] if cached else folder.resolve().name.removesuffix(".gguf")


def size_label(tensors: dict[str, LazyTensor]) -> str:
    """The number of weights as llama.cpp's converter writes it, such as "6.7B"."""
    count = sum(math.prod(tensor.shape) for tensor in tensors.values())
    unit, size = next(
        ((unit, size) for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)) if count > size), ("K", 1e3)
    )
    scaled = count / size
    digits = max(2 - len(str(round(scaled)).lstrip("0")), 0)
    return f"{scaled:.{digits}f}{unit}"
