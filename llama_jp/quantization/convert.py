"""A checkpoint to a quantised one, tensor by tensor: what is read is mapped, what is made goes out shard by shard."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator
from itertools import groupby, islice
from math import prod
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..checkpoint.config import read_config, read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.json_files import read_json, write_json
from ..checkpoint.load import check_complete, untie_if_stored_separately
from ..checkpoint.save import copy_tokenizer, write_atomically
from ..checkpoint.tensors import TensorInfo, checkpoint_name, find_tensors
from ..evaluation.documents import CALIBRATION, HELD_OUT, Text, read_text
from ..evaluation.layerwise import choose_arithmetic, read_one
from ..linear.layer import linear_modules
from ..linear.scheme import Scheme
from ..model import Llama, LlamaConfig
from ..text.tokenizer import Tokenizer
from .certificate import FILE, certify
from .gptq import Calibration
from .rounding import round_weight

Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


def quantize(
    source: str | Path,
    target: str | Path,
    bits: int = 8,
    group_size: int = 128,
    method: str = "rtn",
    *,
    head_bits: int = 8,
    revision: str | None = None,
    calibrate: str | Path = CALIBRATION,
    text: str | Path = HELD_OUT,
    max_shard_bytes: int = 500 * 10**6,
) -> dict | None:
    """Write the checkpoint `source` with 8- or 4-bit weights into the new folder `target`; returns its certificate.

    group_size  int4: how many inputs of an output share a scale and a zero; it has to divide the inputs of every layer
    method      "rtn" rounds each weight to nearest; "gptq" (int4) makes up for the errors, see gptq.py
    head_bits   of lm_head; 8 by default also for int4, because every error in it goes straight into the logits.
                A tied head is the embedding matrix and is left alone as that
    calibrate   the text that gptq looks at
    text        the text that the certificate is measured on

    Peak memory is a shard and a tensor (gptq: a layer and its moments as well), not the checkpoint. Raises ValueError
    before anything is written where the target is not empty, the source is quantised already, a text is too short, or a
    size does not fit. Without a tokenizer there is no certificate, and a warning says so.
    """
    folder, target = find_checkpoint(source, revision), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; choose another, or remove it")
    if scheme := read_scheme(folder):
        raise ValueError(f"{source} is quantised already ({scheme}); quantise its original instead")
    model, stored = open_original(folder)
    tied = model.config.tie_word_embeddings
    scheme = Scheme(bits, group_size if bits == 4 else None, method, None if tied else head_bits)
    linear = linear_modules(model, scheme)
    layout = plan(stored, scheme, linear)
    texts = read_texts(folder, model.config, method, calibrate, text)
    weights = sum(module.weight.numel() for module in linear.values())

    with write_atomically(target) as made:
        with tqdm(total=weights, unit=" weights", unit_scale=True, smoothing=0, disable=None, leave=False) as bar:
            calibration = None
            if method == "gptq":
                calibration = Calibration(model, scheme, texts[0].windows, choose_arithmetic(model.config), bar)
            write_shards(quantized_tensors(stored, scheme, linear, calibration, bar), layout, made, max_shard_bytes)
        write_json(
            read_json(folder / "config.json") | {"tie_word_embeddings": tied, "quantization_config": scheme.to_json()},
            made / "config.json",
        )
        if (folder / "generation_config.json").is_file():
            shutil.copyfile(folder / "generation_config.json", made / "generation_config.json")
        copy_tokenizer(folder, made)
        if texts is None:
            return None
        name = None if Path(source).expanduser().is_dir() else str(source)
        certificate = certify(made, folder, texts[1], name)
        write_json(certificate, made / FILE)
    return certificate


def read_texts(
    folder: Path, config: LlamaConfig, method: str, calibrate: str | Path, text: str | Path
) -> tuple[Text, Text] | None:
    """The calibration text and the certificate's, as ids; None where there is no tokenizer to cut them."""
    try:
        tokenizer = Tokenizer.from_pretrained(folder)
    except FileNotFoundError:
        if method == "gptq":
            raise ValueError(f"gptq reads a text, and there is no tokenizer in {folder}; use method rtn") from None
        warnings.warn(f"there is no tokenizer in {folder}, so there is no text to certify on", stacklevel=3)
        return None
    return read_text(calibrate, tokenizer, config), read_text(text, tokenizer, config)


def open_original(folder: Path) -> tuple[Llama, dict[str, TensorInfo]]:
    """The model of a checkpoint without its weights, and where they are: checked, in the model's order."""
    stored = find_tensors(folder)
    with torch.device("meta"):
        model = Llama(read_config(folder))
    untie_if_stored_separately(model, stored)
    check_complete(model, stored, folder)
    if model.config.tie_word_embeddings:
        head = stored.pop("lm_head.weight", None)  # one of the two is stored, or both are the same
        stored.setdefault("embed_tokens.weight", head)
    return model, {name: stored[name] for name in model.state_dict() if name in stored}


def plan(stored: dict[str, TensorInfo], scheme: Scheme, linear: Collection[str]) -> Layout:
    """Shape and dtype of every tensor that will be written, in order. Raises when a group size does not fit."""
    layout: Layout = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if module in linear and part == "weight":
            parts = scheme.parts(module, tensor.shape)
            layout |= {f"{module}.{part}": outside for part, outside in parts.items()}
        else:
            layout[name] = tensor.shape, tensor.dtype
    return layout


def quantized_tensors(
    stored: dict[str, TensorInfo], scheme: Scheme, linear: Collection[str], calibration: Calibration | None, bar: tqdm
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the quantised checkpoint in the order of the plan, each made when it is asked for."""
    blocks = len(set(map(block_of, stored)))
    for number, (block, names) in enumerate(groupby(stored, key=block_of), 1):
        bar.set_description(f"quantising {block} ({number} of {blocks})")
        tensors = {name: read_one(stored[name]) for name in names}
        rounded = calibration.quantize(block, tensors) if calibration else {}
        for name, tensor in tensors.items():
            module, _, part = name.rpartition(".")
            if module in linear and part == "weight":
                if (parts := rounded.get(module)) is None:
                    parts = round_weight(scheme, module, tensor)
                    bar.update(tensor.numel())
                yield from ((f"{module}.{part}", value) for part, value in parts.items())
            else:
                yield name, tensor


def block_of(name: str) -> str:
    """What a tensor belongs to: embed_tokens, layers.0, …, norm, lm_head."""
    return ".".join(name.split(".")[: 2 if name.startswith("layers.") else 1])


def write_shards(tensors: Iterator[tuple[str, Tensor]], layout: Layout, folder: Path, most_bytes: int) -> None:
    """Take the tensors in the order of the layout, and write each shard as soon as it is full."""
    sizes = {name: dtype.itemsize * prod(shape) for name, (shape, dtype) in layout.items()}
    shards = fill_shards(sizes, most_bytes)
    files = ["model.safetensors"]
    if len(shards) > 1:
        files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
        where = {checkpoint_name(name): file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where}
        write_json(index, folder / "model.safetensors.index.json")
    for file, names in zip(files, shards, strict=True):
        content = {checkpoint_name(name): tensor for name, tensor in islice(tensors, len(names))}
        assert list(content) == list(map(checkpoint_name, names)), "tensors come in the order of the plan"
        save_file(content, folder / file, metadata={"format": "pt"})


def fill_shards(sizes: dict[str, int], most_bytes: int) -> list[list[str]]:
    """Names in order, as many to a shard as fit; a tensor larger than a shard has one to itself."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = most_bytes
        shards[-1].append(name)
        room -= size
    return shards
