"""llama-jp info on a quantised checkpoint."""

from __future__ import annotations

import json
import shutil

from llama_jp.cli import main
from llama_jp.linear.scheme import Scheme


def test_info_of_a_quantised_checkpoint_without_its_weights(small, tmp_path, capsys):
    """Guards against an error for a quantised hub repository, of which only the small files are downloaded."""
    shutil.copy(small / "config.json", tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    scheme = Scheme(8)
    (tmp_path / "config.json").write_text(json.dumps(raw | {"quantization_config": scheme.to_json()}))
    assert main(["info", "--model", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert str(scheme) in out and "there are no weights in" in out
