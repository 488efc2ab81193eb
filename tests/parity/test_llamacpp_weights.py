"""Whether a GGUF file has a checkpoint's weights. These tests need no llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.gguf_files import Type, numbers_of, tensors_of, write_gguf
from helpers.llamacpp_faults import SHAPE, byte, edit, nibble, sub, swap, two_rows, with_bytes, with_weights
from helpers.reference import save_random

from llama_jp.model import Llama
from llama_jp.parity.llamacpp.weights import compare_weights, is_near, replaced_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("folder"), 4, **SHAPE | {"num_hidden_layers": 2})


@pytest.fixture(scope="module")
def checkpoint(folder):
    """The weights that the files should have, in float32."""
    model = Llama.from_pretrained(folder, dtype="float32", device="cpu")
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def compared(file, checkpoint):
    tensors, numbers = tensors_of(file), numbers_of(file)
    numbers.setdefault("lm_head.weight", numbers["embed_tokens.weight"])
    return compare_weights(tensors, numbers, checkpoint)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_a_right_file_is_exact(folder, checkpoint, tmp_path, kind):
    """Guards against an accusation for the rounding of the type, or for the order of rows in the file."""
    check = compared(write_gguf(folder, tmp_path / "model.gguf", Type[kind]), checkpoint)
    assert check.findings == [] and check.near.total() == 0
    assert check.exact.total() == len(checkpoint) == 21 and check.exact.keys() <= {kind, "F32"}
    assert check.notes == [
        f"21 weights of the file are exactly the checkpoint's, rounded to {' and '.join(sorted({kind, 'F32'}))}"
    ]


def test_a_detour_over_16_bits_is_exact(folder, checkpoint, tmp_path):
    """A converter writes F16, and llama-quantize makes Q8_0 of that."""
    in_bfloat16 = {name: x.bfloat16().float() for name, x in checkpoint.items()}

    def change(state):
        for name in state:
            state[name] = state[name].bfloat16().float()

    file = write_gguf(with_weights(folder, tmp_path / "copy", change), tmp_path / "model.gguf", Type.Q4_0)
    vectors = [name for name, x in checkpoint.items() if x.dim() == 1]  # are F32 in the file
    assert compared(file, checkpoint | {name: in_bfloat16[name] for name in vectors}).findings == []


def larger_number(x):
    x.view(-1)[77] += x.abs().max() / 4  # several steps of every type
    return x


CHANGES = {
    "one number": (edit(sub(1, "mlp.up_proj"), larger_number), "layers.1.mlp.up_proj", "has other values"),
    "two rows": (edit(sub(0, "self_attn.v_proj"), two_rows), "layers.0.self_attn.v_proj", "has other values"),
    "exchanged": (
        swap(sub(1, "mlp.gate_proj"), sub(1, "mlp.up_proj")),
        "layers.1.mlp.gate_proj",
        "holds layers.1.mlp.up",
    ),
    "negated": (edit(sub(0, "self_attn.o_proj"), torch.neg), "layers.0.self_attn.o_proj", "is negated"),
    "flipped": (edit(sub(0, "self_attn.q_proj"), lambda x: x.flip(0)), "layers.0.self_attn.q_proj", "upside down"),
}


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_wrong_weight_is_named_with_its_mistake(folder, checkpoint, tmp_path, kind, name):
    change, where, cause = CHANGES[name]
    file = write_gguf(with_weights(folder, tmp_path / "copy", change), tmp_path / "model.gguf", Type[kind])
    findings = compared(file, checkpoint).findings
    assert findings[0].operation == where and cause in findings[0].cause and findings[0].kind == "weights"
    assert len(findings) == (2 if name == "exchanged" else 1)


@pytest.mark.parametrize(("kind", "change"), [("Q8_0", byte(2 + 34 * 20 + 7)), ("Q4_0", nibble(2 + 18 * 9 + 5))])
def test_one_wrong_integer_is_seen(folder, checkpoint, tmp_path, kind, change):
    file = write_gguf(folder, tmp_path / "model.gguf", Type[kind])
    findings = compared(with_bytes(file, "blk.1.ffn_up.weight", change), checkpoint).findings
    assert [each.operation for each in findings] == ["layers.1.mlp.up_proj"]


def test_missing_and_further_tensors_are_named(folder, checkpoint, tmp_path):
    tensors = tensors_of(write_gguf(folder, tmp_path / "model.gguf", Type.F32))
    numbers = dict(checkpoint)
    further = tensors | {"blk.0.attn_q_norm.weight": tensors["norm.weight"]}
    (wrong,) = compare_weights(
        further, numbers | {"blk.0.attn_q_norm.weight": numbers["norm.weight"]}, checkpoint
    ).findings
    assert wrong.operation == "blk.0.attn_q_norm" and wrong.cause == "the checkpoint has no such weight"
    del tensors["layers.1.self_attn.k_proj.weight"]
    (wrong,) = compare_weights(tensors, numbers, checkpoint).findings
    assert wrong.cause == "layers.1.self_attn.k_proj.weight is missing in the file" and wrong.layer == 1


def test_another_quantiser_is_near_and_another_weight_is_not(folder, checkpoint, tmp_path):
    """An importance matrix moves many scales by a little. Exchanged rows move numbers by many steps."""
    file = write_gguf(folder, tmp_path / "model.gguf", Type.Q4_0)
    name = "layers.0.mlp.up_proj.weight"
    own, tensor = checkpoint[name], tensors_of(file)[name]
    blocks = own.unflatten(-1, (-1, 32))
    scale = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True)) / -8 * 0.97
    other = ((blocks / scale).round().clamp(-8, 7) * scale).flatten(-2)
    assert is_near(other, own, tensor, None)
    assert not is_near(two_rows(other), own, tensor, None)
    assert not is_near(other * 1.2, own, tensor, None)
    noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(1)) * own.std() * 0.1
    assert not is_near(other + noise, own, tensor, None)
    assert not is_near(torch.from_numpy(np.roll(other.numpy(), 1, 1)), own, tensor, None)


def test_replaced_weights_are_put_back_after_an_exception(folder):
    model = Llama.from_pretrained(folder, dtype="float32", device="cpu")
    before = dict(model.named_parameters())
    with pytest.raises(KeyError, match="on purpose"), replaced_weights("m", model, {"norm.weight": torch.ones(64)}):
        assert torch.equal(model.norm.weight, torch.ones(64))
        raise KeyError("on purpose")
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
