"""The state of a run on disk. A file is replaced as a whole, so that one is complete at any moment, even at SIGKILL."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint.description import plain_path
from ..checkpoint.json_files import read_json, write_json
from .sharding import barrier, copy_into, rank_and_size

STATE_FILE, SETTINGS_FILE, LOG_FILE = "training_state.pt", "training.json", "training_log.jsonl"
SHARES_FILE, SHARES = "training_shares.json", "training_shares-"  # of a run on several processes


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
    """Save the trained parameters, AdamW's moments, the random state and the number of finished steps.

    One process writes one file. Several processes each write their share to a folder; a small file then names it.
    """
    tensors, file, shares = run_tensors(model, optimizer), folder / STATE_FILE, folder / SHARES_FILE
    rank, size = rank_and_size()
    if size == 1:
        state = {"step": step, "tensors": tensors, "random": torch.get_rng_state()}
        state["random_cuda"] = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        replace_file(file, lambda new: torch.save(state, new))
        shares.unlink(missing_ok=True)
        remove_shares(folder)
        return
    from torch.distributed.checkpoint.state_dict_saver import save

    name = f"{SHARES}{step}"
    save(tensors, checkpoint_id=folder / name)
    if rank == 0:
        force_to_disk(folder / name)
        replace_file(shares, lambda new: write_json({"step": step, "folder": name}, new))
        file.unlink(missing_ok=True)
        remove_shares(folder, name)
    barrier()


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what `save_state` has saved, on any number of processes. Returns the number of finished steps, or 0."""
    file, shares = folder / STATE_FILE, folder / SHARES_FILE
    if not file.is_file() and not shares.is_file():
        return 0
    tensors = run_tensors(model, optimizer)
    if shares.is_file():
        from torch.distributed.checkpoint.state_dict_loader import load

        pointer = read_json(shares)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it loads in a single process
            load(tensors, checkpoint_id=folder / pointer["folder"])
        return int(pointer["step"])
    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if tensors.keys() != state["tensors"].keys():
        raise ValueError(f"{file} has the parameters of another model; remove it, or choose another folder")
    with torch.no_grad():
        for name, tensor in tensors.items():
            copy_into(tensor, state["tensors"][name])
    torch.set_rng_state(state["random"])
    if torch.cuda.is_available() and state["random_cuda"]:
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return int(state["step"])


def run_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors that change in a run: trained parameters, and for each of them AdamW's step and two moments."""
    tensors = {}
    for name, parameter in trained_parameters(model).items():
        moments = optimizer.state[parameter]
        if not moments:  # before the first step, as AdamW makes them
            moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments["exp_avg"], moments["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        tensors[name] = parameter.detach()
        tensors |= {f"{name}/{key}": moments[key] for key in ("step", "exp_avg", "exp_avg_sq")}
    return tensors


def remove_shares(folder: Path, kept: str | None = None) -> None:
    """Remove the shares of earlier states, also those that a kill has left incomplete."""
    for old in folder.glob(f"{SHARES}*"):
        if old.name != kept and old.is_dir():
            shutil.rmtree(old)


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
    for file in (folder / STATE_FILE, folder / SHARES_FILE):
        file.unlink(missing_ok=True)
        beside(file).unlink(missing_ok=True)
    remove_shares(folder)


def read_log(folder: Path, steps: int) -> list[dict[str, Any]]:
    """The log of a run up to a step. A line that a kill has cut off, and all after it, count as missing."""
    file, entries = folder / LOG_FILE, []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return [entry for entry in entries if entry["step"] <= steps]


def write_log(folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
    """Replace the log of a run."""
    content = "".join(json.dumps(entry) + "\n" for entry in entries)
    replace_file(folder / LOG_FILE, lambda file: file.write_text(content, encoding="utf-8"))
