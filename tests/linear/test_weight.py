"""The stored numbers: int4 packing, joined weights, and the convention of torch's int4 kernel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llama_jp.checkpoint.load import load_model
from llama_jp.linear.scheme import Scheme
from llama_jp.linear.weight import Weight, dequantize, join, pack_int4, unpack_int4
from llama_jp.quantization.rounding import round_weight


def test_pack_and_unpack_are_inverse():
    q = torch.randint(0, 16, (5, 64), dtype=torch.uint8)
    assert torch.equal(unpack_int4(pack_int4(q)), q)


@pytest.mark.parametrize("scheme", [None, Scheme(8), Scheme(4, 32)], ids=str)
def test_join_and_split_are_inverse(scheme):
    """Guards against tensors of one layer that end up in another: the layers have different numbers of outputs."""
    matrices = [torch.randn(outputs, 64) for outputs in (6, 2, 3)]
    weights = [Weight(matrix) if scheme is None else round_weight(scheme, "x", matrix) for matrix in matrices]
    joined = join(weights)
    values = torch.cat([dequantize(weight, torch.float32) for weight in weights])
    assert torch.equal(dequantize(joined, torch.float32), values)
    for weight, part in zip(weights, joined.split([6, 2, 3]), strict=True):
        assert weight.tensors().keys() == part.tensors().keys()
        assert all(torch.equal(tensor, part.tensors()[name]) for name, tensor in weight.tensors().items())


def test_only_int4_has_groups():
    assert round_weight(Scheme(4, 32), "x", torch.randn(3, 64)).group_size == 32
    with pytest.raises(ValueError, match="the weight is int8, and only an int4 weight has groups"):
        _ = round_weight(Scheme(8), "x", torch.randn(3, 64)).group_size


def test_int4_has_the_convention_of_torchs_kernel(quantized_demo):
    """With the same integers, scales and zeros the kernel's result differs by rounding only."""
    linear = load_model(quantized_demo["rtn"], dtype="bfloat16", device="cpu").layers[1].mlp.down_proj
    x = torch.randn(3, linear.in_features, generator=torch.Generator().manual_seed(0)).bfloat16()
    packed = torch._convert_weight_to_int4pack_for_cpu(unpack_int4(linear.weight).int(), 1)
    numbers = torch.stack((linear.scale, linear.zero), -1).transpose(0, 1).contiguous()  # (K / g, N, 2)
    product = torch._weight_int4pack_mm_for_cpu(x, packed, linear.group_size, numbers)
    exact = F.linear(x.double(), linear.dequantize(torch.float64))
    assert (product.double() - exact).abs().max() < 0.01 * exact.abs().max()  # measured: 0.003, bfloat16's rounding
