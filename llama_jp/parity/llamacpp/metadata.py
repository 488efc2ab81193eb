"""Whether the metadata of a GGUF file are the settings of a checkpoint.

llama.cpp replaces most missing keys by defaults without a word, so a comparison begins here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ...checkpoint.gguf.header import GgufHeader
from ...checkpoint.json_files import read_json
from ...model import LlamaConfig
from ...rope import make_rope
from ..judge.findings import Finding

SIZES = {
    "vocab_size": "token_embd.weight",
    "hidden_size": "llama.embedding_length",
    "intermediate_size": "llama.feed_forward_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
}
NUMBERS = {"rms_norm_eps": "llama.attention.layer_norm_rms_epsilon", "rope_theta": "llama.rope.freq_base"}
TOKENS = {"bos": "tokenizer.ggml.bos_token_id", "eos": "tokenizer.ggml.eos_token_id"}
CLOSE = 1e-5  # two formulas of one scaling give cos and sin with smaller differences


def compare_metadata(file: GgufHeader, here: LlamaConfig, there: LlamaConfig, folder: Path | None) -> list[Finding]:
    """One finding for each setting of a GGUF file that is not that of a checkpoint.

    here    the file's settings
    there   the checkpoint's
    folder  the checkpoint's, for its tokenizer

    A finding of a size has the kind "size": two models of different sizes have no common operations.
    """
    found = [*differing_sizes(here, there), *differing_numbers(here, there), *differing_rope(here, there)]
    found += differing_tokens(file, here, there)
    if folder is not None and folder.is_dir():
        found += differing_vocabulary(file, folder)
    return found


def finding(key: str, cause: str, kind: str = "metadata") -> Finding:
    return Finding(key, kind, None, 0, "bug", cause=cause)


def differing_sizes(here: LlamaConfig, there: LlamaConfig) -> Iterator[Finding]:
    for name, key in SIZES.items():
        value, expected = getattr(here, name), getattr(there, name)
        if value != expected:
            yield finding(key, f"{name} is {value} in the file and {expected} in the checkpoint", "size")


def differing_numbers(here: LlamaConfig, there: LlamaConfig) -> Iterator[Finding]:
    for name, key in NUMBERS.items():
        value, expected = getattr(here, name), getattr(there, name)
        if struct.pack("<f", value) != struct.pack("<f", expected):  # the file has float32
            yield finding(key, f"{name} is {value:g} in the file and {expected:g} in the checkpoint")


def differing_rope(here: LlamaConfig, there: LlamaConfig) -> Iterator[Finding]:
    """A scaling that changes the rotation within the context. It can be written in several ways."""
    if here.rope_scaling == there.rope_scaling or here.head_dim != there.head_dim:
        return
    if here.rope_theta != there.rope_theta:  # the rotations differ for this reason
        here = LlamaConfig(**vars(here) | {"rope_theta": there.rope_theta})
    positions = torch.arange(there.max_position_embeddings)[None]
    rotations = zip(make_rope(here)(positions), make_rope(there)(positions), strict=True)
    if any(not torch.allclose(x, y, atol=CLOSE * len(positions[0]), rtol=0) for x, y in rotations):
        scalings = [json.dumps(each.rope_scaling) for each in (here, there)]
        yield finding("llama.rope.scaling", f"{scalings[0]} in the file and {scalings[1]} in the checkpoint")


def differing_tokens(file: GgufHeader, here: LlamaConfig, there: LlamaConfig) -> Iterator[Finding]:
    for role, key in TOKENS.items():
        value, expected = (getattr(each, f"{role}_token_id") for each in (here, there))
        if value not in (expected if isinstance(expected, list) else [expected]):
            yield finding(key, f"{value} in the file and {expected} in the checkpoint")


def differing_vocabulary(file: GgufHeader, folder: Path) -> Iterator[Finding]:
    """The pieces, their scores and the BOS rule against the checkpoint's tokenizer."""
    keys = file.keys
    pieces: list[str] = keys.get("tokenizer.ggml.tokens", [])
    if not pieces:
        return
    config = read_json(folder / "tokenizer_config.json", missing_ok=True)
    adds_bos = config.get("add_bos_token", True)
    if (value := keys.get("tokenizer.ggml.add_bos_token", True)) != adds_bos:
        yield finding("tokenizer.ggml.add_bos_token", f"{value} in the file and {adds_bos} in the checkpoint")
    if keys.get("tokenizer.ggml.model") != "llama":
        return
    scores: list[float] = keys.get("tokenizer.ggml.scores", [])
    if not scores:
        cause = "it is missing, so llama.cpp merges pieces in another order and gives other ids"
        yield finding("tokenizer.ggml.scores", cause)
    if (folder / "tokenizer.model").is_file():
        added = {int(i) for i in config.get("added_tokens_decoder", {})}
        yield from differing_pieces(pieces, scores, folder / "tokenizer.model", added)


def differing_pieces(pieces: list[str], scores: list[float], model_file: Path, added: set[int]) -> Iterator[Finding]:
    """The pieces and scores of ordinary ids. The converter gives other scores to added tokens."""
    import sentencepiece

    processor: Any = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    ids = [
        i
        for i in range(processor.get_piece_size())
        if not (processor.is_control(i) or processor.is_unknown(i) or i in added)
    ]
    pieces = [piece.replace(" ", "▁") for piece in pieces]  # user-defined ones have spaces in GGUF
    expected: tuple[tuple[str, list[Any], Any], ...] = (
        ("tokenizer.ggml.tokens", pieces, processor.id_to_piece),
        ("tokenizer.ggml.scores", scores, processor.get_score),
    )
    for key, values, of_id in expected:
        wrong = [i for i in ids if i < len(values) and values[i] != of_id(i)]
        if wrong:
            cause = f"{values[wrong[0]]!r} at id {wrong[0]} in the file and {of_id(wrong[0])!r} in {model_file.name}"
            yield finding(key, f"{cause}; {len(wrong)} ids differ")
