"""llama-jp convert."""

from __future__ import annotations

import torch
from helpers.reference import publish
from helpers.tokenizer_files import llama_folder

from llama_jp.checkpoint.load import load_model


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
