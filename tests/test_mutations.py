"""Can the parity tests fail? Each mistake below is made in the model's source, one at a time, and must be found."""

from __future__ import annotations

import inspect
import sys
import types

import pytest
import torch
from helpers.reference import both, first_difference, theirs

import llama_jp.cache
import llama_jp.model
import llama_jp.rope
from llama_jp.checkpoint.load import load_model

# The name of a mistake: the file, what to replace, and by what. tests/parity/test_checkout.py makes the same ones.
MISTAKES = {
    "eps times ten": ("model", "config.rms_norm_eps, norm)", "config.rms_norm_eps * 10, norm)"),
    "theta times two": ("rope", "frequencies(config.rope_theta,", "frequencies(config.rope_theta * 2,"),
    "halves swapped": ("model", "torch.cat((-second, first), dim=-1)", "torch.cat((second, -first), dim=-1)"),
    "neighbours as pairs": (
        "model",
        "first, second = x.chunk(2, dim=-1)",
        "first, second = x[..., ::2], x[..., 1::2]",
    ),
    "scale dropped (eager)": ("model", "* q.shape[3] ** -0.5 ", ""),
    "scale dropped (sdpa)": ("model", "scale=D**-0.5", "scale=1.0"),
    "mask shifted by one": ("model", "visible = index <= queries[:, None]", "visible = index <= queries[:, None] + 1"),
    "padding not masked": (
        "model",
        "(visible | (index == queries[:, None]))[:, None]",
        "(index <= queries[:, None]).expand(len(mask), 1, -1, -1)",
    ),
    "plain causal mask shifted (eager)": ("model", ".tril(S - T)", ".tril(S - T + 1)"),
    "not causal (sdpa)": ("model", "is_causal=causal", "is_causal=False"),
    "gate and up exchanged": (
        "model",
        "F.silu(self.gate_proj(x)) * self.up_proj(x)",
        "F.silu(self.up_proj(x)) * self.gate_proj(x)",
    ),
    "key heads in the wrong order": (
        "model",
        "x[:, :, None].expand(B, K, heads // K, S, D)",
        "x[:, None].expand(B, heads // K, K, S, D)",
    ),
    "silu to gelu": ("model", "F.silu(", "F.gelu("),
    "norm weight before the cast": ("model", "weight * y.to(x.dtype)", "(weight * y).to(x.dtype)"),
    "norm in the weights' dtype": ("model", "y = x.to(torch.float32)", "y = x"),
    "softmax of the keys' axis lost": ("model", "scores.softmax(-1,", "scores.softmax(-2,"),
    "angles in bfloat16": ("rope", "angles.cos() * scale", "angles.bfloat16().cos() * scale"),
    "position off by one behind a cache": (
        "model",
        "return queries[None], None",
        "return queries[None] + (S > T), None",
    ),
    "padding counted as positions": (
        "model",
        "(visible.sum(-1) - 1).clamp(min=0)",
        "queries[None].expand(len(mask), -1)",
    ),
    "residual forgotten": ("model", "return x + self.mlp(", "return self.mlp("),
    "first norm used twice": (
        "model",
        "self.mlp(self.post_attention_layernorm(x))",
        "self.mlp(self.input_layernorm(x))",
    ),
    "last norm forgotten": ("model", "return self.norm(x)\n", "return x\n"),
    "first position instead of the last": ("model", "x[:, -1:] if last_only", "x[:, :1] if last_only"),
    "query not rotated": ("model", "q, k = rotate(q, *rotation), rotate(k, *rotation)", "k = rotate(k, *rotation)"),
    "cache written one too late": (
        "cache",
        "self.keys[:, :, self.start : end] = k",
        "self.keys[:, :, self.start : end] = k.roll(1, 2)",
    ),
    "cache forgets its first key": (
        "cache",
        "keys, values = self.keys[:, :, :end], self.values[:, :, :end]",
        "keys, values = self.keys[:, :, :end].roll(1, 2), self.values[:, :, :end]",
    ),
    "two heads exchanged": ("model", "mixed.transpose(1, 2)", "mixed[:, [1, 0, 2, 3]].transpose(1, 2)"),
    "heads of the keys in reverse": (
        "model",
        "k = self.k_proj(x).view(heads)",
        "k = self.k_proj(x).view(heads).flip(2)",
    ),
    "values of the wrong head": ("model", "v = self.v_proj(x).view(heads)", "v = self.v_proj(x).view(heads).flip(2)"),
    "keys not rotated": ("model", "rotate(q, *rotation), rotate(k, *rotation)", "rotate(q, *rotation), k"),
    "values rotated": (
        "model",
        "if cache is not None:\n            k, v =",
        "v = rotate(v, *rotation)\n        if cache is not None:\n            k, v =",
    ),
    "attention without its residual": ("model", "x = x + self.self_attn(", "x = self.self_attn("),
    "MLP without its norm": ("model", "self.mlp(self.post_attention_layernorm(x))", "self.mlp(x)"),
    "embedding scaled": ("model", "x = self.embed_tokens(ids)", "x = self.embed_tokens(ids) * 1.001"),
    "last layer left out": ("model", "enumerate(self.layers)", "enumerate(self.layers[:-1])"),
    "layers in reverse": ("model", "enumerate(self.layers)", "enumerate(list(self.layers)[::-1])"),
    "head takes the embedding": (
        "model",
        "self.lm_head(x[:, -1:] if last_only else x)",
        "F.linear(x, self.embed_tokens.weight)",
    ),
    "sum for the mean": ("model", ".mean(-1, keepdim=True)", ".sum(-1, keepdim=True)"),
    "relu for silu": ("model", "F.silu(", "F.relu("),
    "sine with the other sign": ("model", "dim=-1) * sin", "dim=-1) * -sin"),
    "keys in the place of the values": (
        "cache",
        "self.values[:, :, self.start : end] = v",
        "self.values[:, :, self.start : end] = k",
    ),
    "positions from one": ("model", "return queries[None], None", "return queries[None] + 1, None"),
}


def mutant(file: str, old: str, new: str) -> type[llama_jp.model.Llama]:
    """`Llama` from source in which one thing is wrong."""
    classes = {}
    for name, original in (("cache", llama_jp.cache), ("rope", llama_jp.rope), ("model", llama_jp.model)):
        source = inspect.getsource(original)
        if name == file:
            assert source.count(old) >= 1, f"{old!r} is not in {name}.py any more; bring this list up to date"
            source = source.replace(old, new)
        module = types.ModuleType(f"llama_jp.mutant_{name}")
        module.__package__ = "llama_jp"
        sys.modules[module.__name__] = module  # dataclasses look themselves up
        exec(compile(source, f"mutant {name}.py", "exec"), module.__dict__)
        classes[name] = module
    classes["model"].Cache = classes["cache"].Cache
    classes["model"].make_rope = classes["rope"].make_rope
    return classes["model"].Llama


def first_found(folders, model_class) -> str | None:
    """The first thing the comparison finds, over both kinds of heads, both attentions and two dtypes."""
    for folder in folders:
        for dtype in (torch.float32, torch.bfloat16):
            for attention in ("sdpa", "eager"):
                our = load_model(folder, dtype=dtype, device="cpu", attention=attention, model_class=model_class)
                try:
                    difference = first_difference(our, theirs(folder, dtype, attention), seed=6)
                except (AssertionError, RuntimeError) as error:
                    difference = str(error)
                if difference:
                    return difference
    return None


def test_the_comparison_is_silent_without_a_mistake(small, small_bf16):
    assert first_found([small, small_bf16], mutant("model", "def ", "def ")) is None


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_noticed(small, small_bf16, mistake):
    assert first_found([small, small_bf16], mutant(*MISTAKES[mistake])), f"nothing noticed: {mistake}"


def test_a_wrong_config_is_noticed(small):
    """eps and theta come from config.json, not from code: another value there gives other logits."""
    our, their = both(small, torch.float32)
    for layer in our.layers:
        layer.input_layernorm.eps *= 10
    assert first_difference(our, their, seed=7)
