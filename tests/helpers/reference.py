"""transformers as the reference: random checkpoints, both models from the same files, and the calls to compare."""

from __future__ import annotations

import inspect
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from torch import Tensor

from llama_jp.bridge import CACHE
from llama_jp.checkpoint.load import load_model
from llama_jp.environment import describe_environment

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# From 5.24 on, transformers sorts the candidates that beam search draws, so its tokens are others than those of 5.23.
SORTS_SAMPLED_BEAMS = ".sort(" in inspect.getsource(transformers.GenerationMixin._get_top_k_continuations)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ATTENTIONS = ["sdpa", "eager"]
CONTEXT = 48  # max_position_embeddings of the random models; texts go beyond it
ROPES = {
    "default": {},
    "linear": {"factor": 2.5},
    "dynamic": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {"factor": 3.0, "original_max_position_embeddings": 16},  # and two lists, as long as half a head
}

# Every letter of the shapes has a different size: C=24, H=6, K=2, D=8, F=40, V=96.
SMALL = {
    "vocab_size": 96,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}

# New numbers in every run; LLAMA_JP_SEED=… repeats a run that failed. The processes of `pytest -n` inherit the seed.
SEED = int(os.environ.setdefault("LLAMA_JP_SEED", str(random.randrange(10**6))))


def random_config(rng: random.Random, rope_type: str | None = None) -> dict:
    """Keys for config.json: a small model in which as much as possible is unlike any other number."""
    kv_heads = rng.choice([1, 2, 3, 4])
    heads = kv_heads * rng.choice([1, 1, 2, 3])
    head_dim = rng.choice([4, 6, 8, 16, 32, 64, 128])
    hidden = heads * rng.choice([4, 8, 10, head_dim])
    rope_type = rope_type or rng.choice(list(ROPES))
    lists = {}
    if rope_type == "longrope":
        lists = {f"{text}_factor": [rng.uniform(1, 5) for _ in range(head_dim // 2)] for text in ("short", "long")}
    return {
        "vocab_size": rng.randrange(40, 300),
        "hidden_size": min(hidden, heads * 32),
        "intermediate_size": rng.randrange(16, 200),
        "num_hidden_layers": rng.randrange(1, 4),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": rng.choice([1e-6, 1e-5, 1e-3]),
        "max_position_embeddings": CONTEXT,
        "attention_bias": rng.random() < 0.3,
        "mlp_bias": rng.random() < 0.3,
        "tie_word_embeddings": rng.random() < 0.3,
        "rope_parameters": {
            "rope_type": rope_type,
            "rope_theta": rng.choice([500.0, 10000.0, 1e6]),
            **ROPES[rope_type],
            **lists,
        },
    }


def save_random(folder: Path, seed: int, dtype: torch.dtype = torch.float16, **config) -> Path:
    """Random weights of a shape, saved by transformers. Norms and biases are random too, so each matters."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config, initializer_range=0.15))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(1.0 if "norm" in name else 0.0, 0.2)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=1, eos_token_id=None, pad_token_id=0, max_length=None
    )
    model.to(dtype).save_pretrained(folder)
    return folder


def publish(folder: Path, out: Path, shards: int = 2) -> Path:
    """The same checkpoint in the form in which ELYZA published its own: `.bin` shards with an index, and old keys.

    Every layer also carries `rotary_emb.inv_freq`, an unused float32 buffer; the index counts it.
    """
    out.mkdir(parents=True, exist_ok=True)
    raw = json.loads((folder / "config.json").read_text())
    rope = raw.pop("rope_parameters")
    raw["torch_dtype"] = raw.pop("dtype")
    raw["transformers_version"] = "4.30.2"
    raw["pretraining_tp"] = 1
    raw["rope_scaling"] = {k: v for k, v in rope.items() if k not in ("rope_theta", "rope_type")} or None
    if raw["rope_scaling"]:
        raw["rope_scaling"]["type"] = rope["rope_type"]
    if rope["rope_theta"] != 10000.0:
        raw["rope_theta"] = rope["rope_theta"]
    if raw["head_dim"] * raw["num_attention_heads"] == raw["hidden_size"]:
        del raw["head_dim"]
    for key in ("attention_bias", "mlp_bias"):
        if not raw[key]:
            del raw[key]
    (out / "config.json").write_text(json.dumps(raw, indent=2))

    with torch.no_grad():
        state = transformers.LlamaForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    for layer in range(raw["num_hidden_layers"]):
        state[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = torch.rand(rope.get("dim", 8))
    names = sorted(state)
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        torch.save({name: state[name].clone() for name in part}, out / file)
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        total = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (out / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return out


def theirs(folder: Path, dtype: torch.dtype, attention: str = "sdpa") -> transformers.LlamaForCausalLM:
    return transformers.LlamaForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)


def both(folder: Path, dtype: torch.dtype, attention: str = "sdpa", **ours):
    """The same checkpoint, loaded by both."""
    return load_model(folder, dtype=dtype, device="cpu", attention=attention, **ours), theirs(folder, dtype, attention)


def least_equal(dtype: str) -> float:
    """The share of log-probabilities that are bit-identical in batches of other sizes, in a batch-invariant model.

    Narrow products of several rows and of one differ in one element of thousands: in bfloat16, and in float16 on a CPU
    that multiplies it (an Intel with AMX).
    """
    native_float16 = "avx512_fp16" in describe_environment()["features"]
    return 0.98 if dtype == "bfloat16" or (dtype == "float16" and native_float16) else 1


def positions_of(mask: Tensor) -> Tensor:
    """transformers' positions for a mask (`_prepare_position_ids_for_generation`)."""
    return (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)


@torch.no_grad()
def every_call(our, their, seed: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Every kind of call, as (its description, our logits, their logits).

    Whole sequences, the last position only, chunks of any length against a cache, and left-padded batches with steps
    after them.
    """
    generator = torch.Generator().manual_seed(seed)
    rng = random.Random(seed)
    V = our.config.vocab_size

    def forget() -> None:  # transformers' dynamic rope keeps the frequencies of the longest text
        their(torch.zeros(1, 1, dtype=torch.long))

    B, T = rng.randrange(1, 4), rng.randrange(2, CONTEXT + 20)
    ids = torch.randint(0, V, (B, T), generator=generator)
    forget()
    yield "whole sequence", our(ids), their(ids).logits
    forget()
    yield "last position", our(ids, last_only=True), their(ids, logits_to_keep=1).logits

    forget()
    cache, past, begin = our.new_cache(B, T + rng.choice([0, 7])), transformers.DynamicCache(config=their.config), 0
    while begin < T:
        end = begin + rng.choice([1, 1, 2, 5, 20])
        chunk = ids[:, begin:end]
        yield (
            f"tokens {begin} to {end} of {T}",
            our(chunk, cache),
            their(chunk, **{CACHE: past}, use_cache=True).logits,
        )
        begin = end

    forget()
    B = rng.randrange(2, 5)
    lengths = [rng.randrange(1, T + 1) for _ in range(B)]
    lengths[rng.randrange(B)] = T
    mask = torch.stack([torch.arange(T) >= T - length for length in lengths]).long()
    new = torch.randint(0, V, (B, T), generator=generator)
    cache, past = our.new_cache(B, T + 10), transformers.DynamicCache(config=their.config)
    for step in (0, 1, 1, 3, 1):
        if step:
            new = torch.randint(0, V, (B, step), generator=generator)
            mask = torch.cat([mask, torch.ones(B, step, dtype=torch.long)], dim=1)
        visible = mask[:, -new.shape[1] :].bool()
        their_logits = their(
            new,
            attention_mask=mask,
            position_ids=positions_of(mask)[:, -new.shape[1] :],
            **{CACHE: past},
            use_cache=True,
        ).logits
        our_logits = our(new, cache, mask=mask)
        assert our_logits.isfinite().all(), "logits at padding positions are not finite"
        yield f"padded batch, lengths {lengths}, {new.shape[1]} tokens", our_logits[visible], their_logits[visible]


def first_difference(our, their, seed: int) -> str | None:
    """None when all logits are equal to the bit, else a sentence about the first that are not."""
    for name, a, b in every_call(our, their, seed):
        if name.startswith("padded") and b.dtype == torch.float16:
            numbers = ~b.isnan().any(-1)  # transformers has NaN at padding positions in float16, and NaN can spread
            a, b = a[numbers], b[numbers]
        if a.dtype != b.dtype or a.shape != b.shape:
            return f"{name}: {a.dtype} {tuple(a.shape)} against {b.dtype} {tuple(b.shape)}"
        if not torch.equal(a, b):
            return (
                f"{name}: {int((a != b).sum())} of {a.numel()} logits differ, by up to {(a - b).abs().max().item():g}"
            )
    return None
