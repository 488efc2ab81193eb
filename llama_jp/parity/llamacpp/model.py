"""A GGUF file in llama.cpp: texts in, logits and points out.

The settings are fixed: no flash attention, all logits, one text at a time, a fresh KV cache for each text.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...checkpoint.config import read_config
from ...checkpoint.gguf.header import GgufHeader, GgufTensor, is_gguf, read_header
from ...checkpoint.gguf.keys import head_counts
from ...checkpoint.gguf.weights import find_gguf_tensors
from ...checkpoint.recognise import check_file
from ...checkpoint.tensors import read_tensors
from ...model import LlamaConfig
from ..operations import operations_of
from .graph import GraphRecorder
from .library import Library, collected_errors, load_library, other_version
from .rounding import InputRounding, input_rounding

CACHE_TYPES = {"float32": 0, "float16": 1}  # ggml's numbers of the types
FLASH_ATTENTION_OFF = 0


class LlamaCpp:
    """A GGUF file that llama.cpp has loaded. Called with ids (B, T), it returns logits (B, T, V) in float32."""

    def __init__(self, file: str | Path, threads: int | None = None, kv_cache: str = "float32"):
        """Load a file. `kv_cache` is the dtype of the KV cache, a key of CACHE_TYPES.

        Raises FileNotFoundError and ValueError, in one sentence, for a file that is missing, damaged, or not
        supported, and where llama-cpp-python is missing or refuses the file.
        """
        self.header = read_header(check_is_gguf(Path(file)))
        self.file = self.header.file  # of a split model, the first part
        if kv_cache not in CACHE_TYPES:
            raise ValueError(f"the KV cache of llama.cpp is {' or '.join(CACHE_TYPES)} here, not {kv_cache!r}")
        self.kv_cache, self.threads = kv_cache, threads
        self.library = load_library()
        refuse_fused(self.file, self.header)
        self.config: LlamaConfig = read_config(self.file)
        self.stored = find_gguf_tensors(self.file)
        self.tensors: dict[str, GgufTensor] = {
            name: self.header.tensors[info.name] for name, info in self.stored.items()
        }
        self.input_rounding = self.rounding_by_operation()
        self.pointer = load_pointer(self.library, self.file)
        weakref.finalize(self, release, self.library, self.library.llama.llama_model_free, self.pointer)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """Every parameter by the name of its point, dequantised to float32, with rows in this project's order."""
        loaded = read_tensors(self.stored, torch.float32, torch.device("cpu"))
        loaded.setdefault("lm_head.weight", loaded["embed_tokens.weight"])  # tied
        return loaded

    def rounding_by_operation(self) -> dict[str, InputRounding]:
        """The rounding of the inputs of each operation whose inputs are rounded."""
        roundings = {}
        permuted = dict(zip(("q_proj", "k_proj"), head_counts(self.header), strict=True))
        for op in operations_of(self.config):
            if op.kind == "linear":
                head = self.tensors.get("lm_head.weight", self.tensors["embed_tokens.weight"])
                roundings[op.name] = input_rounding(
                    self.tensors.get(f"{op.weight}.weight", head), permuted.get(str(op.weight).rpartition(".")[2])
                )
            elif op.kind in ("cache", "scores", "attention") and self.kv_cache == "float16":
                roundings[op.name] = InputRounding("F16")
        return {name: rounding for name, rounding in roundings.items() if rounding is not None}

    def start_session(self, length: int) -> LlamaCppSession:
        """Start a text of up to `length` tokens, with an empty KV cache."""
        return LlamaCppSession(self, length)

    def __call__(self, ids: Tensor) -> Tensor:
        return torch.cat([self.start_session(ids.shape[1])(row[None]) for row in ids])


class Tap:
    """ggml's callback of a context, with the recorder of the current call."""

    recorder: GraphRecorder | None = None

    def observe(self, address: int, ask: bool, user_data: object) -> bool:
        return self.recorder is not None and self.recorder.observe(address, ask)


class LlamaCppSession:
    """A text in progress. `points` holds the points of the last call."""

    def __init__(self, model: LlamaCpp, length: int):
        llama = model.library.llama
        self.model, self.length = model, 0
        self.points: dict[str, Tensor] = {}
        self.tap = Tap()
        # the callback has to live as long as the context; it does not hold the session, which frees the context
        self.callback = llama.ggml_backend_sched_eval_callback(self.tap.observe)
        settings = {
            "n_ctx": length,
            "n_batch": length,
            "n_ubatch": length,  # the graph of one pass holds all tokens of a call
            "n_seq_max": 1,
            "n_threads": model.threads or torch.get_num_threads(),
            "n_threads_batch": model.threads or torch.get_num_threads(),
            "type_k": CACHE_TYPES[model.kv_cache],
            "type_v": CACHE_TYPES[model.kv_cache],
            "flash_attn_type": FLASH_ATTENTION_OFF,
            "cb_eval": self.callback,
        }
        parameters = llama.llama_context_default_params()
        known = {name for name, *_ in parameters._fields_}  # ctypes takes any other name as well, without an effect
        if missing := settings.keys() - known:
            raise other_version(model.library.version, f"it has no setting {', '.join(sorted(missing))}")
        for name, value in settings.items():
            setattr(parameters, name, value)
        with collected_errors(model.library) as errors:
            self.context = llama.llama_init_from_model(model.pointer, parameters)
        if not self.context:
            raise ValueError(f"llama.cpp cannot run {model.file} with {length} tokens: {shown(errors)}")
        weakref.finalize(self, release, model.library, llama.llama_free, self.context)

    def __call__(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The logits (1, T, V) of the next ids (1, T).

        Raises ValueError for several rows, for padding, and for ids that are not in the vocabulary.
        """
        model, llama = self.model, self.model.library.llama
        check_ids(ids, mask, model)
        T = ids.shape[1]
        recorder = self.tap.recorder = GraphRecorder(model.library, model.config, self.length + T)
        batch = llama.llama_batch_init(T, 0, 1)
        try:
            batch.n_tokens = T
            for i, token in enumerate(ids[0].tolist()):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, self.length + i, 1, 1
                batch.seq_id[i][0] = 0
            with collected_errors(model.library) as errors:
                status = llama.llama_decode(self.context, batch)
        finally:
            llama.llama_batch_free(batch)
        if recorder.error is not None:  # llama_decode has returned success, with the logits of half a graph
            raise recorder.error
        if status:
            raise ValueError(f"llama.cpp fails on {model.file} with status {status}: {shown(errors)}")
        V = model.config.vocab_size
        logits = torch.tensor(llama.llama_get_logits(self.context)[: T * V]).view(1, T, V)
        self.points, self.length = recorder.points, self.length + T
        if missing := [op.name for op in operations_of(model.config)[:-1] if op.name not in self.points]:
            raise other_version(model.library.version, f"no operation of its graph is known as {missing[0]}")
        return logits


def check_is_gguf(file: Path) -> Path:
    """The file. Raises FileNotFoundError or ValueError for one that is missing or no GGUF file."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder, and llama.cpp loads a GGUF file: name the file")
    check_file(file)
    if not is_gguf(file):
        raise ValueError(f"{file} is not a GGUF file, which llama.cpp needs")
    return file


def refuse_fused(file: Path, header: GgufHeader) -> None:
    """Raise ValueError for a file with one weight for q, k and v: it has no such operations to compare."""
    if fused := [name for name in header.tensors if ".attn_qkv." in name]:
        raise ValueError(
            f"{file} has one weight for queries, keys and values ({fused[0]}), so they cannot be compared one by one; "
            "convert the model without --fuse-qkv"
        )


def load_pointer(library: Library, file: Path) -> Any:
    """llama.cpp's pointer of a loaded model."""
    parameters = library.llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    with collected_errors(library) as errors:
        pointer = library.llama.llama_model_load_from_file(str(file).encode(), parameters)
    if not pointer:
        raise ValueError(f"llama.cpp cannot load {file}: {shown(errors)}")
    return pointer


def release(library: Library, free: Callable[[Any], None], pointer: Any) -> None:
    with collected_errors(library):
        free(pointer)


def shown(errors: list[str]) -> str:
    """The first of llama.cpp's messages that has a reason."""
    reasons = [line for line in errors if "error" in line] or errors
    return " ".join(reasons[0].split()) if reasons else "it gives no reason"


def check_ids(ids: Tensor, mask: Tensor | None, model: LlamaCpp) -> None:
    if mask is not None and not bool(mask.bool().all()):
        raise ValueError("llama.cpp has no padding, so the mode ragged cannot compare it; use whole, steps or chunks")
    if len(ids) != 1:
        raise ValueError(f"llama.cpp runs one row at a time here, not {len(ids)}; use Settings(rows=1)")
    if int(ids.min()) < 0 or int(ids.max()) >= model.config.vocab_size:
        raise ValueError(
            f"the ids go from {int(ids.min())} to {int(ids.max())}, and {model.file} has "
            f"{model.config.vocab_size} of them, from 0"
        )
