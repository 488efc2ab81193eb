"""GGUF files of a small random checkpoint, right ones and wrong ones, and models that are wrong beside a right file."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.gguf_files import write_gguf
from llama_jp.checkpoint.gguf.header import read_header
from llama_jp.model import Llama, attend_eager, rms_norm
from llama_jp.parity import ComparedModel, Comparison, Settings, as_compared_model, compare, open_model
from llama_jp.rope import make_rope

SHAPE = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
NO_VOCABULARY: dict[str, Any] = {"tokenizer.ggml.model": "no_vocab"}
IDS = torch.randint(3, 128, (1, 14), generator=torch.Generator().manual_seed(5))

State = dict[str, Tensor]  # under the names of the checkpoint, in float32


def gguf_of(folder: Path, file: Path, kind: Any = Type.F32, keys: dict | None = None, **options: Any) -> Path:
    """The checkpoint as a GGUF file without a vocabulary."""
    return write_gguf(folder, file, kind, NO_VOCABULARY | (keys or {}), **options)


def with_weights(folder: Path, copy: Path, change: Callable[[State], None]) -> Path:
    """A copy of the checkpoint with changed weights, in float32."""
    shutil.copytree(folder, copy)
    state = {name: x.float() for name, x in load_file(copy / "model.safetensors").items()}
    change(state)
    save_file({name: x.contiguous() for name, x in state.items()}, copy / "model.safetensors", {"format": "pt"})
    return copy


def with_config(folder: Path, copy: Path, **values: Any) -> Path:
    """A copy of the checkpoint with other settings in config.json."""
    shutil.copytree(folder, copy)
    file = copy / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return copy


def with_bytes(file: Path, tensor: str, change: Callable[[bytearray], None]) -> Path:
    """The GGUF file with changed bytes of one tensor, in place."""
    found = read_header(file).tensors[tensor]
    content = bytearray(file.read_bytes())
    part = content[found.start : found.start + found.nbytes]
    change(part)
    content[found.start : found.start + found.nbytes] = part
    file.write_bytes(content)
    return file


def here(folder: Path, **options: Any) -> Llama:
    return Llama.from_pretrained(folder, dtype="float32", device="cpu", **options)


def in_llama_cpp(file: Path, **settings: Any) -> ComparedModel:
    return open_model(f"llama.cpp:{file}", Settings(**settings))


# Faults


@dataclass
class Fault:
    """One fault and where a comparison has to find it: the first bug, or the words of a refusal."""

    name: str
    where: str  # an operation, a key, or a part of a refusal
    keys: dict[str, Any] = field(default_factory=dict)  # of the file
    drop: tuple[str, ...] = ()
    weights: Callable[[State], None] | None = None  # of the file
    tensor: str | None = None  # whose bytes in the file change
    change: Callable[[bytearray], None] | None = None
    kind: Type = Type.F32
    config: dict[str, Any] = field(default_factory=dict)  # of the folder
    settings: dict[str, Any] = field(default_factory=dict)  # of both, in config.json, before the file is written
    model: Callable[[Llama], None] | None = None  # of this project's model
    options: dict[str, Any] = field(default_factory=dict)  # of its loading
    result: tuple[str, Callable[[Tensor], Tensor]] | None = None  # a point of llama.cpp that comes out wrong


def run_fault(fault: Fault, base: Path, folder: Path, mode: str = "whole") -> Comparison:
    """The comparison of a checkpoint with a GGUF file, with the fault in one of them."""
    right = with_config(base, folder / "right", **fault.settings)
    source = right if fault.weights is None else with_weights(right, folder / "wrong", fault.weights)
    file = gguf_of(source, folder / "model.gguf", fault.kind, fault.keys, drop=fault.drop)
    if fault.tensor is not None and fault.change is not None:
        with_bytes(file, fault.tensor, fault.change)
    mine = with_config(right, folder / "mine", **fault.config) if fault.config else right
    model = here(mine, **fault.options)
    if fault.model is not None:
        fault.model(model)
    theirs = in_llama_cpp(file)
    if fault.result is not None:
        edit_result(theirs, *fault.result)
    return compare(as_compared_model(model, folder=mine), theirs, IDS, mode)


def edit_result(model: ComparedModel, point: str, edit: Callable[[Tensor], Tensor]) -> None:
    """Let the operation of a point return other numbers, as a wrong kernel does."""
    start = model.file.start_session

    def start_session(length: int) -> Any:
        session = start(length)
        run = type(session).__call__

        class Edited(type(session)):
            def __call__(self, ids, mask=None):
                logits = run(self, ids, mask)
                self.points[point] = edit(self.points[point])
                return logits

        session.__class__ = Edited
        return session

    model.file.start_session = start_session


def found_at(fault: Fault, base: Path, folder: Path, mode: str = "whole") -> tuple[bool, str]:
    """Whether the comparison names the place of the fault, and what it says."""
    try:
        found = run_fault(fault, base, folder, mode)
    except (ValueError, OSError) as refusal:
        return fault.where in str(refusal), f"refused: {refusal}"
    if found.bug is None:
        return False, f"verdict {found.verdict}"
    return found.bug.operation.startswith(fault.where), f"{found.bug.operation}: {found.bug.cause}"


# Changes of weights


def swap(a: str, b: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[a], state[b] = state[b], state[a]

    return change


def edit(name: str, function: Callable[[Tensor], Tensor]) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = function(state[name].clone())

    return change


def one_number(x: Tensor) -> Tensor:
    x.view(-1)[77] *= 1.01
    return x


def two_rows(x: Tensor) -> Tensor:
    return x[[1, 0, *range(2, len(x))]]


def heads_exchanged(heads: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x.view(heads, -1, x.shape[1]).roll(1, 0).reshape(x.shape)


def pairs(heads: int) -> Callable[[Tensor], Tensor]:
    """The rows in the order of neighbouring pairs, which the converter has to make once."""
    return lambda x: x.view(heads, 2, -1, x.shape[1]).transpose(1, 2).reshape(x.shape)


def tied(state: State) -> None:
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()


def dropped(name: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        del state[name]

    return change


def byte(index: int, by: int = 1) -> Callable[[bytearray], None]:
    def change(content: bytearray) -> None:
        content[index] = (content[index] + by) % 256

    return change


def nibble(index: int) -> Callable[[bytearray], None]:
    """One 4-bit number, one step up or, at the top, down."""

    def change(content: bytearray) -> None:
        content[index] += -1 if content[index] & 15 == 15 else 1

    return change


def one_column(x: Tensor) -> Tensor:
    return x.index_add(2, torch.tensor([9]), torch.full((1, x.shape[1], 1), 1e-3))


def wrong_scale(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return attend_eager(q * 1.01, k, v, mask)


def late_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2] - 1)
    visible[0, 0] = True
    return attend_eager(q, k, v, visible[None, None])


def norm_after(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps * 100))


def set_eps(model: Llama) -> None:
    model.layers[1].post_attention_layernorm.eps = 1e-3


def theta_of_model(model: Llama) -> None:
    model.rope = make_rope(dataclasses.replace(model.config, rope_theta=9000.0))


def sub(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}.weight"


EPS, BASE = "llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"
HEADS = "llama.attention.head_count"
LINEAR = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 10000.0}

FAULTS = [
    # metadata of the file
    Fault("eps 1e-6", EPS, {EPS: 1e-6}),
    Fault("eps 1e-4", EPS, {EPS: 1e-4}),
    Fault("eps 2e-5", EPS, {EPS: 2e-5}),
    Fault("theta 10100", BASE, {BASE: 10100.0}),
    Fault("theta 5e5", BASE, {BASE: 5e5}),
    Fault("theta missing", BASE, drop=(BASE,), settings={
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    Fault("linear scaling", "llama.rope.scaling", LINEAR),
    Fault("linear scaling lost", "llama.rope.scaling", settings={
        "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
    Fault("yarn lost", "llama.rope.scaling", settings={"rope_parameters": YARN, "max_position_embeddings": 128}),
    Fault("yarn added", "llama.rope.scaling", {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
                                               "llama.rope.scaling.original_context_length": 32}),
    Fault("key heads missing", f"{HEADS}_kv", drop=(f"{HEADS}_kv",)),
    Fault("eight heads", HEADS, {HEADS: 8, f"{HEADS}_kv": 4},
          drop=("llama.rope.dimension_count",)),
    Fault("two heads", HEADS, {HEADS: 2, f"{HEADS}_kv": 1},
          drop=("llama.rope.dimension_count",)),
    Fault("another architecture", "exaone", {"general.architecture": "exaone"}),
    Fault("partial rotation", "llama.rope.dimension_count", {"llama.rope.dimension_count": 8}),
    Fault("a layer fewer", "llama.block_count", {"llama.block_count": 2}),
    Fault("a layer more", "llama.block_count", {"llama.block_count": 4}),
    Fault("other MLP size", "llama.feed_forward_length", {"llama.feed_forward_length": 64}),
    Fault("other hidden size", "embedding_length", {"llama.embedding_length": 32}),
    Fault("other BOS", "tokenizer.ggml.bos_token_id", {"tokenizer.ggml.bos_token_id": 5}),
    Fault("other EOS", "tokenizer.ggml.eos_token_id", {"tokenizer.ggml.eos_token_id": 7}),
    # config.json of the folder
    Fault("eps in config.json", EPS, config={"rms_norm_eps": 1e-6}),
    Fault("theta in config.json", BASE, config={"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    Fault("scaling in config.json", "llama.rope.scaling", config={
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
    # weights of the file
    Fault("one number", "layers.1.mlp.up_proj", weights=edit(sub(1, "mlp.up_proj"), one_number)),
    Fault("one number of k", "layers.2.self_attn.k_proj", weights=edit(sub(2, "self_attn.k_proj"), one_number)),
    Fault("one number of a norm", "layers.0.input_layernorm",
          weights=edit(sub(0, "input_layernorm"), lambda x: x.index_fill(0, torch.tensor([3]), 1.0))),
    Fault("times 1.001", "layers.2.mlp.gate_proj", weights=edit(sub(2, "mlp.gate_proj"), lambda x: x * 1.001)),
    Fault("two rows of v", "layers.1.self_attn.v_proj", weights=edit(sub(1, "self_attn.v_proj"), two_rows)),
    Fault("two rows of the embedding", "embed_tokens", weights=edit("model.embed_tokens.weight", two_rows)),
    Fault("key heads exchanged", "layers.2.self_attn.k_proj",
          weights=edit(sub(2, "self_attn.k_proj"), heads_exchanged(2))),
    Fault("value heads exchanged", "layers.0.self_attn.v_proj",
          weights=edit(sub(0, "self_attn.v_proj"), heads_exchanged(2))),
    Fault("query heads moved", "layers.0.self_attn.q_proj",
          weights=edit(sub(0, "self_attn.q_proj"), heads_exchanged(4))),
    Fault("K and V exchanged", "layers.1.self_attn.k_proj",
          weights=swap(sub(1, "self_attn.k_proj"), sub(1, "self_attn.v_proj"))),
    Fault("gate and up exchanged", "layers.2.mlp.gate_proj",
          weights=swap(sub(2, "mlp.gate_proj"), sub(2, "mlp.up_proj"))),
    Fault("norms exchanged", "layers.1.input_layernorm",
          weights=swap(sub(1, "input_layernorm"), sub(1, "post_attention_layernorm"))),
    Fault("layers exchanged", "layers.0.mlp.down_proj", weights=swap(sub(0, "mlp.down_proj"), sub(1, "mlp.down_proj"))),
    Fault("q permuted twice", "layers.0.self_attn.q_proj", weights=edit(sub(0, "self_attn.q_proj"), pairs(4))),
    Fault("k permuted twice", "layers.0.self_attn.k_proj", weights=edit(sub(0, "self_attn.k_proj"), pairs(2))),
    Fault("q and k permuted as of four heads", "layers.1.self_attn.k_proj",
          weights=edit(sub(1, "self_attn.k_proj"), pairs(4))),
    Fault("o transposed", "layers.0.self_attn.o_proj", weights=edit(sub(0, "self_attn.o_proj"), lambda x: x.T)),
    Fault("a norm of ones", "layers.1.input_layernorm", weights=edit(sub(1, "input_layernorm"), torch.ones_like)),
    Fault("1 + norm", "norm", weights=edit("model.norm.weight", lambda x: x + 1)),
    Fault("norm reversed", "layers.2.post_attention_layernorm",
          weights=edit(sub(2, "post_attention_layernorm"), lambda x: x.flip(0))),
    Fault("negated", "layers.1.self_attn.o_proj", weights=edit(sub(1, "self_attn.o_proj"), torch.neg)),
    Fault("zeros", "layers.1.mlp.down_proj", weights=edit(sub(1, "mlp.down_proj"), torch.zeros_like)),
    Fault("in bfloat16", "layers.0.mlp.up_proj",
          weights=edit(sub(0, "mlp.up_proj"), lambda x: x.bfloat16().float())),
    Fault("head tied", "lm_head", weights=tied),
    Fault("head left out", "lm_head", weights=dropped("lm_head.weight")),
    Fault("head of other rows", "lm_head", weights=edit("lm_head.weight", two_rows)),
    # bytes of quantised files
    Fault("Q8_0: one integer", "layers.1.mlp.up_proj", tensor="blk.1.ffn_up.weight", change=byte(2 + 34 * 20 + 7),
          kind=Type.Q8_0),
    Fault("Q8_0: one scale", "layers.0.self_attn.v_proj", tensor="blk.0.attn_v.weight", change=byte(34 * 11),
          kind=Type.Q8_0),
    Fault("Q4_0: one integer", "layers.2.mlp.down_proj", tensor="blk.2.ffn_down.weight", change=nibble(2 + 18 * 9 + 5),
          kind=Type.Q4_0),
    Fault("Q4_0: one scale", "layers.1.self_attn.q_proj", tensor="blk.1.attn_q.weight", change=byte(18 * 30 + 1),
          kind=Type.Q4_0),
    Fault("Q5_1: one integer", "layers.1.mlp.gate_proj", tensor="blk.1.ffn_gate.weight", change=nibble(8 + 24 * 9 + 2),
          kind=Type.Q5_1),
    Fault("Q8_0: two rows", "layers.1.mlp.up_proj", weights=edit(sub(1, "mlp.up_proj"), two_rows), kind=Type.Q8_0),
    Fault("Q4_0: key heads", "layers.0.self_attn.k_proj", kind=Type.Q4_0,
          weights=edit(sub(0, "self_attn.k_proj"), heads_exchanged(2))),
    Fault("Q4_0: gate and up", "layers.0.mlp.gate_proj", kind=Type.Q4_0,
          weights=swap(sub(0, "mlp.gate_proj"), sub(0, "mlp.up_proj"))),
    Fault("Q8_0: eps", EPS, {EPS: 2e-5}, kind=Type.Q8_0),
    Fault("F16: one number", "layers.1.self_attn.o_proj", kind=Type.F16,
          weights=edit(sub(1, "self_attn.o_proj"), one_number)),
    # this project's model
    Fault("eps of one norm", "layers.1.post_attention_layernorm", model=set_eps),
    Fault("theta of the model", "rope.cos", model=theta_of_model),
    Fault("scores times 1.01", "layers.0.self_attn.scores", options={"attention": wrong_scale}),
    Fault("mask one token late", "layers.0.self_attn.scores", options={"attention": late_mask}),
    Fault("another norm", "layers.0.input_layernorm", options={"norm": norm_after}),
    Fault("norm without weight", "layers.0.input_layernorm",
          options={"norm": lambda x, weight, eps: rms_norm(x, torch.ones_like(weight), eps)}),
    # kernels of llama.cpp
    Fault("embedding scaled", "embed_tokens", result=("embed_tokens", lambda x: x * 8)),
    Fault("positions + 1", "rope.cos", result=("rope.cos", lambda x: x.roll(-1, 1))),
    Fault("norm times 1.001", "layers.1.input_layernorm", result=("layers.1.input_layernorm", lambda x: x * 1.001)),
    Fault("product times 1.001", "layers.1.mlp.up_proj", kind=Type.F16,
          result=("layers.1.mlp.up_proj", lambda x: x * 1.001)),
    Fault("q not rotated", "layers.0.self_attn.q_rot", result=("layers.0.self_attn.q_rot", lambda x: x.flip(1))),
    Fault("keys in float16", "layers.0.self_attn.keys",
          result=("layers.0.self_attn.keys", lambda x: x.half().float())),
    Fault("values one late", "layers.1.self_attn.values", result=("layers.1.self_attn.values", lambda x: x.roll(1, 2))),
    Fault("scores of another scale", "layers.2.self_attn.scores",
          result=("layers.2.self_attn.scores", lambda x: x.clamp(min=-1e30) * 0.5)),
    Fault("softmax not normed", "layers.0.self_attn.probabilities",
          result=("layers.0.self_attn.probabilities", lambda x: x * 0.999)),
    Fault("attention of other heads", "layers.0.self_attn.attn_output",
          result=("layers.0.self_attn.attn_output", lambda x: x.roll(1, 1))),
    Fault("residual left out", "layers.1.after_attention", result=("layers.1.after_attention", lambda x: x * 0.5)),
    Fault("gelu", "layers.2.mlp.mlp_act", result=("layers.2.mlp.mlp_act", lambda x: x + 1e-3)),
    Fault("Q8_0: one product", "layers.1.mlp.down_proj", kind=Type.Q8_0,
          result=("layers.1.mlp.down_proj", one_column)),
    Fault("logits shifted", "lm_head", result=("lm_head", lambda x: x.roll(1, 1))),
]  # fmt: skip
