"""config.json from the modules that are there: measured sizes, and every change that it cannot hold."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from helpers.changed_models import Gated, NeedsMore, OtherMLP, Slopes, attend_window, centred_norm
from helpers.checkpoint_files import IDS
from helpers.reference import SMALL, theirs
from torch import nn

from llama_jp import Llama, LlamaConfig
from llama_jp.checkpoint.load import load_model
from llama_jp.rope import make_rope, plain_rope


@pytest.fixture
def model(small) -> Llama:
    return load_model(small, dtype="float32", device="cpu")


def grow_vocabulary(model: Llama) -> None:
    for module in (model.embed_tokens, model.lm_head):
        module.weight = nn.Parameter(torch.cat([module.weight, module.weight[:3]]))


def drop_a_layer(model: Llama) -> None:
    model.layers = model.layers[:2]


def repeat_a_layer(model: Llama) -> None:
    model.layers[1] = model.layers[0]


def tie(model: Llama) -> None:
    model.lm_head.weight = model.embed_tokens.weight


def share_memory(model: Llama) -> None:
    model.lm_head.weight = nn.Parameter(model.embed_tokens.weight.data)


def add_biases(model: Llama) -> None:
    for layer in model.layers:
        for parent, names in ((layer.self_attn, "qkvo"), (layer.mlp, ("gate", "up", "down"))):
            for name in names:
                projection = parent.get_submodule(f"{name}_proj")
                projection.bias = nn.Parameter(torch.randn(projection.weight.shape[0]))


def narrow_the_mlp(model: Llama) -> None:
    for layer in model.layers:
        for projection in (layer.mlp.gate_proj, layer.mlp.up_proj):
            projection.weight = nn.Parameter(projection.weight[:32].clone())
        layer.mlp.down_proj.weight = nn.Parameter(layer.mlp.down_proj.weight[:, :32].clone())


def prune_heads(model: Llama) -> None:
    for layer in model.layers:
        attention = layer.self_attn
        attention.q_proj.weight = nn.Parameter(attention.q_proj.weight[:32].clone())
        attention.o_proj.weight = nn.Parameter(attention.o_proj.weight[:, :32].clone())


def change_every_eps(model: Llama) -> None:
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 0.125


def change_theta(model: Llama) -> None:
    model.config.rope_theta = 5.0
    model.rope = make_rope(model.config)


def change_config_only(model: Llama) -> None:
    model.config.vocab_size, model.config.intermediate_size, model.config.rms_norm_eps = 7, 8, 0.5


def scale_dynamically(model: Llama) -> None:
    model.config.rope_scaling = {"rope_type": "dynamic", "factor": 3.0}
    model.rope = make_rope(model.config)


def compile_a_module(model: Llama) -> None:
    model.layers[0].mlp = torch.compile(model.layers[0].mlp, backend="eager")


def compile_in_place(model: Llama) -> None:
    model.compile(backend="eager")


@pytest.mark.parametrize(
    "change",
    [
        grow_vocabulary, drop_a_layer, repeat_a_layer, tie, share_memory, add_biases, narrow_the_mlp, prune_heads,
        change_every_eps, change_theta, change_config_only, scale_dynamically, compile_a_module, compile_in_place,
    ],
)  # fmt: skip
def test_a_change_that_config_json_can_hold_is_saved(model, tmp_path, change):
    """Guards against a config.json that is copied from the one that was loaded. transformers is the judge as well."""
    change(model)
    ids = torch.arange(60)[None]
    with torch.no_grad():
        expected = model(ids)
        model.save_pretrained(tmp_path / "out")
        assert torch.equal(load_model(tmp_path / "out", dtype="float32")(ids), expected)
        assert torch.equal(theirs(tmp_path / "out", torch.float32)(ids).logits, expected)


def test_an_untied_head_is_saved(small, tmp_path):
    """Guards against dropping a head that was tied when the model was loaded."""
    model = Llama(LlamaConfig(**SMALL, tie_word_embeddings=True)).eval()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out", dtype="float32")(IDS), model(IDS))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_plain_model_stays_plain(small, tmp_path, attention):
    """Guards against recording a part that is no change: another standard attention, a copied or pickled model."""
    model = copy.deepcopy(load_model(small, dtype="bfloat16", attention=attention))
    model.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        again = load_model(tmp_path / "out", dtype="bfloat16", attention=attention)
        assert torch.equal(again(IDS), model(IDS))


def set_one_row(model: Llama) -> None:
    model.embed_tokens.weight = nn.Parameter(torch.cat([model.embed_tokens.weight] * 2))


def set_other_theta(model: Llama) -> None:
    model.rope = plain_rope(LlamaConfig(**SMALL, rope_theta=5.0))


def set_theta_in_config(model: Llama) -> None:
    model.config.rope_theta = 5.0


def set_other_dynamic_factor(model: Llama) -> None:
    """Both ropes are closures of the same code."""
    model.config.rope_scaling = {"rope_type": "dynamic", "factor": 3.0}
    model.rope = make_rope(LlamaConfig(**SMALL, rope_scaling={"rope_type": "dynamic", "factor": 2.0}))


def set_one_eps(model: Llama) -> None:
    model.norm.eps = 0.1


def set_one_attention(model: Llama) -> None:
    model.layers[1].self_attn.attend = attend_window


def set_two_norms(model: Llama) -> None:
    model.layers[0].input_layernorm.norm = centred_norm
    model.norm.norm = lambda x, weight, eps: x


def set_one_mlp(model: Llama) -> None:
    model.layers[2].mlp = OtherMLP(model.config)


def set_forward(model: Llama) -> None:
    model.layers[0].mlp.forward = lambda x: x


def set_hook(model: Llama) -> None:
    model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 2)


def set_pre_hook(model: Llama) -> None:
    model.register_forward_pre_hook(lambda module, inputs: None)


def set_one_bias(model: Llama) -> None:
    model.layers[0].self_attn.q_proj.bias = nn.Parameter(torch.ones(48))


def set_padding_row(model: Llama) -> None:
    model.embed_tokens.max_norm = 1.0


def set_parametrization(model: Llama) -> None:
    nn.utils.parametrizations.weight_norm(model.lm_head)


def set_complex_buffer(model: Llama) -> None:
    model.register_buffer("angles", torch.ones(2, dtype=torch.complex64))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (set_one_row, r"lm_head.weight is \(96, 24\) where the loader expects \(192, 24\)"),
        (set_other_theta, r"model.rope is not the rope of model.config \(rope_theta 10000.0, .* make_rope"),
        (set_theta_in_config, r"model.rope is not the rope of model.config \(rope_theta 5.0"),
        (set_other_dynamic_factor, r"model.rope is not the rope of model.config .*'factor': 3.0"),
        (set_one_eps, "norm.eps is 0.1 where the loader has 1e-05"),
        (set_one_attention, "layers.0.self_attn.attend is attend_sdpa where the loader has attend_window"),
        (set_two_norms, "layers.0.input_layernorm.norm is centred_norm where the loader has rms_norm"),
        (set_one_mlp, "layers.2.mlp is OtherMLP where the loader builds SwiGLU; .* subclass of Llama"),
        (set_forward, "layers.0.mlp.forward is added"),
        (set_hook, "layers.0.mlp has a forward hook"),
        (set_pre_hook, "the model has a forward hook"),
        (set_one_bias, "layers.0.self_attn.k_proj.bias is missing, .* and 8 more"),
        (set_padding_row, "embed_tokens.max_norm is 1.0 where the loader has None"),
        (set_parametrization, "lm_head is ParametrizedLinear where the loader builds Linear"),
        (set_complex_buffer, "angles is torch.complex64, .* persistent=False"),
        (lambda model: model.register_buffer("extra", torch.ones(1)), "extra is added"),
        (lambda model: model.register_buffer("extra", torch.ones(1), persistent=False), "extra is added"),
        (lambda model: model.register_parameter("extra", nn.Parameter(torch.ones(1))), "extra is added"),
        (lambda model: model.add_module("extra", nn.Linear(2, 2)), r"extra \(Linear\) is added"),
        (lambda model: model.layers.__delitem__(slice(0, 3)), "num_hidden_layers is 0"),
    ],
)
def test_a_change_that_config_json_cannot_hold_is_refused(model, tmp_path, change, sentence):
    """Guards against a saved model that is silently another one. Nothing is written."""
    change(model)
    with pytest.raises(ValueError, match=sentence):
        model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Local(Llama):
    """A class that no loader can find, because a test makes it look like one of a script."""


@pytest.mark.parametrize(
    ("functions", "sentence"),
    [
        (
            {"norm": lambda x, weight, eps: x},
            "the norm <lambda> is a lambda or is defined inside a function; define it",
        ),
        ({"attention": partial(attend_window)}, "the attention is an object of the type partial, which no import can"),
        ({"rope": nn.Identity()}, "the rope is an object of the type Identity, which no import can find again"),
    ],
)
def test_a_part_without_a_name_is_refused(small, tmp_path, functions, sentence):
    """Guards against a recorded name that imports nothing, or something else."""
    with pytest.raises(ValueError, match=sentence):
        load_model(small, **functions).save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_a_script_or_behind_a_wrapper_is_refused(model, tmp_path, monkeypatch):
    """Guards against names that another process resolves to nothing, or to the function inside a wrapper."""
    monkeypatch.setattr(Local, "__module__", "__main__")
    with pytest.raises(ValueError, match=r"the class Local is defined in the script or notebook itself"):
        Local(model.config).save_pretrained(tmp_path / "out")
    wrapped = torch.no_grad()(attend_window)
    with pytest.raises(ValueError, match=r"is not what helpers.changed_models:attend_window imports"):
        Llama(model.config, attention=wrapped).save_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=r"NeedsMore\(config, .*\) fails, .*: TypeError: .* argument: 'width'"):
        NeedsMore(model.config, 3).save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["slopes", "steps", "rates"])
def test_a_changed_value_of_a_subclass_is_refused(model, tmp_path, name):
    """Guards against values that only the constructor makes: plain tensors, unsaved buffers, lists."""
    gated = Gated(model.config)
    value = getattr(gated, name)
    setattr(gated, name, value * 2)
    with pytest.raises(ValueError, match=f"{name} (holds other numbers|is an object of the type list)"):
        gated.save_pretrained(tmp_path / "out")


def test_a_bound_method_of_another_class_is_a_change(model, tmp_path):
    """Guards against functions that count as equal because both are methods."""
    slopes = Slopes(model.config)
    slopes.layers[0].self_attn.attend = slopes.forward
    with pytest.raises(ValueError, match=r"the attention|layers.0.self_attn.attend is Llama.forward"):
        slopes.save_pretrained(tmp_path / "out")
