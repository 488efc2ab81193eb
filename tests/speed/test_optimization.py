"""Optimised models: bit-identical at level "exact", close at the others, and bit-identical again after `undo`."""

from __future__ import annotations

import copy
import importlib
import random

import pytest
import torch
from helpers.reference import DTYPES, SEED, SMALL, random_config, save_random
from torch import nn

import llama_jp
from llama_jp import Llama
from llama_jp.linear import kernels
from llama_jp.linear.fused import FusedSlice
from llama_jp.linear.kernels import KERNELS, LinearKernel, ZenKernel, why_unavailable
from llama_jp.speed.kernel_selection import Selection

# With heads of 8, every product has a multiple of 64 outputs.
WHOLE_BLOCKS = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}

optimize_module = importlib.import_module("llama_jp.speed.optimization")


@pytest.fixture(autouse=True)
def attention_as_it_is(monkeypatch):
    """tests/speed/test_attention_selection.py is about attention."""
    monkeypatch.setattr(optimize_module, "select_attention", lambda *_: (None, None))


def always_select(monkeypatch, kernel: type[LinearKernel]) -> None:
    """Select one kernel for every layer, fast or not."""
    monkeypatch.setattr(optimize_module, "select_kernel", lambda *_: Selection(kernel, 1.0, 1.0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_exact_keeps_every_bit(tmp_path, dtype):
    """Guards against changed bits: whole, in steps, in chunks and as a batch, before, after, and after `undo`."""
    rng = random.Random(SEED)
    for number in range(3):
        folder = save_random(tmp_path / f"{number}", seed=SEED + number, **random_config(rng, "default"))
        model = Llama.from_pretrained(folder, dtype=dtype)
        ids = torch.randint(0, model.config.vocab_size, (2, 24))
        before = logits_of_calls(model, ids)
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        done = llama_jp.optimize(model, "exact", rows=2)
        assert done.deviation.differing == 0
        assert all(torch.equal(a, b) for a, b in zip(before, logits_of_calls(model, ids), strict=True))
        assert_same_state(model.state_dict(), weights)
        done.undo()
        assert all(torch.equal(a, b) for a, b in zip(before, logits_of_calls(model, ids), strict=True))
        assert_same_state(model.state_dict(), weights)
        assert not any(isinstance(module, FusedSlice) for module in model.modules())


def logits_of_calls(model: Llama, ids: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        cache = model.new_cache(2, 24)
        chunks = [model(ids[:, a:b], cache) for a, b in ((0, 9), (9, 10), (10, 11), (11, 24))]
        return [model(ids), model(ids, last_only=True), *chunks]


def assert_same_state(one: dict, other: dict) -> None:
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    ("kernel", "dtype"), [(k, dtype) for k in KERNELS if "float" in k.kinds for dtype in k.dtypes], ids=str
)
def test_a_model_with_any_kernel(small, tmp_path, monkeypatch, kernel, dtype):
    """Guards against a kernel that is the fastest only on other machines: close logits, the same weights, and undo."""
    if reason := why_unavailable(kernel, "float", dtype):
        pytest.skip(reason)
    always_select(monkeypatch, kernel)
    folder = save_random(tmp_path, 1, **SMALL | WHOLE_BLOCKS) if kernel is ZenKernel else small
    model = Llama.from_pretrained(folder, dtype=dtype)
    ids = torch.arange(3, 23).view(2, 10)
    with torch.no_grad():
        before, state = model(ids), {name: tensor.clone() for name, tensor in model.state_dict().items()}
        done = llama_jp.optimize(model, "close")
        after = model(ids)
        assert (before - after).abs().max() <= 16 * torch.finfo(dtype).eps * before.abs().max()
        assert_same_state(model.state_dict(), state)
        done.undo()
        assert torch.equal(model(ids), before)
    assert {choice.kernel for choice in done.choices} == {kernel.name}


def test_generation_is_the_same(small):
    model = Llama.from_pretrained(small, dtype="float32")
    prompts = [[1, 5, 9], [1, 7, 8, 9, 10], [1, 3]]
    options = {"max_new_tokens": 12, "do_sample": True, "seed": 3, "eos_token_id": []}
    before = [answer.ids for answer in llama_jp.generate(model, prompts, **options)]
    llama_jp.optimize(model, "exact", rows=3)
    assert [answer.ids for answer in llama_jp.generate(model, prompts, **options)] == before


def test_an_optimised_model_saves_the_original_weights(small, tmp_path):
    model = Llama.from_pretrained(small, dtype="float32")
    state = model.state_dict()
    llama_jp.optimize(model)
    model.save_pretrained(tmp_path / "saved")
    assert_same_state(Llama.from_pretrained(tmp_path / "saved", dtype="float32").state_dict(), state)


def test_tied_weights_stay_tied(tmp_path):
    config = random_config(random.Random(1), "default") | {"tie_word_embeddings": True}
    model = Llama.from_pretrained(save_random(tmp_path, 1, **config), dtype="float32")
    llama_jp.optimize(model, "close").undo()
    assert model.lm_head.weight is model.embed_tokens.weight


def test_a_layer_that_is_not_plain_is_left_alone(small):
    """Guards against replacing a user's own class, or a layer with a bias."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = Llama.from_pretrained(small, dtype="float32")
    mine = Doubled(24, 40, bias=False)
    model.layers[1].mlp.up_proj = mine
    model.layers[0].self_attn.o_proj.bias = nn.Parameter(torch.ones(24))
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(ids)
        done = llama_jp.optimize(model, "exact")
        assert torch.equal(model(ids), before)
    assert model.layers[1].mlp.up_proj is mine
    assert type(model.layers[0].self_attn.o_proj) is nn.Linear
    assert {"gate_proj", "up_proj", "o_proj"} <= set(done.left_alone)  # and others, where nothing was faster


def test_fused_layers_can_be_called_in_any_order(small):
    """Guards against outputs of another input: a hook or a tool may call a single projection."""
    model = Llama.from_pretrained(small, dtype="float32")
    attention = model.layers[0].self_attn
    x, y = torch.randn(2, 1, 5, 24)
    with torch.no_grad():
        before = [attention.q_proj(x), attention.k_proj(y), attention.v_proj(x)]
        llama_jp.optimize(model, "exact")
        assert torch.equal(attention.v_proj(x), before[2])
        assert torch.equal(attention.q_proj(x), before[0])
        assert torch.equal(attention.k_proj(y), before[1])


def test_a_kernel_that_is_wrong_or_missing_is_not_used(small, monkeypatch):
    """Guards against a broken operator on another machine: one warning, and the plain kernel."""

    class Missing(LinearKernel):
        name = "missing"
        kinds = ("float",)

        def __init__(self, weight):
            raise RuntimeError("no such operator\nand a long story")

    class Wrong(LinearKernel):
        name = "wrong"
        kinds = ("float",)

        def __call__(self, x):
            return super().__call__(x) * 1.1

    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, Missing, Wrong))
    model = Llama.from_pretrained(small, dtype="float32")
    with pytest.warns(UserWarning) as warned:
        done = llama_jp.optimize(model, "close")
    assert [str(one.message) for one in warned] == [
        "missing is not available on this machine: no such operator",
        "wrong is not available on this machine: its result is wrong for 1 row and 64 x 256 weights",
    ]
    assert {choice.kernel for choice in done.choices} == {"plain"}


def test_exact_is_verified_on_the_whole_model(small, monkeypatch):
    """Guards against a kernel that is equal on samples and not in the model: an error, and the model as it was."""

    class AlmostLinearKernel(LinearKernel):
        def __call__(self, x):
            return super().__call__(x) * (1 + 2**-20)

    always_select(monkeypatch, AlmostLinearKernel)
    monkeypatch.setattr(optimize_module, "why_different", lambda *_: None)
    model = Llama.from_pretrained(small, dtype="float32")
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        before = model(ids)
        with pytest.raises(
            RuntimeError, match="changes the logits on this machine .* so nothing was changed; try level 'close'"
        ):
            llama_jp.optimize(model, "exact")
        assert torch.equal(model(ids), before)
    assert type(model.lm_head) is nn.Linear


def test_refusals(small):
    model = Llama.from_pretrained(small, dtype="float32")
    with pytest.raises(ValueError, match="level is one of exact, close, int8, not 'fast'"):
        llama_jp.optimize(model, "fast")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        llama_jp.optimize(model, rows=0)
    llama_jp.optimize(model)
    with pytest.raises(ValueError, match="optimised already"):
        llama_jp.optimize(model)
    with torch.no_grad():
        expected = model(torch.tensor([[1, 2]]))
    logits = model(torch.tensor([[1, 2]]))
    assert torch.equal(logits, expected), "outside of no_grad the logits are the same"
    with pytest.raises(RuntimeError, match="no gradients"):
        logits.sum().backward()


def test_uses_that_need_the_layers_are_refused(small):
    """Guards against weights that are ignored until `undo` discards them, a model that is converted by half, and
    copies that fail with the words of a library."""
    model = Llama.from_pretrained(small, dtype="float32")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = llama_jp.optimize(model)
    slices = [module for module in model.modules() if isinstance(module, FusedSlice)]
    uses = {
        "given another weight": lambda: setattr(slices[0], "weight", nn.Parameter(torch.zeros(2))),
        "given other weights": lambda: model.load_state_dict(state),
        "moved or converted": lambda: model.to(torch.float16),
        "copied or pickled": lambda: copy.deepcopy(model),
    }
    for what, use in uses.items():
        with pytest.raises(RuntimeError, match=f"an optimised model cannot be {what}; call undo"):
            use()
    with pytest.raises(RuntimeError, match="cannot be given other weights"):
        model.load_state_dict(state, strict=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}, "nothing is converted"
    done.undo()
    assert_same_state(copy.deepcopy(model).state_dict(), state)
    model.load_state_dict(state)
    assert {parameter.dtype for parameter in model.to(torch.float16).parameters()} == {torch.float16}


def test_exact_where_small_products_take_another_library(tmp_path, monkeypatch):
    """Guards against bits that differ in one number of twenty thousand: `F.linear` of up to 16^3 multiplications."""
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    folder = save_random(tmp_path, 2, **(SMALL | sizes | {"intermediate_size": 128, "vocab_size": 211}))
    model = Llama.from_pretrained(folder, dtype="bfloat16")
    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, kernels.OneDNNKernel))
    layer = model.layers[0].self_attn.q_proj
    rows = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(SEED)).bfloat16()
    before = torch.cat([layer(row) for row in rows.split(1)])
    llama_jp.optimize(model, "exact")
    layer = model.layers[0].self_attn.q_proj
    assert torch.equal(torch.cat([layer(row) for row in rows.split(1)]), before)


def test_an_interrupted_optimize_leaves_the_model_as_it_was(small, monkeypatch):
    """Guards against weights that are lost on Ctrl-C while layers are packed."""

    class Interrupted(LinearKernel):
        compiles = False  # one kernel for each product, none for its slices
        constructed = 0

        def __init__(self, weight):
            super().__init__(weight)
            Interrupted.constructed += 1
            if Interrupted.constructed == 4:
                raise KeyboardInterrupt

    always_select(monkeypatch, Interrupted)
    model = Llama.from_pretrained(small, dtype="float32")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        llama_jp.optimize(model)
    assert not any(isinstance(module, FusedSlice) for module in model.modules())
    assert_same_state(model.state_dict(), state)


def test_hooks_stay_and_frozen_weights_stay_frozen(small):
    model = Llama.from_pretrained(small, dtype="float32").requires_grad_(False)
    seen = []
    model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: seen.append(1))
    done = llama_jp.optimize(model, "close")
    seen.clear()
    model(torch.tensor([[1, 2]]))
    assert seen == [1]
    with pytest.raises(RuntimeError, match="moved or converted"):
        model.half()
    done.undo()
    assert not any(parameter.requires_grad for parameter in model.parameters())


class OtherMLP(torch.nn.Module):
    """A researcher's own MLP, with one layer that has a known name and one that has not."""

    def __init__(self, size: int):
        super().__init__()
        self.inner, self.down_proj = torch.nn.Linear(size, 16, bias=False), torch.nn.Linear(16, size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(torch.relu(self.inner(x)))


def test_a_changed_module_is_left_alone(small):
    """Guards against an AttributeError for a model in which a part was exchanged."""
    model = Llama.from_pretrained(small, dtype="float32")
    model.layers[0].mlp = OtherMLP(model.config.hidden_size)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model(ids)
        done = llama_jp.optimize(model, "exact")
        assert torch.equal(model(ids), expected)
    assert isinstance(model.layers[0].mlp.inner, torch.nn.Linear) and "gate_proj" in done.left_alone
    done.undo()
    del model.layers[0].mlp
    model.layers[0].mlp = torch.nn.Identity()
    with torch.no_grad():
        expected = model(ids)
        llama_jp.optimize(model, "exact")
        assert torch.equal(model(ids), expected)
