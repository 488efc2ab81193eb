"""Quantise a checkpoint tensor by tensor: memory-mapped tensors in, one shard at a time out."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby, islice
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..checkpoint.config import read_config, read_raw_config, read_scheme
from ..checkpoint.description import describe_model, model_state
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.json_files import write_json
from ..checkpoint.layouts import find_tensors
from ..checkpoint.load import check_complete, load_model, untie_if_stored_separately
from ..checkpoint.packed_weights import read_packing
from ..checkpoint.parts import is_function_name, recorded_parts
from ..checkpoint.save import check_target_is_new, write_atomically
from ..checkpoint.saved_files import copy_tokenizer
from ..checkpoint.tensors import TensorInfo, checkpoint_name, read_tensor
from ..evaluation.documents import CALIBRATION, HELD_OUT, Text, read_text
from ..evaluation.layerwise import choose_compute_dtype
from ..linear.layer import linear_modules
from ..linear.scheme import Scheme, TensorLayout
from ..model import Llama, LlamaConfig
from ..text.tokenizer import Tokenizer
from .certificate import CERTIFICATE_FILE, Certificate, certify
from .gptq import Calibration
from .rounding import round_weight


class Texts(NamedTuple):
    """The tokenized texts of a conversion."""

    calibration: Text
    held_out: Text  # for the certificate


def quantize(
    source: str | Path,
    target: str | Path,
    bits: int = 8,
    group_size: int = 128,
    method: str = "rtn",
    *,
    head_bits: int = 8,
    revision: str | None = None,
    adapter: str | Path | None = None,
    tokenizer: str | Path | None = None,
    calibrate: str | Path = CALIBRATION,
    text: str | Path = HELD_OUT,
    max_shard_bytes: int = 500 * 10**6,
) -> Certificate | None:
    """Write a checkpoint with int8 or int4 weights into a new folder, and return its certificate.

    source           a folder, a hub repository, a short name, or "module:function", which returns a plain `Llama`
    target           the folder to write; it must be new or empty
    bits             of each weight: 8 or 4
    group_size       int4: inputs that share a scale and a zero; it must divide the inputs of every layer
    method           "rtn" rounds to nearest; "gptq" (int4) compensates for the rounding errors, see gptq.py
    head_bits        of lm_head. The default is 8 also for int4, because errors of lm_head go directly into the logits.
                     An lm_head that is tied to the embedding matrix is not quantised
    revision         branch, tag or commit of the source on the hub
    adapter          the folder of a PEFT (LoRA) adapter, which is merged into the weights first
    tokenizer        a source of the tokenizer, which the target carries; None is the model's own
    calibrate        the calibration text for gptq
    text             the text for the certificate
    max_shard_bytes  the largest size of a file, in bytes

    Peak memory is one shard and one tensor, for gptq also one layer and its moments. The result is None, with a
    warning, for a checkpoint without a tokenizer: there is no text to measure on.

    Raises ValueError before the first write: for a target that is not empty, a quantised source, a changed model, a
    text that is too short, or a size that does not fit. The target appears complete or not at all.
    """
    target = Path(target)
    check_target_is_new(target)
    if is_function_name(source) or adapter is not None:
        original = load_model(source, "stored", "cpu", revision, adapter=adapter)
        with saved_original(source, original, target.parent) as folder:
            return quantize(
                folder,
                target,
                bits,
                group_size,
                method,
                head_bits=head_bits,
                tokenizer=tokenizer,
                calibrate=calibrate,
                text=text,
                max_shard_bytes=max_shard_bytes,
            )
    folder = find_checkpoint(source, revision)
    if existing := read_scheme(folder) or read_packing(folder):
        raise ValueError(f"{source} is already quantised ({existing}); quantise its original instead")
    tokenizer_folder = folder if tokenizer is None else find_checkpoint(tokenizer, weights=False)
    model, stored = open_original(folder)
    tied = model.config.tie_word_embeddings
    scheme = Scheme(bits, group_size if bits == 4 else None, method, None if tied else head_bits)
    linear = linear_modules(model, scheme)
    layouts = output_layouts(stored, scheme, linear)
    texts = read_texts(tokenizer_folder, model.config, method, calibrate, text)
    weights = sum(module.weight.numel() for module in linear.values())

    with write_atomically(target) as made:
        with tqdm(total=weights, unit=" weights", unit_scale=True, smoothing=0, disable=None, leave=False) as bar:
            calibration = None
            if method == "gptq":
                assert texts is not None  # read_texts refuses gptq without a tokenizer
                dtype = choose_compute_dtype(model.config)
                calibration = Calibration(model, scheme, texts.calibration.windows, dtype, bar)
            write_shards(quantized_tensors(stored, scheme, linear, calibration, bar), layouts, made, max_shard_bytes)
        write_json(
            read_raw_config(folder) | {"tie_word_embeddings": tied, "quantization_config": scheme.to_json()},
            made / "config.json",
        )
        if (folder / "generation_config.json").is_file():
            shutil.copyfile(folder / "generation_config.json", made / "generation_config.json")
        copy_tokenizer(tokenizer_folder, made)
        if texts is None:
            return None
        # The certificate is public, so it names no local path.
        public_source = None if Path(source).expanduser().exists() else str(source)
        certificate = certify(made, folder, texts.held_out, public_source)
        write_json(dict(certificate), made / CERTIFICATE_FILE)
    return certificate


@contextmanager
def saved_original(source: str | Path, model: Llama, parent: Path) -> Iterator[Path]:
    """The folder of a temporary checkpoint of the model that a function returns, beside the target."""
    config = describe_model(model, model_state(model))
    if parts := recorded_parts(config):
        names = ", ".join(f"{role} {name}" for role, name in parts.items())
        raise ValueError(f"{source} returns a changed model ({names}), and only a plain Llama can be quantised")
    if "quantization_config" in config:
        raise ValueError(f"{source} returns a model that is already quantised; quantise its original instead")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".original-", dir=parent) as folder:
        model.save_pretrained(folder)
        yield Path(folder)


def read_texts(folder: Path, config: LlamaConfig, method: str, calibrate: str | Path, text: str | Path) -> Texts | None:
    """Tokenize both texts. None, with a warning, when the checkpoint has no tokenizer; for gptq a ValueError."""
    try:
        tokenizer = Tokenizer.from_pretrained(folder)
    except FileNotFoundError:
        if method == "gptq":
            raise ValueError(
                f"gptq needs a calibration text, and there is no tokenizer in {folder}; use method rtn"
            ) from None
        warnings.warn(f"there is no tokenizer in {folder}, so no certificate is written", stacklevel=3)
        return None
    return Texts(read_text(calibrate, tokenizer, config), read_text(text, tokenizer, config))


def open_original(folder: Path) -> tuple[Llama, dict[str, TensorInfo]]:
    """The model of a checkpoint on the meta device, and its stored tensors in the model's order.

    Raises ValueError when the tensors do not fit config.json.
    """
    stored = find_tensors(folder)
    with torch.device("meta"):
        model = Llama(read_config(folder))
    untie_if_stored_separately(model, stored)
    check_complete(model, stored, folder)
    if model.config.tie_word_embeddings and "lm_head.weight" in stored:
        head = stored.pop("lm_head.weight")  # equal to the embedding matrix, or stored in its place
        stored.setdefault("embed_tokens.weight", head)
    return model, {name: stored[name] for name in model.state_dict() if name in stored}


def output_layouts(stored: dict[str, TensorInfo], scheme: Scheme, linear: Collection[str]) -> dict[str, TensorLayout]:
    """Shape and dtype of every tensor of the quantised checkpoint, in order.

    stored  the tensors of the original
    linear  names of the modules to quantise

    Raises ValueError when the group size does not divide the inputs of a layer.
    """
    layouts: dict[str, TensorLayout] = {}
    for name, info in stored.items():
        module, _, part = name.rpartition(".")
        if module in linear and part == "weight":
            for new_part, layout in scheme.tensor_layouts(module, info.shape).items():
                layouts[f"{module}.{new_part}"] = layout
        else:
            layouts[name] = TensorLayout(info.shape, info.dtype)
    return layouts


def quantized_tensors(
    stored: dict[str, TensorInfo], scheme: Scheme, linear: Collection[str], calibration: Calibration | None, bar: tqdm
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the quantised checkpoint in the order of `output_layouts`; the iterator computes each on demand.

    calibration  for gptq; None: round to nearest
    bar          counts the weights that are quantised
    """
    blocks = len({block_name(name) for name in stored})
    for number, (block, names) in enumerate(groupby(stored, key=block_name), 1):
        bar.set_description(f"quantising {block} ({number} of {blocks})")
        tensors = {name: read_tensor(stored[name]) for name in names}
        calibrated = calibration.quantize_block(block, tensors) if calibration else {}
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            if module not in linear or part != "weight":
                yield name, tensor
                continue
            if module in calibrated:
                weight = calibrated[module]
            else:
                weight = round_weight(scheme, module, tensor)
                bar.update(tensor.numel())
            for new_part, values in weight.tensors().items():
                yield f"{module}.{new_part}", values


def block_name(name: str) -> str:
    """The part of the model that a tensor belongs to: embed_tokens, layers.0, …, norm, lm_head."""
    return ".".join(name.split(".")[: 2 if name.startswith("layers.") else 1])


def write_shards(
    tensors: Iterator[tuple[str, Tensor]], layouts: dict[str, TensorLayout], folder: Path, max_bytes: int
) -> None:
    """Write tensors, in the order of the layouts, into files of at most `max_bytes`. Each is written once complete."""
    sizes = {name: layout.dtype.itemsize * prod(layout.shape) for name, layout in layouts.items()}
    shards = split_into_shards(sizes, max_bytes)
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {checkpoint_name(name): file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(index, folder / "model.safetensors.index.json")
    for file, names in zip(files, shards, strict=True):
        content = {checkpoint_name(name): tensor for name, tensor in islice(tensors, len(names))}
        assert list(content) == list(map(checkpoint_name, names)), "tensors have the order of the layouts"
        save_file(content, folder / file, metadata={"format": "pt"})


def split_into_shards(sizes: dict[str, int], max_bytes: int) -> list[list[str]]:
    """Split names, in order, into shards of at most `max_bytes`. A larger tensor has a shard of its own."""
    shards: list[list[str]] = []
    free = 0  # bytes left in the last shard
    for name, size in sizes.items():
        if not shards or size > free:
            shards.append([])
            free = max_bytes
        shards[-1].append(name)
        free -= size
    return shards
