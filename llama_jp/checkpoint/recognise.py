"""Name a file or folder that cannot be loaded for what it is, and say what to do with it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from ..text_files import parse_json

SHARD = re.compile(r"(model|pytorch_model)-(\d+)-of-(\d+)\.(safetensors|bin)")

# (a pattern of file names, what a folder with such files is and what to do), in order of precedence
FOREIGN_FILES = (
    (
        "consolidated-*",
        "it holds Mistral's own files ({files}): use the same model in the format of transformers",
    ),
    (
        "consolidated*",
        "it holds Meta's own files ({files}): they load from a folder that has their params.json and no config.json",
    ),
    ("params.json", "it holds Meta's params.json: download the weights beside it (consolidated.00.pth and so on)"),
    ("*.gguf", "it holds GGUF files ({files}): name one of them with its folder"),
    ("zero_to_fp32.py", "it is a DeepSpeed checkpoint: make a pytorch_model.bin with its zero_to_fp32.py"),
    ("*.distcp", "it is a distributed checkpoint: make a model.safetensors with `accelerate merge-weights`"),
    ("*.h5", "it holds TensorFlow weights ({files}): use the safetensors or .bin files of the same model"),
    ("*.ckpt*", "it holds TensorFlow or Lightning weights ({files}): use the safetensors or .bin files of the model"),
    ("*.msgpack", "it holds Flax weights ({files}): use the safetensors or .bin files of the same model"),
    ("*.onnx", "it holds an ONNX graph ({files}): use the safetensors or .bin files of the same model"),
)
OLD_GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg")  # the first bytes of llama.cpp's files before GGUF
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".npz")
FILE_SUFFIXES = (*WEIGHT_SUFFIXES, ".gguf", ".json", ".model")  # a name with one of them is no repository, no folder


def check_file(file: Path) -> None:
    """Raise an error, in one sentence, for a file that is missing, unreadable, or a stand-in for the real file."""
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {file.name} in {with_name(file.parent)}") from None
    except PermissionError:
        raise PermissionError(f"no permission to read {file}; its owner can grant it with chmod a+r") from None
    except IsADirectoryError:
        raise ValueError(f"{file} is a folder, where a file is needed") from None
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{file} is damaged or incomplete: it is a git-lfs pointer; run `git lfs pull` in its folder")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ValueError(
            f"{file} is damaged: it is a web page; download the file again (on the hub: /resolve/ in place of /blob/)"
        )


def check_folder(folder: Path) -> None:
    """Raise PermissionError for a folder whose files cannot be listed or opened."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(f"no permission to read the folder {folder}; its owner can grant it with chmod a+rx")


def with_name(path: Path) -> Path:
    """A path for a sentence: as typed, or in full if it ends in "." or "..", which say little."""
    return path.resolve() if path.name in ("", "..") else path


def describe_folder(folder: Path) -> str:
    """What a folder without the wanted file is, as the end of an error message; "" if nothing is recognised."""
    if folder.is_file():
        return ""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    names = [entry.name for entry in entries]
    if not entries:
        return "; the folder is empty"
    if "adapter_config.json" in names:
        base = adapter_base(folder / "adapter_config.json")
        return f"; it is a PEFT adapter: name its base model{base}, and this folder with --adapter or adapter="
    for pattern, sentence in FOREIGN_FILES:
        if found := [entry.name for entry in entries if entry.match(pattern)]:
            return "; " + sentence.format(files=shorten(found, 3))
    if shards := [match for name in names if (match := SHARD.fullmatch(name))]:
        return describe_shards(shards, names)
    if folder.name.startswith("models--") and "snapshots" in names:
        return f"; it is a cache of the hub: use the name {cached_repository(folder.name)}"
    if cached := [cached_repository(name) for name in names if name.startswith("models--")]:
        return f"; it is the hub's cache: use the name of a repository, such as {shorten(cached, 3)}"
    configs = ("config.json", "params.json")
    if models := [entry.name for entry in entries if any((entry / name).is_file() for name in configs)]:
        return f"; its subfolders hold models: use {folder}/{models[0]}" + (
            f", or {shorten(models[1:], 3)}" if models[1:] else ""
        )
    weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    if weights and "config.json" not in names:
        return f"; it holds weights ({shorten(weights, 3)}): copy the config.json of the model to them"
    return f"; it holds {shorten(weights, 3)}" if weights else ""


def describe_shards(shards: list[re.Match[str]], names: list[str]) -> str:
    """The end of an error message for the shards of a checkpoint."""
    stem, _, count, suffix = shards[0].groups()
    index = f"{stem}.{suffix}.index.json"
    every = [f"{stem}-{number:05}-of-{count}.{suffix}" for number in range(1, int(count) + 1)]
    missing = [name for name in every if name not in names]
    if index in names and not missing:
        return ""
    also = f" and {shorten(missing, 3)}" if missing else ""
    wanted = f"{shorten(missing, 3)}" if index in names else f"the index {index}{also}"
    return f"; it holds {len(shards)} of {int(count)} shards without {wanted}: download the missing files"


def describe_file(file: Path) -> str:
    """The sentence for a file in the place of a folder with a checkpoint."""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        if opened.read(4) in OLD_GGML:
            return f"{file} is a GGML file of before August 2023; use a GGUF file of the same model"
    return f"{file} is a file; use the folder with the whole checkpoint, such as {with_name(file.parent)}"


def describe_address(address: str) -> str:
    """The sentence for a web address in the place of a hub repository."""
    hub = re.match(
        r"(?:\w+://|git@)?(?:www\.)?(?:huggingface\.co|hf\.co)[/:]([\w.-]+/[\w.-]+?)(?:\.git)?"
        r"(?:/(?:tree|blob|resolve)/([^?#]+?))?/?(?:[?#].*)?$",
        address,
    )
    if hub is None:
        return f"{address} is a web address; download the files, and use the name of their folder"
    revision = f" with revision {hub[2]!r}" if hub[2] and hub[2] != "main" else ""
    return f"{address} is a web address; use the name of the repository, {hub[1]}{revision}"


def adapter_base(file: Path) -> str:
    """The name of an adapter's base model, with a space before it; "" if the file names none."""
    try:
        base = parse_json(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" {base}" if base else ""


def cached_repository(name: str) -> str:
    """The repository of a folder in the hub's cache: "models--owner--name" is owner/name."""
    return name.removeprefix("models--").replace("--", "/", 1)


def shorten(names: list[str], most: int = 8) -> str:
    """Join names for an error message: the first `most`, then the number of the others."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest
