"""The model as a module: its documented shapes, its seams, its hooks, its gradients, and what it refuses."""

from __future__ import annotations

import pickle

import pytest
import torch
from helpers.reference import ATTENTIONS, DTYPES, SMALL, both, save_random

import llama_jp.model as parts
from llama_jp import Llama, LlamaConfig
from llama_jp.checkpoint.load import load_model
from llama_jp.rope import plain_rope

B, T, C, H, K, D, V = 5, 7, 24, 6, 2, 8, 96


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(0)
    return Llama(LlamaConfig(**SMALL))


def test_documented_shapes(model):
    """Every letter has another size, so a swapped pair of dimensions changes a shape."""
    ids = torch.randint(0, V, (B, T))
    seen = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: tuple(out.shape)}))
    assert model(ids).shape == (B, T, V)
    assert model(ids, last_only=True).shape == (B, 1, V)
    assert seen["embed_tokens"] == (B, T, C)
    assert seen["layers.1.self_attn.q_proj"] == (B, T, H * D)
    assert seen["layers.1.self_attn.v_proj"] == (B, T, K * D)
    assert seen["layers.1.self_attn"] == (B, T, C)
    assert seen["layers.2.mlp.gate_proj"] == (B, T, 40)
    assert seen["norm"] == (B, T, C)
    q, k = torch.randn(B, H, T, D), torch.randn(B, K, 11, D)
    mask = torch.ones(B, 1, T, 11, dtype=torch.bool)
    for attend in parts.ATTENTIONS.values():
        assert attend(q, k, k, mask).shape == (B, H, T, D)
    cos, sin = model.rope(torch.arange(T)[None])
    assert cos.shape == sin.shape == (1, T, D) and cos.dtype == torch.float32
    assert parts.rotate(q, cos, sin).shape == (B, H, T, D)


def test_every_hook_fires(model):
    """Modules are called, never their forward, so hooks see everything."""
    fired = set()
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.ModuleList):
            module.register_forward_hook(lambda *_, name=name: fired.add(name))
    model(torch.zeros(1, 2, dtype=torch.long))
    assert fired == {name for name, module in model.named_modules() if not isinstance(module, torch.nn.ModuleList)}


def test_it_holds_weights_only(model):
    assert not list(model.buffers())
    assert {name.split(".")[-1] for name in model.state_dict()} == {"weight"}
    assert pickle.loads(pickle.dumps(model)).config == model.config


def test_casting_does_not_hurt_the_angles(small):
    """`.to(dtype)` after loading equals loading in that dtype: no table of cos and sin is rounded."""
    ids = torch.arange(60)[None]
    with torch.no_grad():
        for dtype in (torch.bfloat16, torch.float16):
            assert torch.equal(
                load_model(small, dtype="float32").to(dtype)(ids), load_model(small, dtype=torch.float32).to(dtype)(ids)
            )
            loaded = load_model(small, dtype=dtype)(ids)
            assert torch.equal(load_model(small, dtype="stored").to(dtype)(ids), loaded)


def test_the_meta_device_knows_all_shapes():
    with torch.device("meta"):
        model = Llama(LlamaConfig(**SMALL))
        assert all(parameter.is_meta for parameter in model.parameters())
    assert model.rope(torch.arange(3)[None])[0].device.type == "cpu"


def test_seams_are_plain_functions(small):
    """Attention, positions and norm can be handed in; what is not replaced stays as it is, to the bit."""
    calls = []

    def attend(q, k, v, mask):
        calls.append("attend")
        return parts.attend_sdpa(q, k, v, mask)

    def rope(positions):
        calls.append("rope")
        return plain_rope(LlamaConfig(**SMALL))(positions)

    def norm(x, weight, eps):
        calls.append("norm")
        return parts.rms_norm(x, weight, eps)

    ids = torch.randint(0, V, (2, 9))
    ours = Llama.from_pretrained(small, dtype="float32", attention=attend, rope=rope, norm=norm)
    with torch.no_grad():
        assert torch.equal(ours(ids), Llama.from_pretrained(small, dtype="float32")(ids))
    assert calls.count("attend") == 3 and calls.count("rope") == 1 and calls.count("norm") == 7
    other = Llama.from_pretrained(small, dtype="float32", norm=lambda x, weight, eps: x)
    assert not torch.equal(other(ids), ours(ids))


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention is 'sdpa' or 'eager' or a function, not 'flash'"):
        Llama(LlamaConfig(**SMALL), attention="flash")


def test_forward_is_differentiable(model):
    model(torch.randint(0, V, (2, 5))).float().logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_padding_has_no_nan_in_float16(tmp_path, attention):
    """Scores far below zero: adding the lowest float16 to them overflows to -inf, and a row of -inf is a row of NaN."""
    folder = save_random(tmp_path, seed=5, **SMALL)
    model = load_model(folder, dtype="float16", attention=attention)
    with torch.no_grad():
        for layer in model.layers:
            layer.self_attn.q_proj.weight *= 12
            layer.self_attn.k_proj.weight *= -12
        mask = torch.tensor([[0] * 8 + [1], [0] * 5 + [1] * 4])
        logits = model(torch.randint(0, V, (2, 9)), mask=mask)
    assert logits.isfinite().all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_padded_row_is_the_row_alone(small, attention):
    """Positions follow from the mask: padding on the left does not shift a text.

    Bits may differ with the batch size.
    """
    model = load_model(small, dtype="float32", attention=attention)
    row = torch.randint(0, V, (1, 6))
    padded = torch.cat([torch.full((1, 4), 3), row], dim=1)
    mask = torch.tensor([[0] * 4 + [1] * 6])
    with torch.no_grad():
        # float32; the sums run over more keys, all of them zero; measured: 5e-7
        torch.testing.assert_close(model(padded, mask=mask)[:, 4:], model(row), atol=1e-5, rtol=0)
        assert torch.equal(model(padded, mask=mask.bool()), model(padded, mask=mask.float()))


def test_look_back_by_hand():
    """Two rows, the first padded by one, three tokens cached, two new."""
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    positions, visible = parts.positions_and_mask(mask, 2, 5, torch.device("cpu"))
    assert positions.tolist() == [[2, 3], [3, 4]]
    assert visible[:, 0].int().tolist() == [
        [[0, 1, 1, 1, 0], [0, 1, 1, 1, 1]],
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
    ]
    assert parts.positions_and_mask(None, 3, 3, torch.device("cpu"))[1] is None
    assert parts.positions_and_mask(torch.ones(2, 4), 1, 4, torch.device("cpu"))[1] is None
    assert parts.positions_and_mask(None, 2, 3, torch.device("cpu"))[1].shape == (1, 1, 2, 3)


def test_documents_by_hand():
    """Against: positions that run on into the next document, and a padding token that belongs to a document.

    Two rows: padding, two documents; one document that goes on after another one, and padding at the end.
    """
    mask = torch.tensor([[0, 1, 1, 2, 2], [3, 1, 1, 3, 0]])
    positions, visible = parts.positions_and_mask(mask, 5, 5, torch.device("cpu"))
    assert positions[:, 1:-1].tolist() == [[0, 1, 0], [0, 1, 1]] and positions[0, 4] == 1
    assert visible[:, 0].int().tolist() == [
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]],
        [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [1, 1, 1, 1, 1]],
    ]
    for T in (1, 2, 4):  # the last rows only
        last, seen = parts.positions_and_mask(mask, T, 5, torch.device("cpu"))
        assert torch.equal(last, positions[:, -T:]) and torch.equal(seen, visible[:, :, -T:])
    whole = torch.tensor([[1, 1, 1], [2, 2, 2]])  # one document in each row
    assert parts.positions_and_mask(whole, 3, 3, torch.device("cpu"))[1] is None


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_packed_document_is_the_document_alone(small, attention):
    """With and without a cache, which an earlier call filled in the middle of a document."""
    model = load_model(small, dtype="float64", attention=attention)
    first, second = torch.randint(0, V, (1, 6)), torch.randint(0, V, (1, 5))
    ids, mask = torch.cat((first, second), dim=1), torch.tensor([[1] * 6 + [2] * 5])
    with torch.no_grad():
        alone = torch.cat((model(first), model(second)), dim=1)
        torch.testing.assert_close(model(ids, mask=mask), alone, atol=1e-12, rtol=0)
        cache = model.new_cache(1, 11)
        parts_of_it = [model(ids[:, a:b], cache, mask=mask[:, :b]) for a, b in ((0, 4), (4, 8), (8, 9), (9, 11))]
        torch.testing.assert_close(torch.cat(parts_of_it, dim=1), alone, atol=1e-12, rtol=0)


def test_hidden_is_forward_without_the_head(model):
    ids, mask = torch.randint(0, V, (2, 9)), torch.tensor([[0] * 3 + [1] * 6, [1] * 4 + [2] * 5])
    hidden = model.hidden(ids, mask=mask)
    assert hidden.shape == (2, 9, C)
    assert torch.equal(model.lm_head(hidden), model(ids, mask=mask))
    cache = model.new_cache(2, 9)
    assert torch.equal(model.hidden(ids, cache, mask=mask), hidden) and cache.length == 9


def test_a_mask_does_not_break_the_graph_of_a_compiled_model(small):
    """Against: a branch on the mask's values, which fullgraph=True refuses."""
    model = load_model(small, dtype="float32")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids, mask = torch.randint(0, V, (2, 9)), torch.tensor([[0] * 3 + [1] * 6, [1] * 4 + [2] * 5])
    for each in (mask, torch.ones_like(mask)):
        # float32; without a mask the fused kernel is another one; measured: 1e-6
        torch.testing.assert_close(compiled(ids, mask=each), model(ids, mask=each), atol=1e-5, rtol=0)
    compiled(ids, mask=mask).sum().backward()
    assert model.embed_tokens.weight.grad is not None


def attend_to_even_positions(q, k, v, mask, positions):
    """Attention that needs positions: a query sees itself and keys at even positions. positions: (B or 1, S)."""
    T, S = q.shape[2], k.shape[2]
    index = torch.arange(S)
    causal = (index <= index[S - T :, None])[None, None] if mask is None else mask
    even = (positions % 2 == 0)[:, None, None]
    return parts.attend_eager(q, k, v, causal & (even | (index == index[S - T :, None])))


def test_attention_may_ask_for_positions(small):
    """Against: positions of slots instead of tokens, which padding, documents and caches shift."""
    model = load_model(small, dtype="float64", attention=attend_to_even_positions)
    row, other = torch.randint(0, V, (1, 6)), torch.randint(0, V, (1, 3))
    ids = torch.cat((torch.zeros(1, 3, dtype=torch.long), other, row), dim=1)
    mask = torch.tensor([[0] * 3 + [1] * 3 + [2] * 6])
    with torch.no_grad():
        alone = model(row)
        plain = load_model(small, dtype="float64", attention="eager")
        assert not torch.allclose(alone, plain(row))
        torch.testing.assert_close(model(ids, mask=mask)[:, 6:], alone, atol=1e-12, rtol=0)
        cache = model.new_cache(1, 12)
        steps = [model(ids[:, a:b], cache, mask=mask[:, :b]) for a, b in ((0, 7), (7, 11), (11, 12))]
        torch.testing.assert_close(torch.cat(steps, dim=1)[:, 6:], alone, atol=1e-12, rtol=0)


def test_what_does_not_fit_is_refused(model):
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"shape is \(2, 3\), not \(2, 4\)"):
        model(ids, mask=torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"the shape \(3,\)"):
        model(ids[0])
    with pytest.raises(ValueError, match="at least one token"):
        model(ids[:, :0])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_key_value_heads": 4}, "num_attention_heads 6 is not a multiple of num_key_value_heads 4"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"head_dim": None, "hidden_size": 25}, "hidden_size 25 is not a multiple of num_attention_heads 6"),
    ],
)
def test_impossible_shapes_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        LlamaConfig(**SMALL | change)


def test_the_norms_eps_has_no_default():
    with pytest.raises(TypeError, match="rms_norm_eps"):
        LlamaConfig(**{key: value for key, value in SMALL.items() if key != "rms_norm_eps"})


# ---- parts before wholes, each against the reference's own


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_parts_are_equal_to_the_bit(small, dtype):
    from transformers.models.llama import modeling_llama

    our, their = both(small, dtype, "eager")
    torch.manual_seed(1)
    x = torch.randn(2, 9, C).to(dtype)
    positions = torch.randint(0, 5000, (2, 9))
    cos, sin = our.rope(positions)
    their_cos, their_sin = their.model.rotary_emb(x, positions)
    assert torch.equal(cos.to(dtype), their_cos) and torch.equal(sin.to(dtype), their_sin)

    q, k = torch.randn(2, H, 9, D).to(dtype), torch.randn(2, K, 9, D).to(dtype)
    their_q, their_k = modeling_llama.apply_rotary_pos_emb(q, k, their_cos, their_sin)
    assert torch.equal(parts.rotate(q, their_cos, their_sin), their_q)
    assert torch.equal(parts.rotate(k, their_cos, their_sin), their_k)
    assert torch.equal(parts.repeat_heads(k, H), modeling_llama.repeat_kv(k, H // K))

    layer, their_layer = our.layers[1], their.model.layers[1]
    with torch.no_grad():
        assert torch.equal(layer.input_layernorm(x), their_layer.input_layernorm(x))
        assert torch.equal(layer.mlp(x), their_layer.mlp(x))
        _, visible = parts.positions_and_mask(torch.ones(2, 9), 4, 9, x.device)
        hidden = torch.where(visible, 0.0, torch.finfo(dtype).min).to(dtype)
        v = torch.randn(2, K, 9, D).to(dtype)
        mixed, _ = modeling_llama.eager_attention_forward(their_layer.self_attn, q[:, :, 5:], k, v, hidden, D**-0.5)
        assert torch.equal(parts.attend_eager(q[:, :, 5:], k, v, visible), mixed.transpose(1, 2))


def test_rotation_by_hand():
    """One head of four numbers: pairs (0, 2) and (1, 3); a quarter turn takes (x, y) to (-y, x)."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    cos = torch.tensor([0.0, 1.0, 0.0, 1.0]).view(1, 1, 4)
    sin = torch.tensor([1.0, 0.0, 1.0, 0.0]).view(1, 1, 4)
    assert parts.rotate(x, cos, sin).flatten().tolist() == [-3.0, 2.0, 1.0, 4.0]


def test_norm_by_hand():
    """The root mean square of (3, 4) is sqrt(12.5)."""
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])
    torch.testing.assert_close(parts.rms_norm(x, weight, 0.0), torch.tensor([[3.0, 8.0]]) / 12.5**0.5)
