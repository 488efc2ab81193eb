"""The state of a run on disk. A file is replaced as a whole, so that one is complete at any moment, even at SIGKILL."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint.description import plain_path
from ..checkpoint.json_files import read_json, write_json

STATE_FILE, SETTINGS_FILE, LOG_FILE = "training_state.pt", "training.json", "training_log.jsonl"


def replace_file(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside the old one, force it to the disk, and rename it: the old one or the new one is there."""
    new = beside(file)
    try:
        write(new)
        force_to_disk(new)
        new.replace(file)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    force_to_disk(file.parent)


def beside(file: Path) -> Path:
    """Where a new version of a file is written. A killed run may leave it there; the next one replaces it."""
    return file.with_name(f".{file.name}.new")


def force_to_disk(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    if path.is_dir() and os.name != "posix":  # Windows cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Save the trained parameters, the optimizer, the random state and the number of finished steps."""
    state = {
        "step": step,
        "parameters": {name: parameter.detach() for name, parameter in trained_parameters(model).items()},
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    replace_file(folder / STATE_FILE, lambda file: torch.save(state, file))


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_state` has saved, and return the number of finished steps; 0 without a file."""
    file = folder / STATE_FILE
    if not file.is_file():
        return 0
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    parameters = trained_parameters(model)
    if parameters.keys() != state["parameters"].keys():
        raise ValueError(f"{file} has the parameters of another model; remove it, or choose another folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and state["random_cuda"]:
        torch.cuda.set_rng_state_all(state["random_cuda"])
    step: int = state["step"]
    return step


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by their names without wrappers."""
    return {plain_path(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def check_folder(folder: Path) -> None:
    """Raise ValueError for a folder that holds something else than a run. A new or empty one is good."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / SETTINGS_FILE).is_file():
        raise ValueError(f"{folder} holds files that are no training run; choose another folder, or remove it")


def check_settings(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether the run in a folder is finished. Raises ValueError for a run with other settings."""
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return False
    earlier = read_json(file)
    then = earlier.get("settings", {})
    if different := [key for key in settings if then.get(key) != settings[key]]:
        changes = "; ".join(f"{key} was {then.get(key)} and is {settings[key]}" for key in different)
        raise ValueError(
            f"{folder} is a run with other settings: {changes}; repeat the earlier command, or choose another folder"
        )
    return bool(earlier.get("finished"))


def start_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Create the folder of a run, with its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"finished": False, "settings": dict(settings)}
    replace_file(folder / SETTINGS_FILE, lambda file: write_json(content, file))


def finish_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Mark a run as finished, and remove its state."""
    content = {"finished": True, "settings": dict(settings)}
    replace_file(folder / SETTINGS_FILE, lambda file: write_json(content, file))
    (folder / STATE_FILE).unlink(missing_ok=True)
    beside(folder / STATE_FILE).unlink(missing_ok=True)


def read_log(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The log of a run up to a step; later lines, and a line that a kill has cut off, are removed from the file."""
    file = folder / LOG_FILE
    if not file.is_file():
        return []
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    entries = [entry for entry in entries if entry["step"] <= steps]
    content = "".join(json.dumps(entry) + "\n" for entry in entries)
    replace_file(file, lambda file: file.write_text(content, encoding="utf-8"))
    return entries
