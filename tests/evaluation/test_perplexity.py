"""evaluate: equal to the tool of each convention, one answer for every batch, the reference, wrong inputs."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch

import llama_jp
from llama_jp.evaluation import logits
from llama_jp.evaluation.conventions import CONVENTIONS
from llama_jp.evaluation.divergence import measure_divergence
from llama_jp.evaluation.documents import read_text
from llama_jp.evaluation.perplexity import evaluate

# Our sums are float64; the tools' are float32.
CLOSE = {"rel": 1e-6}


def loss_as_on_transformers_page(model, ids, max_length: int, stride: int) -> float:
    """The loop of https://huggingface.co/docs/transformers/perplexity."""
    total, tokens, previous_end = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + max_length, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous_end)] = -100
        with torch.no_grad():
            loss = model(ids[:, begin:end], labels=labels).loss.item()
        loss_tokens = int((labels != -100).sum()) - 1
        total, tokens = total + loss * loss_tokens, tokens + loss_tokens
        previous_end = end
        if end == ids.shape[1]:
            break
    return total / tokens


def loss_as_in_llama_perplexity(model, ids: list[int], n_ctx: int) -> tuple[float, int]:
    """The loop of llama.cpp's tools/perplexity/perplexity.cpp, with n_seq = 1."""
    first, total, count = n_ctx // 2, 0.0, 0
    for chunk in range(len(ids) // n_ctx):
        tokens = ids[chunk * n_ctx : (chunk + 1) * n_ctx]
        with torch.no_grad():
            log_probs = model(torch.tensor([[1, *tokens[1:]]])).logits[0].double().log_softmax(-1)
        for j in range(first, n_ctx - 1):
            total, count = total - log_probs[j, tokens[j + 1]].item(), count + 1
    return total / count, count


@pytest.mark.parametrize(("window", "stride"), [(1024, 512), (32, 16), (31, 20), (40, 40), (24, 3)])
def test_the_loss_is_that_of_transformers_page(demo, reference, text, window, stride):
    """Guards against the plain mean over tokens, which differs where windows overlap."""
    their_model, their_tokenizer = reference
    ids = their_tokenizer(text, return_tensors="pt").input_ids
    result = evaluate(*demo, text, window=window, stride=stride)
    assert result.loss == pytest.approx(loss_as_on_transformers_page(their_model, ids, window, stride), **CLOSE)
    assert result.perplexity == math.exp(result.loss)
    per_byte = result.loss * (ids.shape[1] - 1) / len(text.encode()) / math.log(2)
    assert result.bits_per_byte == pytest.approx(per_byte) and result.size.characters == len(text)


@pytest.mark.parametrize("window", [1024, 40, 33, 7])
def test_the_numbers_are_those_of_lm_eval(demo, reference, text, window):
    """Guards against a single BOS: lm-eval predicts a second one. Its metrics are those of wikitext's task."""
    metrics = pytest.importorskip("lm_eval.api.metrics")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=reference[0], tokenizer=reference[1], max_length=window, batch_size=4)
    (total,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
    result = evaluate(*demo, text, window=window, convention="lm-eval")
    per_byte, per_word = (total, len(text.encode())), (total, len(re.split(r"\s+", text)))
    assert result.bits_per_byte == pytest.approx(metrics.bits_per_byte([per_byte]), **CLOSE)
    assert result.byte_perplexity == pytest.approx(metrics.weighted_perplexity([per_byte]), **CLOSE)
    assert result.word_perplexity == pytest.approx(metrics.weighted_perplexity([per_word]), rel=1e-4)
    assert result.loss * result.tokens == pytest.approx(-total, **CLOSE)


@pytest.mark.parametrize("window", [32, 33, 3])
def test_the_loss_is_that_of_llama_perplexity(demo, reference, text, window):
    result = evaluate(*demo, text, window=window, convention="llama.cpp")
    loss, tokens = loss_as_in_llama_perplexity(reference[0], demo[1].encode(text), window)
    assert (result.loss, result.tokens) == (pytest.approx(loss, **CLOSE), tokens)


def test_documents_are_those_of_certificates(demo):
    """One text, two ways: the windows of `read_text` with the KL divergence of certificates, and evaluate."""
    model, tokenizer = demo
    text = read_text("held-out.ja.txt", tokenizer, model.config)
    text = dataclasses.replace(text, windows=text.windows[:6])
    documents = (llama_jp.evaluation.documents.TEXTS / text.file).read_text(encoding="utf-8").split("\n----\n")[:6]
    with torch.inference_mode():
        outputs = [model(window.ids)[0] for window in text.windows]
    certified = measure_divergence(outputs, outputs, text)
    result = evaluate(model, tokenizer, "\n----\n".join(documents), model, convention="documents")
    assert result.tokens == text.scored_tokens
    assert result.perplexity == pytest.approx(certified.perplexity, **CLOSE)
    assert (result.kl, result.top1, result.first_difference) == (0, 1, None)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_batches_change_only_the_rounding(demo, text, monkeypatch, convention):
    """In float32, matrix products of other heights may add in another order; 1e-6 is ten times what was measured."""
    documents = text.replace("た。\n", "た。\n----\n") if convention == "documents" else text
    together = evaluate(*demo, documents, window=24, convention=convention)
    monkeypatch.setattr(logits, "LOGITS_AT_ONCE", 1)
    alone = evaluate(*demo, documents, window=24, convention=convention)
    assert together.loss == pytest.approx(alone.loss, rel=1e-6) and together.tokens == alone.tokens


def test_rows_beyond_the_trained_context_have_no_padding(demo):
    """Guards against dynamic rope, whose angles depend on the longest row of a batch."""
    config = dataclasses.replace(demo[0].config, max_position_embeddings=16)
    assert logits.batch_by_length([10, 15, 16], config) == [[2, 1, 0]]
    assert logits.batch_by_length([18, 18, 17, 10], config) == [[0], [1], [2], [3]]


def test_the_reference_and_the_first_difference(demo, text):
    model, tokenizer = demo
    other = llama_jp.Llama.from_pretrained("demo", dtype="float32")
    other.load_state_dict({name: tensor.clone() for name, tensor in model.state_dict().items()}, assign=True)
    with torch.no_grad():
        other.lm_head.weight.add_(torch.randn(other.lm_head.weight.shape) * 0.02)
    result = evaluate(model, tokenizer, text, other)
    ids = torch.tensor([tokenizer.encode(text)])
    with torch.no_grad():
        p, q = (each(ids)[0, :-1].double().log_softmax(-1) for each in (other, model))
    assert result.kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-5)
    assert result.top1 == float((p.argmax(-1) == q.argmax(-1)).double().mean()) < 1
    row = int((p.argmax(-1) != q.argmax(-1)).nonzero()[0])
    a, b = int(p[row].argmax()), int(q[row].argmax())
    first = result.first_difference
    assert (first.position, first.token, first.reference_token) == (row, b, a)
    assert first.margin == pytest.approx(float(p[row, a] - p[row, b]), rel=1e-4)
    assert first.text_before == tokenizer.decode(ids[0, max(0, row - 19) : row + 1].tolist())
    assert result.loss == pytest.approx(evaluate(model, tokenizer, text).loss, rel=1e-6)
    assert result.against.loss == pytest.approx(evaluate(other, tokenizer, text).loss, rel=1e-6)


def test_the_first_difference_is_the_first_in_the_text(demo, text):
    """Windows are computed by length; guards against the first of the longest window."""
    model, tokenizer = demo
    changed = llama_jp.Llama.from_pretrained("demo", dtype="float32")
    changed.lm_head.weight.data = -changed.lm_head.weight.data
    documents = "犬が来ました。\n----\n" + text
    result = evaluate(model, tokenizer, documents, changed, convention="documents")
    assert result.first_difference.position == 0 and result.top1 < 0.1


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("", {}, "the text is empty"),
        (
            "犬",
            {"convention": "llama.cpp"},
            r"the text has \d tokens, and llama.cpp's convention needs two windows, 1024",
        ),
        ("犬と猫" * 9, {"convention": "llama.cpp", "window": 2}, "a window of 2 has no token to score"),
        ("[INST] 犬 [/INST] ", {"convention": "documents"}, "the text has no token to score"),
        ("----", {"window": 1025}, "a window of 1025 tokens does not fit into the model's context of 1024"),
        ("犬", {"window": 1}, "a window of 1 predicts no token"),
        ("犬", {"window": 8, "stride": 9}, "a stride of 9 skips tokens between windows of 8; take at most 8"),
        ("犬", {"window": 8, "stride": 1}, "a stride of 1 gives every window but the first the weight 0"),
        ("犬", {"convention": "lm-eval", "stride": 4}, "the windows of the convention lm-eval do not overlap"),
        ("犬", {"convention": "hf"}, "the convention is 'hf'; it can be 'transformers', 'lm-eval'"),
    ],
)
def test_wrong_inputs_are_named(demo, text, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(*demo, text, **options)


def test_one_token_after_bos_is_enough(demo):
    model, tokenizer = demo
    ids = tokenizer.encode("の")
    assert evaluate(model, tokenizer, "の").tokens == len(ids) - 1


def test_another_vocabulary_and_numbers_that_are_not_finite(demo, small):
    model, tokenizer = demo
    other = llama_jp.Llama.from_pretrained(small, dtype="float32", device="cpu")
    with pytest.raises(ValueError, match="the model has 3072 ids and the reference 96, so there is no KL divergence"):
        evaluate(model, tokenizer, "の", other)
    with pytest.raises(ValueError, match=r"the tokenizer gives id \d+, but the model has 96 ids"):
        evaluate(other, tokenizer, "クマが海辺に")
    broken = llama_jp.Llama.from_pretrained("demo", dtype="float32")
    broken.norm.weight.data = broken.norm.weight.data * math.nan
    for against in (None, model):
        with pytest.raises(ValueError, match="the loss is not finite: the model's logits"):
            evaluate(broken, tokenizer, "クマが海辺に", against)


def test_long_losses_have_no_overflow(demo):
    """Japanese has no spaces, so a text is one word for lm-eval."""
    assert evaluate(*demo, "龘" * 300, convention="lm-eval").word_perplexity == math.inf
