"""Compare a GGUF file with the other model of a comparison before they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from ..judge.findings import Finding
from ..run.models import ComparedModel
from .metadata import compare_metadata
from .weights import compare_weights, replaced_weights


@dataclass
class FileCheck:
    """The findings in the metadata and in the weights of a GGUF file, and sentences on the rest."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    has_own_error: bool = False  # whether the file has other numbers than the checkpoint, by rounding or a mistake

    @property
    def same_sizes(self) -> bool:
        return all(each.kind != "size" for each in self.findings)


def check_file(models: tuple[ComparedModel, ComparedModel]) -> FileCheck:
    """Compare the metadata and the weights of llama.cpp's GGUF file with the other model. Empty without such a model.

    Raises ValueError for another model that does not compute in float32, as llama.cpp does.
    """
    check = FileCheck()
    mine = next((model for model in models if model.file is not None), None)
    if mine is None or mine.file is None:
        return check
    other = models[1] if mine is models[0] else models[0]
    if other.dtype not in (None, torch.float32):
        dtype = str(other.dtype).removeprefix("torch.")
        raise ValueError(f"{other.name} computes in {dtype}, and llama.cpp in float32; load it with the dtype float32")
    if other.config is not None:
        folder = None if other.file is not None else other.folder
        check.findings += compare_metadata(mine.file.header, mine.file.config, other.config, folder)
    if check.same_sizes and other.module is not None:
        own, of_file = other.parameters(), mine.file.weights
        weights = compare_weights(mine.file.tensors, of_file, own, mine.file.library.ggml)
        check.findings += weights.findings
        check.notes += weights.notes
        check.has_own_error = any(name in own and not torch.equal(own[name], x) for name, x in of_file.items())
    for finding in check.findings:
        finding.model = mine.name
    return check


@contextmanager
def weights_of_file(models: tuple[ComparedModel, ComparedModel]) -> Iterator[None]:
    """Give the other model the weights of llama.cpp's GGUF file inside the `with` block.

    What is compared then is the arithmetic alone. Without llama.cpp, nothing changes.
    """
    file = next((model.file for model in models if model.file is not None), None)
    other = next((model for model in models if model.file is None), None)
    if file is None or other is None or other.module is None:
        yield
        return
    needed = other.parameters().keys()
    with replaced_weights(other.name, other.module, {name: x for name, x in file.weights.items() if name in needed}):
        yield
