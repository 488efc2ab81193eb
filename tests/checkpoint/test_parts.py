"""Changed models: recorded by the names of their parts, and loaded only with parts that are handed in or trusted."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from helpers import changed_models
from helpers.changed_models import Gated, Mixed, Slopes, WithOtherMLP, attend_window, centred_norm, no_rope
from helpers.checkpoint_files import IDS, edit_config
from helpers.reference import SMALL

import llama_jp
from llama_jp import Llama, LlamaConfig
from llama_jp.checkpoint.load import load_model
from llama_jp.evaluation.layerwise import logits_by_layer

MODULE = "helpers.changed_models"


@pytest.mark.parametrize(
    ("functions", "sentence"),
    [
        ({"rope": no_rope}, rf"changed model \(rope {MODULE}:no_rope\); .*Llama.from_pretrained\(…, rope=no_rope\)\)"),
        ({"attention": attend_window}, rf"changed model \(attention {MODULE}:attend_window\); .*trust_parts=True"),
        ({"norm": centred_norm, "rope": no_rope}, rf"norm {MODULE}:centred_norm, rope {MODULE}:no_rope"),
    ],
    ids=["rope", "attention", "norm and rope"],
)
def test_changed_functions_are_recorded(small, tmp_path, functions, sentence):
    """Guards against a changed model that loads as a plain one, here or in transformers."""
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    folder = tmp_path / "out"
    model = load_model(small, dtype="float32", **functions)
    model.save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())
    assert raw["model_type"] == "llama_jp"
    assert raw["parts"] == {role: f"{MODULE}:{function.__name__}" for role, function in functions.items()}
    with pytest.raises(ValueError, match=sentence):
        load_model(folder)
    for given in (functions, {"trust_parts": True}):
        with torch.no_grad():
            assert torch.equal(load_model(folder, dtype="float32", **given)(IDS), model(IDS))
    for reference in (AutoModelForCausalLM, LlamaForCausalLM):
        # the bridge, once imported, knows the model_type, and asks for the parts
        with pytest.raises((ValueError, KeyError), match="llama_jp|holds a changed model"):
            reference.from_pretrained(folder)


@pytest.mark.parametrize("changed", [Gated, Slopes, Mixed, WithOtherMLP])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_changed_class_is_recorded(tmp_path, changed, dtype):
    """Guards against closures, methods, buffers and tensors of a class that count as a change beside it."""
    folder = tmp_path / "out"
    model = changed(LlamaConfig(**SMALL)).eval()
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=rf"\(class {MODULE}:{changed.__name__}\); .*{changed.__name__}.from_pretr"):
        load_model(folder)
    again = changed.from_pretrained(folder, dtype=dtype)
    trusted = Llama.from_pretrained(folder, dtype=dtype, trust_parts=True)
    assert type(trusted) is changed
    with torch.no_grad():
        assert torch.equal(trusted(IDS), again(IDS))
        if dtype == "float32":
            assert torch.equal(again(IDS), model(IDS))
    trusted.save_pretrained(tmp_path / "twice")
    assert changed.from_pretrained(tmp_path / "twice", dtype=dtype)(IDS).equal(again(IDS))


def test_a_class_and_a_function_are_recorded_together(tmp_path):
    """Guards against losing the function that the class only passes on."""
    Mixed(LlamaConfig(**SMALL), attention=attend_window).save_pretrained(tmp_path / "out")
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    assert raw["parts"] == {"class": f"{MODULE}:Mixed", "attention": f"{MODULE}:attend_window"}
    with pytest.raises(ValueError, match=rf"changed model \(attention {MODULE}:attend_window\)"):
        Mixed.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"changed model \(class {MODULE}:Mixed\)"):
        Llama.from_pretrained(tmp_path / "out", attention=attend_window)
    with pytest.raises(ValueError, match=rf"holds a {MODULE}:Mixed, which a Slopes cannot replace"):
        Slopes.from_pretrained(tmp_path / "out", trust_parts=True)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"attention": "os:absent"}, "os:absent cannot be imported: AttributeError"),
        ({"attention": "absent_module:f"}, "absent_module:f cannot be imported: ModuleNotFoundError"),
        ({"attention": f"{MODULE}:MODULE_OF_NOTHING"}, "cannot be imported"),
        ({"norm": "sys:path"}, "the norm sys:path is an object of the type list, not a function"),
        ({"class": "collections:OrderedDict"}, "the class collections:OrderedDict is not a subclass of llama_jp.Llama"),
        ({"mlp": "os:path"}, "config.json: parts is {'mlp': 'os:path'}, but it has to name class, attention"),
        ({"rope": "os"}, "parts is {'rope': 'os'}"),
        ({}, "parts is {}"),
        (None, "parts is None"),
        (["a:b"], "parts is"),
    ],
)
def test_names_that_are_no_parts_are_refused(small, tmp_path, parts, sentence):
    """Guards against a traceback for a module that is gone, and against objects of another kind."""
    load_model(small, attention=attend_window).save_pretrained(tmp_path / "out")
    edit_config(tmp_path / "out", parts=parts)
    with pytest.raises(ValueError, match=sentence):
        load_model(tmp_path / "out", trust_parts=True)


def test_a_module_in_the_current_folder_is_found_in_a_new_process(small, tmp_path):
    """Guards against names that only the saving process can import. Nothing is imported without trust."""
    (tmp_path / "mine.py").write_text("print('imported')\ndef no_norm(x, weight, eps):\n    return x * weight\n")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from llama_jp import Llama\n"
        "if Path('out').exists():\n"
        "    Llama.from_pretrained('out', trust_parts=sys.argv[2] == 'True')\n"
        "else:\n"
        "    import mine\n"
        "    Llama.from_pretrained(sys.argv[1], norm=mine.no_norm).save_pretrained('out')\n"
    )
    (tmp_path / "script.py").write_text(script)
    for trust, status in (("-", 0), ("False", 1), ("True", 0)):
        words = [sys.executable, "-c", "import sys; sys.path.remove(''); exec(open('script.py').read())"]
        words = [sys.executable, tmp_path / "script.py"] if trust == "-" else words
        done = subprocess.run([*words, small, trust], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert ("imported" in done.stdout) == (trust != "False")


def test_a_changed_model_is_used_as_a_plain_one_nowhere(small, tmp_path):
    """Guards against commands that read the folder themselves and would measure or certify another model."""
    load_model("demo", attention=attend_window).save_pretrained(tmp_path / "changed")
    with pytest.raises(ValueError, match=rf"changed one \(attention {MODULE}:attend_window\), and only a plain Llama"):
        llama_jp.quantize(tmp_path / "changed", tmp_path / "out")
    with pytest.raises(ValueError, match="holds a changed model"):
        logits_by_layer(tmp_path / "changed", [], torch.float32, "")
    assert not (tmp_path / "out").exists()


def test_a_function_returns_a_model(tmp_path):
    """Guards against a source `module:function` that is looked up on the hub, and against ignored arguments."""
    model, tokenizer = llama_jp.load(f"{MODULE}:make", dtype="bfloat16")
    assert model.lm_head.weight.dtype == torch.bfloat16 and not model.training and tokenizer.vocab_size == 3072
    for name, sentence in (
        ("make_nothing", "returns an object of the type NoneType, but a Llama is needed"),
        ("fail", r"fails: ZeroDivisionError: one by zero \(changed_models.py, line \d+\)"),
        ("absent", "cannot be imported: AttributeError"),
    ):
        with pytest.raises(ValueError, match=f"{MODULE}:{name} {sentence}"):
            load_model(f"{MODULE}:{name}")
    with pytest.raises(ValueError, match="no revision 'main'"):
        load_model(f"{MODULE}:make", revision="main")
    with pytest.raises(ValueError, match="has its own attention, rope and norm"):
        load_model(f"{MODULE}:make", attention="eager")
    with pytest.raises(ValueError, match="returns an object of the type Llama, but a Gated is needed"):
        Gated.from_pretrained(f"{MODULE}:make")


def test_a_function_without_a_checkpoint_has_no_tokenizer(monkeypatch):
    """Guards against the demo's tokenizer beside a model of another vocabulary."""
    monkeypatch.setattr(changed_models, "make", lambda: Llama(LlamaConfig(**SMALL)))
    with pytest.raises(ValueError, match="has no tokenizer; set its `folder`"):
        llama_jp.load(f"{MODULE}:make")
