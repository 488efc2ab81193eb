"""How ggml rounds the inputs of a product. The expected numbers are written out by hand, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import quants
from helpers.gguf_files import DECODED_ONLY, TYPES, numbers_of, tensors_of, write_gguf
from helpers.llamacpp_faults import SHAPE
from helpers.reference import save_random

from llama_jp.parity.llamacpp import rounding
from llama_jp.parity.llamacpp.rounding import INPUT_TYPES, InputRounding, input_rounding

X = torch.randn(2, 3, 512, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 2, 512)


def by_hand_q8_0(x):
    """quantize_row_q8_0 of ggml's x86 kernels, in float32 numbers one by one."""
    out = np.empty_like(x)
    for start in range(0, len(x), 32):
        block = x[start : start + 32]
        most = np.float32(np.abs(block).max())
        scale = np.float32(np.float16(most / np.float32(127)))
        factor = np.float32(127) / most if most else np.float32(0)
        out[start : start + 32] = [scale * np.rint(number * factor) for number in block]
    return out


def by_hand_q8_k(x):
    """quantize_row_q8_K_ref."""
    out = np.empty_like(x)
    for start in range(0, len(x), 256):
        block = x[start : start + 256]
        most = block[np.abs(block).argmax()]
        factor = np.float32(-127) / most if most else np.float32(0)
        whole = [min(127, np.rint(factor * number)) for number in block]
        out[start : start + 256] = [number / factor if most else 0 for number in whole]
    return out


@pytest.mark.parametrize(("input_type", "by_hand"), [("Q8_0", by_hand_q8_0), ("Q8_K", by_hand_q8_k)])
def test_blocks_are_rounded_as_ggml_does(monkeypatch, input_type, by_hand):
    """Guards against a reciprocal in place of a quotient, and against halves away from zero: few numbers differ."""
    monkeypatch.setattr(rounding.platform, "machine", lambda: "x86_64")
    x = torch.cat((X, torch.zeros(2, 3, 256)), -1)
    expected = torch.from_numpy(np.stack([by_hand(row) for row in x.flatten(0, 1).numpy()])).view(x.shape)
    assert torch.equal(InputRounding(input_type)(x), expected)


def test_heads_are_joined_before_they_are_rounded():
    """Guards against blocks that end with a head: heads of 16 numbers share a scale with their neighbour."""
    heads = X[..., :64].unflatten(-1, (4, 16)).transpose(1, 2)  # (B, H, T, D)
    rounded = InputRounding("Q8_0")(heads)
    assert torch.equal(rounded.transpose(1, 2).flatten(2), InputRounding("Q8_0")(X[..., :64]))


@pytest.mark.parametrize(("input_type", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_16_bits_are_rounded_to_nearest(input_type, dtype):
    assert torch.equal(InputRounding(input_type)(X), X.to(dtype).float())


def test_every_type_that_loads_has_a_rounding_or_is_refused(tmp_path):
    """Guards against a product that is judged without the rounding of its inputs, and so called wrong."""
    folder = save_random(tmp_path / "folder", 1, **SHAPE | {"hidden_size": 256, "intermediate_size": 256})
    refused = set()
    for kind in TYPES:
        if kind in DECODED_ONLY and kind not in (Type.Q4_K, Type.NVFP4):
            continue
        file = write_gguf(folder, tmp_path / f"{kind.name}.gguf", {"blk.0.ffn_up.weight": kind})
        weights = tensors_of(file)
        assert input_rounding(weights["layers.0.mlp.down_proj.weight"], None) is None  # F32
        try:
            found = input_rounding(weights["layers.0.mlp.up_proj.weight"], None)
        except ValueError as error:
            assert f"stores blk.0.ffn_up.weight as {kind.name}" in str(error)
            refused.add(kind.name)
            continue
        assert (found is None) == (kind == Type.F32)
        assert found is None or found.input_type == INPUT_TYPES[kind.name]
    assert refused == {"NVFP4"}


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q5_1])
def test_offsets_are_multiplied_by_a_rounded_sum(tmp_path, kind):
    """Guards against offsets in the file's order of rows, and against the exact sum, which is 1,000 bounds away."""
    folder = save_random(tmp_path / "folder", 1, **SHAPE)
    file = write_gguf(folder, tmp_path / "model.gguf", kind)
    tensor = tensors_of(file)["layers.0.self_attn.k_proj.weight"]
    weight = numbers_of(file)["layers.0.self_attn.k_proj.weight"]
    found = input_rounding(tensor, SHAPE["num_key_value_heads"])
    x = X[0, :, :64]
    columns = torch.tensor([0, 5, 31])
    blocks = weight.unflatten(-1, (2, 32))
    unit = (blocks - found.offsets[..., None]).abs()  # multiples of a scale, from 0 up
    assert torch.allclose(unit, unit.round(decimals=7)) and float(unit.amin(-1).abs().max()) < 1e-6
    scale, whole = rounding.q8_0_blocks(x)
    product = torch.zeros(3, 3, dtype=torch.float64)
    for block in range(2):
        part = (blocks[columns, block] - found.offsets[columns, block, None]).double()
        product += (scale[:, block].half().double()[:, None] * whole[:, block].double()) @ part.T
        rounded_sum = (scale[:, block] * whole[:, block].sum(-1)).half().double()
        product += rounded_sum[:, None] * found.offsets[columns, block].double()
    expected = found(x[None])[0].double() @ weight[columns].double().T + found.remainder(x, columns)[0]
    assert torch.allclose(expected, product, rtol=1e-12, atol=1e-9)


def test_parts_that_cancel_are_terms_of_the_sum():
    """Guards against a right llama.cpp called wrong: SmolLM2's largest activations meet weights near zero."""
    offsets = torch.full((1, 1), -0.5)
    weight = torch.zeros(1, 32)  # 8 steps of 1 / 16 and the offset cancel
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    x[:, 7] = 5000.0
    rounded = InputRounding("Q8_1", offsets)(x[None])[0]
    _, terms = InputRounding("Q8_1", offsets).remainder(x, torch.tensor([0]))
    offset_part = (rounded.sum(-1, keepdim=True) * offsets[0]).abs()
    assert torch.all(rounded.abs() @ weight.abs().T + terms >= 2 * 0.999 * offset_part)
    assert torch.all(terms <= 2 * 1.001 * offset_part)  # and nothing beyond, which would hide faults


def test_the_rounding_is_that_of_gguf_py_up_to_halves():
    """An independent check: gguf-py multiplies by the reciprocal of the scale and rounds halves away from zero."""
    x = X.flatten(0, 1)
    other = quants.dequantize(quants.quantize(x.numpy(), Type.Q8_0), Type.Q8_0)
    mine = InputRounding("Q8_0")(x[None])[0]
    step = x.unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True) / 127
    distance = (mine - torch.from_numpy(other)).abs().unflatten(-1, (-1, 32)) / step
    assert float(distance.max()) < 1.01 and float((distance > 0.01).float().mean()) < 1e-3
