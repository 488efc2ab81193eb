"""The proof at ELYZA's full size: a checkpoint of its exact shape, in its published form, against the reference.

    llama-jp parity --fullsize 7b --folder DIRECTORY

Random float16 weights are written as the hub has them (two `.bin` shards and an index, rotary_emb.inv_freq included).
This project loads them in bfloat16 and runs, and every point is kept. Then the reference runs one layer at a time, each
on what its own previous layer gave, so that both models are never in memory together.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...checkpoint.config import read_config
from ...checkpoint.published_form import write_published
from ...checkpoint.random_checkpoint import random_config, random_ids
from ...checkpoint.tensors import find_tensors, read_group
from ...environment import peak_memory
from ...model import Llama, LlamaConfig
from ...tracing import trace
from ..judge.rows import Row, compare_calls
from ..operations import operations
from ..run.models import Settings, Subject
from ..run.recording import Call, Step, names_in, record


@dataclass
class FullsizeResult:
    """What was measured, and the rows of the comparison."""

    shape: str
    parameters: int = 0
    total_size: int = 0
    shards: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int = 0
    rows: list[Row] = field(default_factory=list)

    @property
    def different(self) -> list[Row]:
        return [row for row in self.rows if row.difference is None or not row.difference.equal]

    def as_dict(self) -> dict:
        return {
            "shape": self.shape,
            "parameters": self.parameters,
            "total_size": self.total_size,
            "shards": self.shards,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "peak_bytes": self.peak_bytes,
            "points": len(self.rows),
            "equal_points": len(self.rows) - len(self.different),
            "first_divergence": self.different[0].operation.name if self.different else None,
            "logits_equal": not any(row.operation.name == "logits" for row in self.different),
        }

    def text(self) -> str:
        facts, different = self.as_dict(), self.different
        size = f"{sum(self.shards.values()):,} bytes in {len(self.shards)} shards, total_size {self.total_size:,}"
        lines = [
            f"{self.shape}: {self.parameters:,} parameters, {size}",
            f"peak memory {self.peak_bytes / 2**30:.2f} GiB, loaded and run in bfloat16",
            "seconds: " + ", ".join(f"{name} {value}" for name, value in facts["seconds"].items()),
            f"{facts['equal_points']} of {facts['points']} points equal to transformers' to the bit",
        ]
        if different:
            lines.append(f"first divergence: {different[0].operation.name}: {different[0].difference}")
        return "\n".join(lines)


def prove(shape: str, folder: Path, tokens: int = 16, layers: int | None = None, seed: int = 0) -> FullsizeResult:
    """Write the checkpoint (unless the folder has it), run both sides in bfloat16, compare every point."""
    result = FullsizeResult(shape)
    config = random_config(shape, layers)
    with timed(result, "write"):
        if not (folder / "config.json").is_file():
            write_published(folder, config, seed)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))
    result.total_size = index["metadata"]["total_size"]
    result.shards = {file.name: file.stat().st_size for file in sorted(folder.glob("*.bin"))}

    config = read_config(folder)
    ids = random_ids(config, 1, tokens, seed)
    wanted = [op for op in operations(config) if op.kind not in ("scores", "softmax")]
    with timed(result, "load here"):
        model = Llama.from_pretrained(folder, dtype="bfloat16", device="cpu")
    result.parameters = sum(parameter.numel() for parameter in model.parameters())
    with timed(result, "run here"):
        here = record(Subject("llama_jp", model, Settings("bfloat16"), model, config, folder), [Step(ids)], wanted)
    result.peak_bytes = peak_memory()
    del model
    gc.collect()

    with timed(result, "run the reference"):
        there = run_by_layer(folder, config, ids, wanted)
    result.rows = compare_calls(here, [there], wanted)
    return result


@contextlib.contextmanager
def timed(result: FullsizeResult, what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    result.seconds[what] = time.perf_counter() - begun


@torch.no_grad()
def run_by_layer(folder: Path, config: LlamaConfig, ids: Tensor, wanted: list) -> Call:
    """transformers' model over ids, with the points of all layers, as one call."""
    from transformers import AutoConfig, LlamaForCausalLM

    reference = AutoConfig.from_pretrained(folder, attn_implementation="sdpa")
    reference.num_hidden_layers = 1
    with torch.device("meta"):
        model = LlamaForCausalLM(reference).eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=reference)  # its frequencies are no weights
    stored = find_tensors(folder)
    names = {op.name for op in wanted}

    def assign(module: nn.Module, prefix: str) -> None:
        for name, _ in list(module.named_parameters()):
            one = stored[f"{prefix}{name}"]
            tensor = next(read_group(one.file, [one]))[1].to(torch.bfloat16, copy=True)
            parent, _, last = name.rpartition(".")
            module.get_submodule(parent)._parameters[last] = nn.Parameter(tensor, requires_grad=False)

    points: dict[str, Tensor] = {}
    head, model.lm_head, norm, model.model.norm = model.lm_head, nn.Identity(), model.model.norm, nn.Identity()
    assign(model.model.embed_tokens, "embed_tokens.")
    x = points["embed_tokens"] = model.model.embed_tokens(ids)
    model.model.embed_tokens = nn.Identity()
    for i in range(config.num_hidden_layers):
        assign(model.model.layers[0], f"layers.{i}.")
        inside = [op for op in wanted if op.layer == 0 or op.kind == "rope"]
        with trace(model, names_in(model, inside), compute_scores=False) as seen:
            model(inputs_embeds=x, use_cache=False)
        points |= {renumbered(name, i): tensor for name, tensor in seen.items()}
        x = points[f"layers.{i}"]
    assign(norm, "norm.")
    assign(head, "lm_head.")
    points["norm"] = norm(x)
    points["lm_head"] = points["logits"] = head(points["norm"])
    points = {name: tensor for name, tensor in points.items() if name in names}
    return Call(ids, None, ids.shape[1], points["logits"], points)


def renumbered(name: str, layer: int) -> str:
    return f"layers.{layer}{name.removeprefix('layers.0')}" if name.startswith("layers.0") else name
