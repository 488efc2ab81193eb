"""Compare a checkpoint of ELYZA's full size, in its published form, with the reference.

    llama-jp parity --fullsize 7b --folder DIRECTORY

The checkpoint has random float16 weights in the files that the hub has: two `.bin` shards and an index, with
`rotary_emb.inv_freq`. This project loads them in bfloat16, runs, and records every point. Then the reference runs one
layer at a time, each on the output of its own previous layer. So the two models are never in memory together.
"""

from __future__ import annotations

import contextlib
import gc
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...checkpoint.config import read_config
from ...checkpoint.layouts import find_tensors
from ...checkpoint.published_form import write_published
from ...checkpoint.random_checkpoint import random_config, random_ids
from ...checkpoint.tensors import read_group
from ...environment import peak_memory
from ...model import Llama, LlamaConfig
from ...numerics import all_finite
from ...tracing import trace
from ..judge.rows import Row, compare_calls
from ..operations import Operation, operations_of
from ..run.models import ComparedModel, Settings
from ..run.recording import Call, PlannedCall, record, traceable_names


@dataclass
class FullsizeResult:
    """The measurements, and the rows of the comparison."""

    shape: str
    parameters: int = 0
    total_size: int = 0  # of the weights in bytes, from the index
    shards: dict[str, int] = field(default_factory=dict)  # file name -> bytes
    seconds: dict[str, float] = field(default_factory=dict)  # task -> seconds
    peak_bytes: int = 0  # memory of the process, before the reference runs
    rows: list[Row] = field(default_factory=list)

    finite: bool = True  # whether the logits are free of NaN and infinity

    @property
    def different(self) -> list[Row]:
        return [row for row in self.rows if row.difference is None or not row.difference.equal]

    def as_dict(self) -> dict[str, Any]:
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
            "finite": self.finite,
            "logits_equal": not any(row.operation.name == "logits" for row in self.different),
        }

    def text(self) -> str:
        """The result in lines for people."""
        facts, different = self.as_dict(), self.different
        size = f"{sum(self.shards.values()):,} bytes in {len(self.shards)} shards, total_size {self.total_size:,}"
        lines = [
            f"{self.shape}: {self.parameters:,} parameters, {size}",
            f"peak memory {self.peak_bytes / 2**30:.2f} GiB, loaded and run in bfloat16",
            "seconds: " + ", ".join(f"{name} {value}" for name, value in facts["seconds"].items()),
            f"{facts['equal_points']} of {facts['points']} points bit-identical to transformers'",
        ]
        if not self.finite:
            lines.append("the logits have NaN or infinite numbers")
        if different:
            lines.append(f"first divergence: {different[0].operation.name}: {different[0].difference}")
        return "\n".join(lines)


def compare_fullsize(
    shape: str, folder: Path, tokens: int = 16, layers: int | None = None, seed: int = 0
) -> FullsizeResult:
    """Write a random checkpoint, unless the folder has one. Run both models in bfloat16 and compare every point.

    Needs 13.5 GB of disk space and 14 GiB of memory for the shape "7b".
    """
    result = FullsizeResult(shape)
    with timed(result, "write"):
        if not (folder / "config.json").is_file():
            write_published(folder, random_config(shape, layers), seed)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))
    result.total_size = index["metadata"]["total_size"]
    result.shards = {file.name: file.stat().st_size for file in sorted(folder.glob("*.bin"))}

    config = read_config(folder)
    ids = random_ids(config, 1, tokens, seed)
    wanted = [op for op in operations_of(config) if op.kind not in ("scores", "softmax")]  # fused attention has neither
    with timed(result, "load llama_jp"):
        model = Llama.from_pretrained(folder, dtype="bfloat16", device="cpu")
    result.parameters = sum(parameter.numel() for parameter in model.parameters())
    with timed(result, "run llama_jp"):
        compared = ComparedModel("llama_jp", model, Settings("bfloat16"), model, config, folder)
        calls = record(compared, [PlannedCall(ids)], wanted)
    result.peak_bytes = peak_memory()
    del model, compared
    gc.collect()

    with timed(result, "run transformers"):
        reference_call = run_by_layer(folder, config, ids, wanted)
    result.finite = all(all_finite(call.logits) for call in (*calls, reference_call))
    result.rows = compare_calls(calls, [reference_call], wanted)
    return result


@contextlib.contextmanager
def timed(result: FullsizeResult, task: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    result.seconds[task] = time.perf_counter() - start


@torch.no_grad()
def run_by_layer(folder: Path, config: LlamaConfig, ids: Tensor, wanted: list[Operation]) -> Call:
    """Run transformers' model with one layer in memory at a time, and record the points of all layers as one call."""
    from transformers import AutoConfig, LlamaForCausalLM

    one_layer = AutoConfig.from_pretrained(folder, attn_implementation="sdpa")
    one_layer.num_hidden_layers = 1
    with torch.device("meta"):
        model = LlamaForCausalLM(one_layer).eval()
    model.model.rotary_emb = type(model.model.rotary_emb)(config=one_layer)  # its frequencies are not in the files
    stored = find_tensors(folder)

    def load_weights(module: nn.Module, prefix: str) -> None:
        for name, _ in list(module.named_parameters()):
            info = stored[f"{prefix}{name}"]
            tensor = next(read_group(info.file, [info]))[1].to(torch.bfloat16, copy=True)
            parent, _, last = name.rpartition(".")
            module.get_submodule(parent)._parameters[last] = nn.Parameter(tensor, requires_grad=False)

    # the model keeps its single layer; embedding, last norm and head run outside of it
    embed_tokens, norm, lm_head = model.model.embed_tokens, model.model.norm, model.lm_head
    model.model.embed_tokens, model.model.norm, model.lm_head = nn.Identity(), nn.Identity(), nn.Identity()

    load_weights(embed_tokens, "embed_tokens.")
    x = embed_tokens(ids)  # (B, T, C)
    points: dict[str, Tensor] = {"embed_tokens": x}
    del embed_tokens
    names = traceable_names(model, [op for op in wanted if op.layer == 0 or op.kind == "rope"])
    for i in range(config.num_hidden_layers):
        load_weights(model.model.layers[0], f"layers.{i}.")
        with trace(model, names, compute_scores=False) as activations:
            model(inputs_embeds=x, use_cache=False)
        points |= {rename_layer(name, i): tensor for name, tensor in activations.items()}
        x = points[f"layers.{i}"]
    load_weights(norm, "norm.")
    load_weights(lm_head, "lm_head.")
    points["norm"] = norm(x)
    points["lm_head"] = points["logits"] = lm_head(points["norm"])
    wanted_names = {op.name for op in wanted}
    return Call(
        ids, None, ids.shape[1], points["logits"], {name: x for name, x in points.items() if name in wanted_names}
    )


def rename_layer(name: str, layer: int) -> str:
    """The point of layer 0 as the same point of another layer. Other points keep their names."""
    return f"layers.{layer}{name.removeprefix('layers.0')}" if name.startswith("layers.0") else name
