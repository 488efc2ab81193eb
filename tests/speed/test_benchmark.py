"""`llama-jp bench` on the bundled model."""

from __future__ import annotations

import json

from llama_jp.cli import main


def test_bench_prints_what_it_measured(capsys, tmp_path):
    """A whole run: a table, then one JSON line with the same numbers."""
    words = ["--prompt", "16", "--batch", "1,2", "--steps", "4", "--runs", "1", "--optimize", "exact", "--threads", "1"]
    assert main(["bench", "demo", *words, "--dtype", "float32", "--json", str(tmp_path / "bench.json")]) == 0
    out = capsys.readouterr().out
    assert "decoding, batch 2" in out and "numerical deviation: none" in out
    result = json.loads(out.splitlines()[-1])
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    for rates in (result["as_loaded"], result["optimized"]):
        assert list(rates["decode"]) == ["1", "2"] and list(rates["prefill"]) == ["16"]
        assert rates["decode"]["2"]["lowest"] <= rates["decode"]["2"]["median"] <= rates["decode"]["2"]["highest"]
    assert result["weights_read_per_step"] == (6_393_088 - 3072 * 256) * 4  # all but the embedding


def test_bench_refuses_nonsense(capsys):
    assert main(["bench", "demo", "--batch", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
    assert main(["bench", "no-such-folder"]) == 1
    assert "no-such-folder" in capsys.readouterr().err
