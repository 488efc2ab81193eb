"""`llama-jp bench` on the bundled model."""

from __future__ import annotations

import json

from llama_jp.cli import main


def test_bench_prints_what_it_measured(capsys):
    """A whole run: JSON on standard output, the table on standard error."""
    words = ["--prompt", "16", "--batch", "1,2", "--steps", "4", "--runs", "1", "--optimize", "exact", "--threads", "1"]
    assert main(["bench", "demo", *words, "--dtype", "float32", "--json"]) == 0
    out, table = capsys.readouterr()
    assert "decoding, batch 2" in table and "numerical deviation: none" in table
    result = json.loads(out)
    for rates in (result["as_loaded"], result["optimized"]):
        assert list(rates["decode"]) == ["1", "2"] and list(rates["prefill"]) == ["16"]
        assert rates["decode"]["2"]["lowest"] <= rates["decode"]["2"]["median"] <= rates["decode"]["2"]["highest"]
    assert result["weights_read_per_step"] == (6_393_088 - 3072 * 256) * 4  # all but the embedding


def test_bench_refuses_nonsense(capsys):
    assert main(["bench", "demo", "--batch", "0"]) == 1
    assert "at least 1" in capsys.readouterr().err
    assert main(["bench", "no-such-folder"]) == 1
    assert "no-such-folder" in capsys.readouterr().err
