"""llama-jp convert."""

from __future__ import annotations

import torch
from helpers.changed_models import attend_window
from helpers.reference import publish
from helpers.tokenizer_files import llama_folder

from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.save import save_model


def test_convert_writes_safetensors_from_bin(run, folder, tmp_path):
    published = publish(folder, tmp_path / "published")
    llama_folder(published)
    status, _, err = run("convert", str(published), str(tmp_path / "out"))
    assert status == 0, err
    assert "1 safetensors file" in err and "float16" in err
    assert {"tokenizer.model", "tokenizer.json", "model.safetensors"} <= {f.name for f in (tmp_path / "out").iterdir()}
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out", dtype="stored")(ids), load_model(folder, dtype="stored")(ids))
    status, _, err = run("convert", str(published), str(tmp_path / "out"))
    assert status == 1 and "is not an empty folder" in err
    assert run("convert", str(published), str(tmp_path / "half"), "--dtype", "float32")[0] == 0
    assert load_model(tmp_path / "half", dtype="stored").lm_head.weight.dtype == torch.float32
    assert run("convert", str(tmp_path / "absent"), str(tmp_path / "no"))[0] == 1
    assert not (tmp_path / "no").exists()
    assert run("convert", str(published), str(tmp_path / "no"), "--max-shard-size", "big")[0] == 1
    assert not (tmp_path / "no").exists()


def test_a_changed_model_is_converted_as_what_it_is(run, folder, tmp_path):
    """Guards against a plain copy of a changed model, and against code that runs without consent."""
    changed = str(tmp_path / "changed")
    model = load_model(folder, dtype="stored", attention=attend_window)
    save_model(model, changed)
    status, _, err = run("convert", changed, str(tmp_path / "no"))
    assert status == 1 and "holds a changed model (attention helpers.changed_models:attend_window)" in err
    assert not (tmp_path / "no").exists()
    assert run("convert", changed, str(tmp_path / "out"), "--trust-parts")[0] == 0
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "out", dtype="stored", trust_parts=True)(ids), model(ids))


def test_the_model_of_a_function_is_converted(run, tmp_path, monkeypatch):
    """Guards against a function that is looked up on the hub, and against the current folder not being searched."""
    (tmp_path / "double.py").write_text(
        "import llama_jp, torch\n"
        "def make():\n"
        "    model = llama_jp.Llama.from_pretrained('demo', dtype='bfloat16')\n"
        "    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 2)\n"
        "    return model\n"
        "def fail():\n"
        "    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run("convert", "double:make", "out")[0] == 0
    plain, doubled = load_model("demo", dtype="bfloat16"), load_model("out", dtype="stored")
    assert torch.equal(doubled.lm_head.weight, plain.lm_head.weight * 2)
    assert (tmp_path / "out" / "tokenizer.model").is_file()
    status, _, err = run("convert", "double:fail", "no")
    assert (
        status == 1 and err == "llama-jp: double:fail fails: ZeroDivisionError: division by zero (double.py, line 7)\n"
    )
