"""The two models of glassllm, trained by its author, with its own forward in NumPy as the judge."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from llama_jp.checkpoint.load import load_model

glassllm = pytest.importorskip("glassllm", reason="glassllm is not installed: pip install 'llama-jp[test-real]'")

# glassllm's names, and Meta's, whose rotation turns neighbouring pairs as well
NAMES = {
    "norm1.gamma": "attention_norm",
    "attn.W_Q": "attention.wq",
    "attn.W_K": "attention.wk",
    "attn.W_V": "attention.wv",
    "attn.W_O": "attention.wo",
    "norm2.gamma": "ffn_norm",
    "ffn.W1": "feed_forward.w1",
    "ffn.W3": "feed_forward.w3",
    "ffn.W2": "feed_forward.w2",
}
TOLERANCE = 2e-5  # of logits up to 26, for another order of float32 sums; 1.5e-5 was measured


@pytest.fixture(scope="module", params=glassllm.LANGUAGES)
def pair(request, tmp_path_factory):
    """(our model, glassllm's model, glassllm's tokenizer); the weights travel in the layout of Meta's files."""
    theirs, tokenizer = glassllm.load_pretrained(request.param)
    tensors = {}
    for name, parameter in theirs.named_parameters().items():
        weight = torch.from_numpy(np.ascontiguousarray(parameter.data.T))  # glassllm stores (in, out)
        if name.startswith("blocks."):
            _, layer, part = name.split(".", 2)
            tensors[f"layers.{layer}.{NAMES[part]}.weight"] = weight
    tensors["norm.weight"] = torch.from_numpy(theirs.norm_f.gamma.data)
    tensors["tok_embeddings.weight"] = torch.from_numpy(theirs.E.data)
    tensors["output.weight"] = tensors["tok_embeddings.weight"].clone()
    cfg = theirs.cfg
    params = {
        "dim": cfg.d_model,
        "n_layers": cfg.n_layers,
        "n_heads": cfg.n_heads,
        "n_kv_heads": cfg.n_kv_heads,
        "norm_eps": cfg.eps,
        "rope_theta": cfg.rope_base,
        "vocab_size": cfg.vocab_size,
    }
    folder = tmp_path_factory.mktemp(request.param)
    save_file(tensors, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(params))
    return load_model(folder, dtype="float32", device="cpu"), theirs, tokenizer


@torch.inference_mode()
def test_logits_equal_an_independent_implementation(pair):
    """Guards against a mistake that transformers and this project share: rotation, groups of heads, norms, order."""
    ours, theirs, _ = pair
    ids = np.random.default_rng(0).integers(0, theirs.cfg.vocab_size, (3, theirs.cfg.max_len))
    expected = theirs(ids).data
    logits = ours(torch.from_numpy(ids)).numpy()
    assert np.abs(logits - expected).max() < TOLERANCE and np.abs(expected).max() > 5

    cache, past, start = ours.new_cache(3, ids.shape[1]), theirs.new_cache(), 0
    for length in (40, 1, 1, 30):
        chunk = ids[:, start : start + length]
        expected = theirs(chunk, cache=past, start=start).data
        assert np.abs(ours(torch.from_numpy(chunk), cache).numpy() - expected).max() < TOLERANCE
        start += length


@torch.inference_mode()
def test_greedy_text_equals_an_independent_implementation(pair):
    """Guards against a forward that is near for random ids only."""
    ours, theirs, tokenizer = pair
    prompt = tokenizer.encode("The cat " if tokenizer.decode(tokenizer.encode("The")) == "The" else "O gato ")
    expected = [step.token for step in theirs.generate(prompt, 40, greedy=True)]
    cache, ids, new = ours.new_cache(1, 128), [], torch.tensor([prompt])
    for _ in expected:
        ids.append(int(ours(new, cache)[0, -1].argmax()))
        new = torch.tensor([[ids[-1]]])
    assert ids == expected
