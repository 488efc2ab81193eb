"""A bias that all elements share is a bug, also if every single element is within the bound of rounding."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.compared_models import IDS, here, reference
from helpers.faults import eager_with, rewritten

from llama_jp.model import attend_sdpa, repeat_heads
from llama_jp.parity import compare
from llama_jp.parity.judge.bias import coefficient, errors_of, factor_or_offset

ATTENTION = "layers.1.self_attn"


def after(operation, change):
    """A fault: change the output of a module."""

    def make(model):
        model.get_submodule(operation).register_forward_hook(lambda module, args, out: change(out))

    return make


def attending(attend):
    def make(model):
        model.layers[1].self_attn.attend = attend

    return make


def head_scaled(q, k, v, mask):
    out = attend_sdpa(q, k, v, mask).clone()
    out[:, 1] *= 1.01
    return out


def truncated(model):
    """A cast that drops the lower bits, in place of rounding."""
    layer = model.layers[1].mlp.up_proj

    def forward(x):
        y = F.linear(x.float(), layer.weight.float())
        return (y.view(torch.int32) & -(1 << 16)).view(torch.float32).bfloat16()

    layer.forward = forward


def queries_scaled(model):
    old = "q, k = rotate(q, *rotation), rotate(k, *rotation)"
    return rewritten(model, old, "q, k = rotate(q, *rotation) * 1.005, rotate(k, *rotation)")


BIASES = {
    "q × 1.005": (after(f"{ATTENTION}.q_proj", lambda q: q * 1.005), f"{ATTENTION}.q_proj", "1.006 times"),
    "v × 0.995": (after(f"{ATTENTION}.v_proj", lambda v: v * 0.995), f"{ATTENTION}.v_proj", "0.99"),
    "a head × 1.01": (attending(head_scaled), f"{ATTENTION}.attn_output", "head 1"),
    "q × 1.005 in fused attention": (
        attending(lambda q, k, v, mask: attend_sdpa(q * 1.005, k, v, mask)),
        f"{ATTENTION}.attn_output",
        "the scores are 1.00",
    ),
    "q × 1.005 after the rotation": (queries_scaled, "layers.0.self_attn.q_rot", "1.00"),
    "logits × 1.005": (after("lm_head", lambda logits: logits * 1.005), "lm_head", "1.006 times"),
    "a cast that truncates": (truncated, "layers.1.mlp.up_proj", "0.99"),
}


@pytest.mark.parametrize("name", BIASES)
def test_a_bias_in_bfloat16_is_a_bug_at_its_operation(folder, name):
    make, operation, cause = BIASES[name]
    for mode in ("whole", "chunks"):
        model = here(folder, "bfloat16")
        model = make(model) or model
        found = compare(model, reference(folder, "bfloat16"), IDS, mode)
        assert found.bug is not None and found.bug.operation == operation
        assert cause in found.bug.cause


def online_attention(q, k, v, mask):
    """Attention over blocks of four keys, as in flash attention."""
    T, S = q.shape[2], k.shape[2]
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    visible = torch.ones(T, S, dtype=torch.bool).tril(S - T)[None, None] if mask is None else mask
    largest, total, out = torch.full((*q.shape[:3], 1), -1e30), torch.zeros(*q.shape[:3], 1), torch.zeros(q.shape)
    for start in range(0, S, 4):
        block = slice(start, start + 4)
        scores = (q @ k[:, :, block].transpose(2, 3)).float() * q.shape[3] ** -0.5
        scores = scores.masked_fill(~visible[..., block], -math.inf)
        higher = torch.maximum(largest, scores.amax(-1, keepdim=True))
        p, shrink = (scores - higher).exp(), (largest - higher).exp()
        total, out = total * shrink + p.sum(-1, keepdim=True), out * shrink + (p.to(q.dtype) @ v[:, :, block]).float()
        largest = higher
    return (out / total).to(q.dtype)


def scaled_before_the_product(q, k, v, mask):
    return eager_with(scale=1.0)(q * q.shape[3] ** -0.5, k, v, mask)


def linear_in_float64(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            weight = module.weight.double()
            module.forward = lambda x, weight=weight: F.linear(x.double(), weight).to(x.dtype)


def activation_rounded_once(model):
    for layer in model.layers:
        mlp = layer.mlp
        layer.mlp.forward = lambda x, mlp=mlp: mlp.down_proj(
            (F.silu(mlp.gate_proj(x).float()) * mlp.up_proj(x).float()).to(x.dtype)
        )


def attending_everywhere(attend):
    def make(model):
        for layer in model.layers:
            layer.self_attn.attend = attend

    return make


RIGHT = {
    "attention in blocks": attending_everywhere(online_attention),
    "queries scaled first": attending_everywhere(scaled_before_the_product),
    "products in float64": linear_in_float64,
    "activation rounded once": activation_rounded_once,
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_right_formulas_have_no_bias(folder, name, dtype):
    """Guards against a false alarm for a kernel that rounds at other places."""
    for mode in ("whole", "ragged"):
        model = here(folder, dtype)
        RIGHT[name](model)
        assert compare(model, reference(folder, dtype), IDS, mode).verdict in ("equal", "rounding")


def test_roundings_have_no_common_factor_and_no_offset():
    """The rate of false alarms for independent roundings: none in 2,000."""
    generator = torch.Generator().manual_seed(0)
    for size in (12, 50, 400, 4000):
        for _ in range(500):
            exact = torch.randn(size, 1, generator=generator, dtype=torch.float64)
            noisy = (exact + exact * 2**-8 * (torch.rand(size, 1, generator=generator) - 0.5)).bfloat16()
            errors = errors_of(noisy, exact.bfloat16(), torch.bfloat16, shared_roundings=False)
            assert errors is None or factor_or_offset(errors) is None


def errors_with_chance(chance: float, n: int = 100):
    """The errors of n elements, with a factor that roundings alone have with this probability."""
    r2 = 1 - chance ** (2 / (n - 1))
    signs = torch.tensor([1.0, -1.0]).repeat(n // 2)[:, None]
    error = 2**-8 * (1 + signs * math.sqrt(1 / r2 - 1))  # its squared correlation with ones is r2
    right = torch.ones(n, 1, dtype=torch.float64)
    return errors_of(right + error, right, torch.bfloat16, shared_roundings=False)


@pytest.mark.parametrize(("chance", "is_bias"), [(0.9e-7, True), (1.1e-7, False)])
def test_the_chance_of_a_false_alarm_decides(chance, is_bias):
    """Guards against a looser CHANCE, which calls roundings a bug, and a stricter one, which misses small factors."""
    for n in (40, 100, 1000):
        assert (factor_or_offset(errors_with_chance(chance, n)) is not None) == is_bias


@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.bfloat16, 2**-9), (torch.float16, 2**-12), (torch.float32, 2**-22)]
)
def test_the_least_factor_that_is_a_bias(dtype, least):
    """Half a unit roundoff in 16 bits, four in float32: other right formulas have less."""
    right = torch.randn(50, 16, dtype=torch.float64)
    for factor in (1.02, -1.02, 0.98, -0.98):
        errors = errors_of(right * (1 + factor * least), right, dtype, shared_roundings=False)
        assert (coefficient(errors, right) is not None) == (abs(factor) > 1)


def test_a_factor_of_few_elements_is_no_bias():
    """Guards against a bias from numbers that can have one sign by chance."""
    for n in (11, 12):
        right = torch.ones(n, 1, dtype=torch.float64)
        found = coefficient(errors_of(right * 1.1, right, torch.bfloat16, shared_roundings=False), right)
        assert (found is not None) == (n == 12)


def test_a_vector_without_effect_does_not_hide_the_others():
    """Guards against the noise of vectors on which a derivative has next to no effect."""
    generator = torch.Generator().manual_seed(0)
    right = torch.randn(60, 16, generator=generator, dtype=torch.float64)
    derivative = torch.randn(60, 16, generator=generator, dtype=torch.float64)
    derivative[:20] *= 1e-3
    noise = 2**-8 * (torch.rand(60, 16, generator=generator, dtype=torch.float64) - 0.5) * right
    for factor in (0.005, 0.0):
        errors = errors_of(right + noise + factor * derivative, right, torch.bfloat16, shared_roundings=True)
        assert (coefficient(errors, derivative) is not None) == (factor > 0)
