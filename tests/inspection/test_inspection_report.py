"""The page of a run: it changes nothing, it holds everything, and it is one file."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.changed_models import attend_window
from inspection.conftest import TEXT, content_of

import llama_jp
from llama_jp.config import LlamaConfig
from llama_jp.inspection import interface, report
from llama_jp.model import Llama


def random_model(tokenizer, **changes) -> Llama:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6}
    sizes |= {"num_key_value_heads": 2, "rms_norm_eps": 1e-5, "vocab_size": tokenizer.vocab_size}
    functions = {name: changes.pop(name) for name in ("attention", "rope", "norm") if name in changes}
    return Llama(LlamaConfig(**sizes | changes), **functions)


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "top_p": 0.9, "seed": 1}, {"prompt_lookup_num_tokens": 3}])
def test_a_page_changes_no_bit(demo, tmp_path, options):
    """Against: hooks, or calls of the lens, that change the run or its random numbers."""
    model, tokenizer = demo
    ids = tokenizer.encode("クマは、海辺でクマは、海辺で")
    (plain,) = llama_jp.generate(model, [ids], max_new_tokens=12, **options)
    before = model(torch.tensor([ids]))
    run = report(model, ids, tmp_path / "page.html", max_new_tokens=12, **options)
    assert run.answer == plain  # ids, log-probabilities, scores, counts of drafts
    assert torch.equal(model(torch.tensor([ids])), before)
    for logits, id, logprob in zip(run.logits, plain.ids, plain.logprobs, strict=True):
        assert logits.log_softmax(-1)[id].item() == logprob


def test_the_page_of_40_tokens_is_small(demo, tmp_path):
    model, tokenizer = demo
    run = report(model, TEXT, tmp_path / "page.html", max_new_tokens=1)
    assert run.task.prompt_length == 40
    assert (tmp_path / "page.html").stat().st_size <= 500_000


def test_the_page_holds_all_heads_and_layers(made):
    content = content_of(made[0])
    assert content["layers"] == [0, 1, 2, 3, 4, 5] and content["heads"] == [0, 1, 2, 3]
    assert {f"attention.{layer}" for layer in range(6)} <= content["tensors"].keys()
    assert [text["name"] for text in content["texts"]] == [""]
    assert content["model"]["parameters"] == 6_393_088
    assert content["ids"] == made[1].ids and content["seed"] == 3


def test_the_page_makes_no_request(made):
    """Against: a font, script or picture from the network. The page's policy refuses them as well."""
    text = made[0].read_text("utf-8")
    assert "default-src 'none'" in text
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<(img|iframe|object|embed)\b|\bsrc=|@import|url\(|fetch\(|XMLHttpRequest|import\(", text)
    assert "/* include" not in text


def test_a_text_cannot_end_the_data(demo, tmp_path):
    """Against: `</script>` in a prompt, which would run as code in the reader's browser."""
    run = report(demo[0], "</script><script>alert(1)</script>", tmp_path / "page.html", max_new_tokens=1)
    assert content_of(tmp_path / "page.html")["ids"] == run.ids
    assert "alert(1)</script>" not in (tmp_path / "page.html").read_text("utf-8")


def test_it_shows_the_chosen_layers_and_heads(demo, tmp_path):
    run = report(demo[0], "クマ", tmp_path / "page.html", layers=[5, 2], heads=[1], max_new_tokens=1)
    content = content_of(tmp_path / "page.html")
    assert content["layers"] == [2, 5] and content["heads"] == [1]
    assert run.weights.keys() == {2, 5} and run.weights[5].shape[0] == 1
    assert "values.layers.0.mlp" not in content["tensors"] and "norm.layers.0" in content["tensors"]


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"attention": "eager"}, {"attention": attend_window}, {"attention_bias": True}],
)
def test_any_model_has_a_page(demo, tmp_path, changes):
    """Grouped heads, tied matrices, biases, another attention: the page quotes the functions of this model."""
    model = random_model(demo[1], **changes)
    run = report(model, "クマが", tmp_path / "page.html", tokenizer=demo[1], instruct=False, max_new_tokens=3)
    assert all(weights.shape == (6, len(run.ids) - 1, len(run.ids) - 1) for weights in run.weights.values())
    quoted = [source["name"] for source in content_of(tmp_path / "page.html")["sources"]]
    assert ("attend_window" in quoted) == (changes.get("attention") is attend_window)


def test_each_layer_quotes_its_own_functions(demo, tmp_path):
    """Against: a page that shows the source of layer 0 for a model whose layers differ."""
    model = random_model(demo[1])
    model.layers[1].self_attn.attend = attend_window
    report(model, "クマが", tmp_path / "page.html", tokenizer=demo[1], instruct=False, max_new_tokens=2)
    content = content_of(tmp_path / "page.html")
    (scores,) = (operation for operation in content["operations"] if operation["name"] == "scores")
    assert [content["sources"][index]["name"] for index, _ in scores["quotes"]] == ["attend_eager", "attend_window"]
    assert {source["name"] for source in content["sources"] if not source["is_llama"]} == {"attend_window"}
    assert content["fused"] == [True, False] and content["model"]["attention"] == "attend_sdpa, attend_window"


def test_the_weights_of_a_changed_attention_are_its_own(demo, tmp_path):
    """Against: weights computed from the causal mask, where the model's own attention sees four keys."""
    model = random_model(demo[1], attention=attend_window)
    run = report(
        model, "海辺のクマと森のリス", tmp_path / "p.html", tokenizer=demo[1], instruct=False, max_new_tokens=4
    )
    N = len(run.ids) - 1
    far = torch.ones(N, N, dtype=torch.bool).tril(-4)
    assert N > 6 and run.weights[0][:, far].abs().max() == 0


def test_a_layer_without_trace_points_is_left_out(demo, tmp_path):
    """A changed model may compute attention without `attend`: its page has the rest."""

    class Average(torch.nn.Module):
        def forward(self, x, *args, **kwargs):
            return x * 0.1

    model = random_model(demo[1])
    model.layers[0].self_attn = Average()
    run = report(model, "クマが海辺に", tmp_path / "page.html", tokenizer=demo[1], instruct=False, max_new_tokens=2)
    assert run.weights.keys() == {1}
    content = content_of(tmp_path / "page.html")
    assert "values.layers.1.self_attn.q_proj" in content["tensors"]


def test_int8_and_optimised_models(demo, quantizable, tmp_path):
    with pytest.warns(UserWarning, match="no certificate"):  # a random checkpoint without a tokenizer
        llama_jp.quantize(quantizable, tmp_path / "int8")
    model = Llama.from_pretrained(tmp_path / "int8", dtype="float32")
    llama_jp.optimize(model, "exact")
    (plain,) = llama_jp.generate(model, [[1, 5, 7]], max_new_tokens=3)
    run = report(model, [1, 5, 7], tmp_path / "page.html", tokenizer=demo[1], max_new_tokens=3)
    assert run.answer.ids == plain.ids
    assert {"layers.0.self_attn.q_proj", "layers.0.mlp.gate_proj"} <= run.samples.keys()  # parts of a fused matrix
    shown = content_of(tmp_path / "page.html")["model"]
    assert "int8" in shown["quantization"] and shown["parameters"] is None  # packed weights cannot be counted


def test_the_template_is_the_checkpoints(demo, tmp_path):
    model, tokenizer = demo
    chat = report(model, "クマ", tmp_path / "a.html", max_new_tokens=1)
    plain = report(model, "クマ", tmp_path / "b.html", instruct=False, max_new_tokens=1)
    assert chat.ids[:-1] == tokenizer.chat([{"role": "user", "content": "クマ"}])
    assert plain.ids[:-1] == tokenizer.encode("クマ")


MISTAKES = [
    ({"layers": [6]}, "there is no layer 6; the model has layers 0 to 5"),
    ({"heads": [-1]}, "there is no head -1; the model has heads 0 to 3"),
    ({"heads": []}, "there are no heads to show"),
    ({"max_new_tokens": 900}, "901 tokens have .* a page holds 3,000,000; show at most 7 heads"),
    ({"max_new_tokens": 9000}, "the context holds 1024; ask for at most 1023"),
    ({"num_beams": 2}, "leave out beams"),
    ({"guidance_scale": 2.0}, "guidance_scale runs the model twice"),
    ({"past_context": "shift"}, "past_context='shift' moves tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("named", "sentence"), MISTAKES)
def test_what_a_page_cannot_show_is_refused(demo, tmp_path, named, sentence):
    with pytest.raises(ValueError, match=sentence):
        report(demo[0], [1], tmp_path / "page.html", **named)
    assert list(tmp_path.iterdir()) == []


def test_a_text_of_which_no_head_fits_is_refused():
    with pytest.raises(ValueError, match="2500 tokens have 3,123,750 .* a page holds 3,000,000; take fewer tokens"):
        interface.check_size(2500, 1, 1)
    interface.check_size(41, 32, 32)  # all heads of a 7B model, 40 processed tokens


def test_a_place_that_cannot_be_written_is_refused_before_the_run(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(interface, "run_traced", None)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        report(demo[0], "クマ", tmp_path / "missing" / "page.html")
    with pytest.raises(ValueError, match="is a folder; name a file"):
        report(demo[0], "クマ", tmp_path)
    with pytest.raises(ValueError, match="pass tokenizer="):
        report(random_model(demo[1]), "クマ", tmp_path / "page.html")


def test_a_full_disk_leaves_the_old_page(demo, tmp_path, monkeypatch):
    """Against: half a page in the place of a whole one."""
    path = tmp_path / "page.html"
    path.write_text("old", encoding="utf-8")

    def fails(self, target):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr("pathlib.Path.replace", fails)
    with pytest.raises(OSError, match=re.escape(str(path))):
        report(demo[0], "クマ", path, max_new_tokens=1)
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"] and path.read_text() == "old"


@pytest.mark.slow
def test_the_page_of_7b_holds_all_heads(demo, tmp_path):
    """32 layers of 32 heads, 40 tokens, in a model of small width."""
    shape = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "hidden_size": 128}
    model = random_model(demo[1], **shape)
    run = report(model, TEXT, tmp_path / "page.html", tokenizer=demo[1], instruct=True, max_new_tokens=1)
    assert sum(weights.shape[0] for weights in run.weights.values()) == 1024
    assert (tmp_path / "page.html").stat().st_size < 4_000_000
