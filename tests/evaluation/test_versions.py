"""A version beside its original: the numbers of `evaluate`, with one model in memory, and those of llama.cpp."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.gguf_files import Type, vocabulary_keys, write_gguf

import llama_jp
from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.evaluation import versions
from llama_jp.evaluation.documents import HELD_OUT, find_text
from llama_jp.evaluation.perplexity import evaluate
from llama_jp.evaluation.versions import Original

TEXT = find_text(HELD_OUT).read_text(encoding="utf-8")[:3000]


@pytest.fixture(scope="module")
def demo():
    return llama_jp.load("demo", dtype="float32")


def changed(model: llama_jp.Llama, factor: float = 1.02) -> llama_jp.Llama:
    """A version of the demo with other numbers."""
    version = llama_jp.Llama.from_pretrained("demo", dtype="float32")
    version.layers[2].mlp.down_proj.weight.data *= factor
    return version


@pytest.mark.parametrize("options", [{"convention": "documents"}, {"window": 100, "stride": 30}])
def test_kept_logits_give_the_numbers_of_evaluate(demo, options):
    model, tokenizer = demo
    version = changed(model)
    expected = evaluate(version, tokenizer, TEXT, model, **options)
    with Original(model, tokenizer, TEXT, **options) as original:
        assert original.evaluation == expected.against
        assert original.compare(version) == expected
        assert original.compare(model).kl == 0 and original.compare(model).first_difference is None
        folder = Path(original.folder.name)
        assert (folder / "logits").stat().st_size == original.bytes
    assert not folder.exists()


def test_quantiles_are_those_of_the_single_tokens(demo):
    """99 % of the tokens have at most kl_99, and fewer have at most the next smaller one."""
    model, tokenizer = demo
    version, text = changed(model, 1.3), TEXT[:700]
    ids = torch.tensor([tokenizer.encode(text, bos=True, parse_special=True)])
    p, q = (each(ids)[0, :-1].double().log_softmax(-1) for each in (model, version))
    by_token = (p.exp() * (p - q)).sum(-1)
    found = evaluate(version, tokenizer, text, model)
    assert found.kl == pytest.approx(by_token.mean().item(), rel=1e-6)
    assert found.kl_max == pytest.approx(by_token.max().item(), rel=1e-6)
    assert (by_token <= found.kl_99 * (1 + 1e-6)).double().mean() >= 0.99
    assert (by_token < found.kl_99 * (1 - 1e-6)).double().mean() < 0.99


def test_mistakes_leave_no_file(demo, small, monkeypatch, tmp_path):
    model, tokenizer = demo
    monkeypatch.setattr(versions.tempfile, "tempdir", str(tmp_path))
    with Original(model, tokenizer, TEXT, convention="documents") as original:
        other = llama_jp.Llama.from_pretrained(small)
        with pytest.raises(ValueError, match=r"it has 96 ids and the original 3,072, so it is no version of it"):
            original.compare(other)
        short = changed(model)
        short.config = llama_jp.LlamaConfig(**vars(model.config) | {"max_position_embeddings": 100})
        with pytest.raises(ValueError, match="its context of 100 tokens does not hold windows of 512"):
            original.compare(short)
    with pytest.raises(ValueError, match="not finite"):
        Original(changed(model, math.nan), tokenizer, TEXT)
    monkeypatch.setattr(versions.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10_000))
    with pytest.raises(ValueError, match=r"the logits of [\d,]+ tokens take [\d,]+ bytes, and .* has 10,000; use a"):
        Original(model, tokenizer, TEXT)
    assert list(tmp_path.iterdir()) == []


def test_kl_is_that_of_llama_cpp(demo, tmp_path):
    """The definition of `llama-perplexity --kl-divergence` on llama.cpp's own logits, in float32."""
    llama_cpp = pytest.importorskip(
        "llama_cpp", reason="llama-cpp-python is not installed: pip install llama-cpp-python"
    )
    model, tokenizer = demo
    folder = shutil.copytree(find_checkpoint("demo"), tmp_path / "version")
    version = changed(model, 1.3)
    version.save_pretrained(folder)
    keys = vocabulary_keys(find_checkpoint("demo"))
    files = [write_gguf(find_checkpoint("demo"), tmp_path / "a.gguf", Type.F32, keys)]
    files.append(write_gguf(folder, tmp_path / "b.gguf", Type.F32, keys))
    ids = tokenizer.encode(TEXT, bos=True)
    chunks = [[tokenizer.bos_id, *ids[start + 1 : start + 128]] for start in range(0, len(ids) // 128 * 128, 128)]
    logits = []
    for file in files:
        options = {"n_ctx": 128, "logits_all": True, "type_k": 0, "type_v": 0, "flash_attn": False, "verbose": False}
        engine = llama_cpp.Llama(str(file), **options, n_threads_batch=1)  # two threads would spin while they wait
        rows = []
        for chunk in chunks:
            engine.reset()
            engine.eval(chunk)
            rows.append(torch.tensor(engine.scores[:128]))
        logits.append(torch.stack(rows)[:, 64:-1].double().log_softmax(-1))  # the second half of each chunk
    p, q = logits
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    found = evaluate(version, tokenizer, TEXT, model, window=128, convention="llama.cpp")
    assert expected > 1e-4 and found.kl == pytest.approx(expected, abs=1e-6)
