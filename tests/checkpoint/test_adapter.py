"""A PEFT folder merged at loading, against PEFT's own merge into transformers' model, and folders that do not fit."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import peft
import pytest
import safetensors.torch
import torch
from helpers.adapters import ATTENTION, difference, edit_adapter, edit_settings, judge, merged_by_peft, train
from helpers.checkpoint_files import IDS
from helpers.reference import DTYPES, SMALL, save_random, theirs
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp import Llama
from llama_jp.checkpoint.adapter import is_other_base, read_adapter
from llama_jp.checkpoint.load import load_model

MLP = ["gate_proj", "up_proj", "down_proj"]
KINDS = {
    "plain": {},
    "all-linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r"model\.layers\.[02]\.(mlp\.(up|down)_proj|self_attn\.o_proj)"},
    "layers": {"target_modules": [*ATTENTION, "up_proj"], "layers_to_transform": [0, 2], "layers_pattern": "layers"},
    "one layer": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": 1},
    "excluded": {"target_modules": [*ATTENTION, *MLP], "exclude_modules": ["layers.1.mlp.up_proj", "v_proj"]},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True, "target_modules": [*ATTENTION, "down_proj"]},
    "dora, rslora, bias": {"use_dora": True, "use_rslora": True, "bias": "all"},
    "patterns": {
        "target_modules": [*ATTENTION, *MLP],
        "rank_pattern": {r"layers\.[01]\.self_attn\.q_proj": 3, "^model.layers.2.mlp.down_proj": 7, "v_proj": 2},
        "alpha_pattern": {"up_proj": 1.5, r".*\.1\..*": 10},
    },
    "bias all": {"bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"], "use_rslora": True},
    "saved": {"modules_to_save": ["embed_tokens", "lm_head", "norm"]},
    "saved block": {"modules_to_save": ["layers.1.mlp"]},
    "tokens": {"trainable_token_indices": [50, 3, 7]},
    "tokens of both": {"trainable_token_indices": {"embed_tokens": [9, 1], "lm_head": [2, 3, 4]}},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
}


@pytest.fixture(scope="session")
def tied(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("tied"), seed=4, tie_word_embeddings=True, **SMALL)


@pytest.fixture
def adapter(biased, tmp_path):
    """A plain adapter on q_proj and v_proj, whose files a test may change."""
    return train(biased, tmp_path / "adapter")


@pytest.mark.parametrize("kind", KINDS)
def test_a_merge_is_bit_identical_to_peft(biased, tmp_path, kind):
    """Guards against another scale, order of rounding or choice of modules, in every dtype."""
    folder = train(biased, tmp_path / "adapter", **KINDS[kind])
    for dtype in DTYPES:
        ours, their = load_model(biased, dtype, "cpu", adapter=folder), merged_by_peft(biased, folder, dtype)
        assert difference(ours, their) == []
        with torch.no_grad():
            assert torch.equal(ours(IDS), their(IDS).logits)
            assert not torch.equal(ours(IDS), load_model(biased, dtype, "cpu")(IDS))


@pytest.mark.parametrize("kind", ["plain", "dora, rslora, bias", "embedding", "saved"])
def test_an_adapter_trained_in_16_bits(biased, tmp_path, kind):
    """Guards against arithmetic in the dtype of the file: PEFT holds every adapter in float32."""
    folder = train(biased, tmp_path / "adapter", torch.bfloat16, **KINDS[kind])
    edit_adapter(folder, lambda tensors: tensors.update({name: each.bfloat16() for name, each in tensors.items()}))
    for dtype in DTYPES:
        ours, their = load_model(biased, dtype, "cpu", adapter=folder), merged_by_peft(biased, folder, dtype)
        assert difference(ours, their) == []


def test_every_layout_of_the_file(biased, tmp_path):
    """Guards against `.bin` alone being refused, and against names as PEFT writes them for a model of this project."""
    folder = train(biased, tmp_path / "adapter", bias="all", target_modules=["lm_head", "q_proj"])
    expected = load_model(biased, "float32", "cpu", adapter=folder).state_dict()
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    for prefix in ("base_model.model.model.", "base_model.model."):
        torch.save(
            {name.replace("base_model.model.model.", prefix): each for name, each in tensors.items()},
            folder / "adapter_model.bin",
        )
        (folder / "adapter_model.safetensors").unlink(missing_ok=True)
        found = load_model(biased, "float32", "cpu", adapter=str(folder)).state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    torch.save({"x": Path}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin is refused: its pickle would run pathlib\.Path"):
        load_model(biased, adapter=folder)


def test_a_tied_model_keeps_its_tie_where_the_adapter_leaves_both_matrices_alone(tied, tmp_path):
    folder = train(tied, tmp_path / "adapter")
    model = load_model(tied, "bfloat16", "cpu", adapter=folder)
    assert model.lm_head.weight is model.embed_tokens.weight
    assert difference(model, merged_by_peft(tied, folder, torch.bfloat16)) == []


def test_trained_tokens_keep_the_tie_of_a_model(tied, tmp_path):
    """Guards against new rows in the embedding alone: PEFT trains the same rows of a tied head."""
    folder = train(tied, tmp_path / "adapter", trainable_token_indices=[5, 2])
    model = load_model(tied, "float16", "cpu", adapter=folder)
    assert model.lm_head.weight is model.embed_tokens.weight
    assert difference(model, merged_by_peft(tied, folder, torch.float16)) == []


@pytest.mark.parametrize("modules", [["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head"]], ids="-".join)
def test_whole_matrices_of_a_tied_model_untie_it(tied, tmp_path, modules):
    """Guards against a new head that also becomes the embedding, and against a save that loses one of the two."""
    folder = train(tied, tmp_path / "adapter", modules_to_save=modules)
    with pytest.warns(UserWarning, match="which were tied: they are untied"):
        model = load_model(tied, "float16", "cpu", adapter=folder)
    assert difference(model, merged_by_peft(tied, folder, torch.float16)) == [] and not model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved", "stored", "cpu")
    assert difference(again, merged_by_peft(tied, folder, torch.float16)) == []


@pytest.mark.parametrize(
    ("module", "config"),
    [("lm_head", {}), ("lm_head", {"use_dora": True}), ("embed_tokens", {})],
    ids=["head", "head, dora", "embedding"],
)
def test_lora_on_one_of_two_tied_matrices_is_merged_as_it_was_trained(tied, tmp_path, module, config):
    """Guards against PEFT's merge, which changes both matrices, and so gives another model than the trained one.

    The judge is PEFT on the untied copy of the model, as PEFT advises.
    """
    folder = train(tied, tmp_path / "adapter", target_modules=["q_proj", module], **config)
    with torch.no_grad(), pytest.warns(UserWarning, match="they are untied"):
        model = load_model(tied, "float32", "cpu", adapter=folder)
        trained = judge(tied, folder, torch.float32)(IDS).logits
        assert (
            (model(IDS) - trained).abs().max()
            < 1e-4
            < (model(IDS) - load_model(tied, "float32", "cpu")(IDS)).abs().max()
        )
    untied = theirs(tied, torch.float32)
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.data.clone())
    untied.config.tie_word_embeddings = False
    assert difference(model, peft.PeftModel.from_pretrained(untied, folder).merge_and_unload()) == []


def test_every_loader_takes_an_adapter(biased, tmp_path, monkeypatch):
    """Guards against an adapter that a loader drops, also for the model of a function."""
    folder = train(biased, tmp_path / "adapter")
    expected = load_model(biased, "float32", "cpu", adapter=folder).state_dict()
    (tmp_path / "made.py").write_text(
        f"import llama_jp\nmake = lambda: llama_jp.Llama.from_pretrained({str(biased)!r}, 'float32')"
    )
    monkeypatch.chdir(tmp_path)
    llama_folder(shutil.copytree(biased, tmp_path / "model"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = [
            Llama.from_pretrained(biased, "float32", "cpu", adapter=folder),
            llama_jp.load(tmp_path / "model", "float32", "cpu", adapter=folder)[0],
            load_model("made:make", adapter=folder),
        ]
    for model in models:
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
        assert not model.training and all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"peft_type": "IA3"}, r"peft_type is 'IA3', which is not supported \(supported: 'LORA'\); where PEFT can"),
        ({"peft_type": "ADALORA"}, "peft_type is 'ADALORA'"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type is 'PROMPT_TUNING'"),
        ({"peft_type": None}, "names no peft_type"),
        ({"init_lora_weights": "pissa_niter_4"}, "is 'pissa_niter_4', .*path_initial_model_for_weight_conversion"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out is True, which is not supported"),
        ({"trainable_token_indices": [3, 3]}, r"trainable_token_indices is \[3, 3\], but it has to be a list of diff"),
        ({"trainable_token_indices": [3, 96]}, "trains the ids 3 to 96, and embed_tokens has 96 rows"),
        ({"trainable_token_indices": [3]}, r"missing embed_tokens\.trainable_tokens_delta"),
        ({"trainable_token_indices": [3], "modules_to_save": ["embed_tokens"]}, "on embed_tokens beside LoRA or whole"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"alora_invocation_tokens": [1, 2]}, "alora_invocation_tokens"),
        ({"kasa_config": {"beta": 1e-4}}, "kasa_config is .*not supported; merge the adapter with PEFT"),
        ({"method_of_tomorrow": True}, "method_of_tomorrow is True, which is not supported"),
        ({"r": "8"}, "r is '8', but it has to be a positive whole number"),
        ({"lora_alpha": None}, "has no value for lora_alpha"),
        ({"bias": "some"}, "bias is 'some', but it has to be 'none' or 'all' or 'lora_only'"),
        ({"rank_pattern": {"q_proj": "4"}}, "rank_pattern is"),
        ({"target_modules": ["c_attn"]}, r"has no module of target_modules \['c_attn'\]"),
        ({"target_modules": ["("]}, "unexpected"),
        ({"target_modules": "("}, r"target_modules is '\(', but it has to be a list of names or a regular expression"),
        ({"target_modules": ["q_proj"]}, r"unexpected base_model.*\.0\.self_attn\.v_proj\.lora_A.* and 2 more"),
        ({"target_modules": ["q_proj", "v_proj", "up_proj"]}, r"missing layers\.0\.mlp\.up_proj\.lora_A\.weight, "),
        ({"r": 3}, r"q_proj\.lora_A\.weight is \(4, 24\) where the model and the rank make it \(3, 24\)"),
        ({"use_dora": True}, r"missing layers\.0\.self_attn\.q_proj\.lora_magnitude_vector"),
        ({"lora_bias": True, "target_modules": ["up_proj"]}, "has lora_bias on layers.0.mlp.up_proj, .* has no bias"),
        ({"use_dora": True, "target_modules": ["embed_tokens"]}, "has DoRA on embed_tokens"),
    ],
)  # fmt: skip
def test_settings_that_are_refused(biased, adapter, settings, sentence):
    """Guards against another model than the trained one where a setting is not known or does not fit."""
    with pytest.raises(ValueError, match=sentence) as error:
        load_model(biased, adapter=edit_settings(adapter, **settings))
    assert str(adapter) in str(error.value) and "\n" not in str(error.value)


def test_settings_that_change_nothing(biased, adapter):
    """Guards against a refusal of a later PEFT's files for keys that are switched off, or numbers of another method."""
    edit_settings(adapter, method_of_tomorrow=None, other=False, strength=0.5, names=[], task_type="CAUSAL_LM")
    load_model(biased, "float32", "cpu", adapter=adapter)


def test_damaged_tensors(biased, adapter):
    """Guards against weights that stay as they are, with a warning as in PEFT, where a tensor has no place."""

    def damage(tensors):
        tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 24)
        del tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
        tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight"] = torch.zeros(8, 4)
        tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] = torch.zeros(48, 4, dtype=torch.int8)

    with pytest.raises(ValueError) as error:
        load_model(biased, adapter=edit_adapter(adapter, damage))
    for part in (
        f"the adapter {adapter}, trained on {biased}, does not fit this model: ",
        "missing layers.1.self_attn.v_proj.lora_B.weight; ",
        "unexpected base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight; ",
        "v_proj.lora_B.weight is (8, 4) where the model and the rank make it (16, 4)",
        "no floats in base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight",
    ):
        assert part in str(error.value)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged or incomplete \(0 bytes\)"):
        load_model(biased, adapter=adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in .*: none of adapter_model\.safetensors, "):
        load_model(biased, adapter=adapter)


def test_an_adapter_with_added_tokens(biased, tmp_path):
    """Guards against shapes alone where the way out is known: the model has to have the tokens first."""
    larger = save_random(tmp_path / "larger", seed=6, attention_bias=True, **SMALL | {"vocab_size": 98})
    folder = train(larger, tmp_path / "adapter", modules_to_save=["embed_tokens", "lm_head"])
    sentence = r"embed_tokens\.weight is \(98, 24\) where .* \(96, 24\).*; for added tokens, enlarge the model first"
    with pytest.raises(ValueError, match=sentence):
        load_model(biased, adapter=folder)


def test_a_folder_without_an_adapter(biased, adapter, tmp_path):
    """Guards against "no such file" where a person names something else than the folder."""
    for source, sentence in (
        (tmp_path / "absent", "there is no folder .*absent with an adapter; download one with `hf download"),
        (adapter / "adapter_model.safetensors", f"is a file; name the adapter's folder, {adapter}"),
        (biased, "is a whole model, not an adapter: name it as the model"),
        (tmp_path, f"there is no adapter_config.json in .*; its subfolders hold adapters: use {adapter}"),
    ):
        with pytest.raises(FileNotFoundError, match=sentence):
            load_model(biased, adapter=source)
    with pytest.raises(FileNotFoundError, match=f"it is a PEFT adapter: name its base model {biased}, and"):
        load_model(adapter)


def test_an_adapter_of_another_base_is_reported(biased, adapter, tmp_path):
    """Guards against silence about the wrong base, and against a warning for the right one in another place."""
    with pytest.warns(UserWarning, match=f"was trained on {biased}, not on {tmp_path / 'other'}") as caught:
        load_model(shutil.copytree(biased, tmp_path / "other"), adapter=adapter)
    assert len(caught) == 1
    edit_settings(adapter, base_model_name_or_path="elyza/ELYZA-japanese-Llama-2-7b")
    for name in ("ELYZA-japanese-Llama-2-7b", "models--elyza--ELYZA-japanese-Llama-2-7b/snapshots/0123"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            load_model(shutil.copytree(biased, tmp_path / name), adapter=adapter)
    assert not is_other_base(read_adapter(adapter), "7b", tmp_path / "0123")
    assert is_other_base(read_adapter(adapter), "7b-fast", tmp_path / "0123")
    assert not is_other_base(read_adapter(edit_settings(adapter, base_model_name_or_path=None)), "7b", None)
