"""GGUF files of random shapes, types, containers and ropes against gguf-py's numbers in transformers, to the bit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGUFEndian
from gguf import GGMLQuantizationType as Type
from helpers.checkpoint_files import edit_config
from helpers.gguf_files import HALVES, TYPES, as_version_1, reference, write_gguf
from helpers.reference import SEED, SMALL, save_random

from llama_jp.checkpoint.load import load_model
from llama_jp.cli import main

IDS = torch.arange(2, 34).view(2, 16)
CONTAINERS = ("version 3", "version 2", "version 1", "split", "big-endian", "big-endian split")


def random_shape(kind: Type, rng: random.Random) -> dict:
    """Sizes of a model whose rows are whole blocks of a type."""
    block = GGML_QUANT_SIZES[kind][0]
    key_heads = rng.choice([1, 2, 3])
    heads, head_dim = key_heads * rng.choice([1, 2, 4]), rng.choice([8, 16, 32, 64])
    while heads * head_dim % block:
        head_dim *= 2
    return SMALL | {
        "vocab_size": rng.randrange(40, 130),
        "hidden_size": block * heads * (1 if block > 1 else rng.choice([4, 8])),
        "intermediate_size": block * rng.choice([1, 2, 3]) if block > 1 else rng.choice([20, 36, 100]),
        "num_hidden_layers": rng.choice([1, 2]),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": head_dim,
        "rms_norm_eps": rng.choice([1e-5, 1e-6, 1e-3]),
        "attention_bias": rng.random() < 0.4,
        "mlp_bias": rng.random() < 0.4,
        "tie_word_embeddings": rng.random() < 0.4,
    }


def random_rope(head_dim: int, rng: random.Random) -> tuple[dict, dict, torch.Tensor | None]:
    """A rope as keys of a GGUF file, as `rope_parameters` of config.json, and as divisors."""
    theta = rng.choice([500.0, 1e4, 1e6])
    keys, rope = {"llama.rope.freq_base": theta}, {"rope_theta": theta}
    kind, scaling = rng.choice(["default", "linear", "old linear", "yarn", "divisors"]), "llama.rope.scaling."
    if kind == "divisors":
        divisors = torch.rand(head_dim // 2) * 8 + 0.5
        lists = {"short_factor": divisors.tolist(), "long_factor": divisors.tolist(), "attention_factor": 1.0}
        return keys, rope | lists | {"rope_type": "longrope", "original_max_position_embeddings": 128}, divisors
    if kind == "linear":
        keys |= {f"{scaling}type": "linear", f"{scaling}factor": 2.5}
    if kind == "old linear":
        keys |= {"llama.rope.scale_linear": 2.5}
    if "linear" in kind:
        return keys, rope | {"rope_type": "linear", "factor": 2.5}, None
    if kind == "yarn":
        keys |= {f"{scaling}type": "yarn", f"{scaling}factor": 4.0, f"{scaling}original_context_length": 32}
        return keys, rope | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, None
    return keys, rope | {"rope_type": "default"}, None


def write_container(folder: Path, name: str, file: Path, **arguments) -> Path:
    """Write a file in a container, and return the one to open."""
    options = {"split_max_tensors": 5} if "split" in name else {}
    options |= {"endianess": GGUFEndian.BIG} if "big" in name else {}
    write_gguf(folder, file, **arguments, **options)
    if name == "version 1":
        file.write_bytes(as_version_1(file))
    if name == "version 2":
        file.write_bytes(file.read_bytes()[:4] + b"\x02" + file.read_bytes()[5:])
    return sorted([*file.parent.glob("m*.gguf")])[-1]


@pytest.mark.slow
@pytest.mark.parametrize("repeat", range(5))
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_random_files(tmp_path, capsys, kind, repeat):
    """Guards against two settings that are right alone and wrong together; `info` names every file."""
    rng = random.Random(f"{SEED} {kind.name} {repeat}")
    torch.manual_seed(rng.randrange(2**31))
    shape = random_shape(kind, rng)
    folder = save_random(tmp_path / "original", rng.randrange(2**31), torch.float32, **shape)
    keys, rope, divisors = random_rope(shape["head_dim"], rng)
    drop = ("llama.attention.head_count_kv",) if shape["num_attention_heads"] == shape["num_key_value_heads"] else ()
    ordered = kind in (Type.F32, Type.F16, *HALVES)
    container = rng.choice([name for name in CONTAINERS if ordered or "big" not in name])
    further = {} if divisors is None else {"rope_freqs.weight": divisors.numpy()}
    arguments = {"kind": kind, "keys": keys, "drop": drop, "further": further}
    for name in ("judge", "ours"):
        (tmp_path / name).mkdir()
    judged = write_gguf(folder, tmp_path / "judge" / "m.gguf", **arguments)
    file = write_container(folder, container, tmp_path / "ours" / "m.gguf", **arguments)
    edit_config(folder, rope_parameters=rope)
    with torch.no_grad():
        ours, theirs = load_model(file, "float32", "cpu")(IDS), reference(folder, judged)(IDS).logits
    assert torch.equal(ours, theirs), (container, rope, shape)
    assert main(["info", str(file)]) == 0
    assert kind.name in capsys.readouterr().out
