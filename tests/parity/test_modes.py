"""The modes of a comparison: forward, generation, gradients, tokenizers, full size."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from helpers import byte_level, tokenizer_files
from helpers.compared_models import CONFIG, IDS, here, reference

from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.checkpoint.random_checkpoint import write_random
from llama_jp.generation.interface import generate
from llama_jp.parity import Settings, as_compared_model, compare
from llama_jp.parity.comparison import Tolerance
from llama_jp.parity.modes import generation as parity_generation
from llama_jp.parity.modes import tokenizer_mode
from llama_jp.parity.modes.fullsize import compare_fullsize
from llama_jp.parity.modes.generation import compare_generation
from llama_jp.parity.modes.gradients import compare_gradients, loss_and_gradients
from llama_jp.parity.modes.tokenizer_mode import compare_tokenizers
from llama_jp.parity.requests import Request, run_request


def test_equal_models_are_equal_in_every_mode(folder):
    for dtype in ("float32", "bfloat16"):
        for mode in ("whole", "steps", "chunks", "ragged"):
            found = compare(here(folder, dtype), reference(folder, dtype), IDS, mode)
            assert found.verdict == "equal" and found.passed and not found.findings
            assert found.prediction.top1 == 1 and found.prediction.kl == 0


def test_gradients_are_compared_by_parameter(folder):
    tolerance = Tolerance()
    found = compare_gradients(as_compared_model(here(folder)), reference(folder), IDS, CONFIG, tolerance)
    assert found.verdict == "equal"
    eager = as_compared_model(here(folder, attention="eager"))
    assert compare_gradients(eager, reference(folder), IDS, CONFIG, tolerance).verdict == "rounding"

    cut = here(folder)
    cut.layers[1].self_attn.v_proj.register_forward_hook(lambda module, args, out: out.detach())
    found = compare_gradients(as_compared_model(cut), reference(folder), IDS, CONFIG, tolerance)
    assert found.bug.operation == "layers.1.self_attn.v_proj.weight"
    assert "graph is cut" in found.bug.cause

    wrong = here(folder)
    wrong.layers[2].input_layernorm.eps *= 1000
    found = compare_gradients(as_compared_model(wrong), reference(folder), IDS, CONFIG, tolerance)
    assert found.bug.operation == "layers.2.input_layernorm"  # not a gradient: all gradients follow from it


def test_gradients_leave_the_model_as_it_was_after_an_exception(folder):
    """Guards against frozen parameters that require gradients after a failed comparison."""
    model = here(folder)
    model.lm_head.weight.requires_grad_(False)
    required = [parameter.requires_grad for parameter in model.parameters()]

    def fail(module, args, output):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        model.norm.register_forward_hook(fail)
        loss_and_gradients(as_compared_model(model), IDS)
    assert [parameter.requires_grad for parameter in model.parameters()] == required
    assert all(parameter.grad is None for parameter in model.parameters())
    with pytest.raises(ValueError, match="a row of 1 token has no next token"):
        compare_gradients(as_compared_model(model), reference(folder), IDS[:, :1], CONFIG, Tolerance())
    with pytest.raises(ValueError, match="shows no parameters"):
        loss_and_gradients(as_compared_model(lambda ids: ids), IDS)


def test_generation_leaves_the_random_state_of_torch_as_it_was(folder):
    """Guards against a comparison that changes the random numbers of the program around it."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = as_compared_model(here(folder)), reference(folder)
    assert compare_generation(*models, IDS, 4, "sampled", CONFIG, Tolerance(), 0).verdict == "equal"
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("key", ["use_cache", "return_dict"])
def test_the_reference_runs_with_its_cache_whatever_config_json_says(tmp_path, key):
    """Guards against a reference that computes every step without the tokens before it."""
    write_random(tmp_path, CONFIG, torch.float32)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {key: False}))
    modes = ["whole", "steps", "chunks", "ragged", "greedy", "sampled", "gradients"]
    settings = Settings("float32")
    request = Request(str(tmp_path), modes=modes, first=settings, second=settings, rows=3, tokens=8, new_tokens=4)
    assert [each.verdict for each in run_request(request)] == ["equal"] * len(modes)


def test_equal_models_generate_equal_tokens(tmp_path):
    write_random(tmp_path, CONFIG, torch.float32)
    request = Request(str(tmp_path), modes=["greedy", "sampled"], first=Settings("float32"), second=Settings("float32"))
    assert [each.verdict for each in run_request(request)] == ["equal", "equal"]


def test_a_wrong_choice_of_token_is_found_at_its_place(folder, monkeypatch):
    monkeypatch.setattr(
        parity_generation,
        "generate",
        lambda model, prompts, **options: [
            dataclasses.replace(each, ids=[*each.ids[:3], (each.ids[3] + 1) % CONFIG.vocab_size, *each.ids[4:]])
            for each in generate(model, prompts, **options)
        ],
    )
    models = as_compared_model(here(folder)), reference(folder)
    found = compare_generation(*models, IDS, 6, "greedy", CONFIG, Tolerance(), 0)
    assert found.verdict == "bug" and found.bug.operation == "choice" and found.bug.token == (0, 3)


def test_tokenizers_are_compared_line_by_line(tmp_path):
    model = tokenizer_files.llama_model()
    files = {"tokenizer_model": model, "tokenizer_json": tokenizer_files.llama_json(model)}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False} | names
    tokenizer_files.write(tmp_path, **files, special_tokens_map_json=names, tokenizer_config_json=settings)
    lines = tokenizer_files.TEXT.splitlines(keepends=True)

    found = compare_tokenizers(str(tmp_path), str(tmp_path), tmp_path, lines)
    assert found.verdict == "equal" and set(found.details["segmentations"].values()) == {"published"}
    with pytest.raises(ValueError, match="is a function"):
        compare_tokenizers("somebody:make", "transformers", tmp_path, lines)
    found = compare_tokenizers(str(tmp_path), "transformers", tmp_path, lines)
    assert found.details["segmentations"]["transformers"] == "transformers5"
    assert found.verdict == "documented difference" and found.passed
    doubled = compare_tokenizers(str(tmp_path), "transformers", tmp_path, ["<s>クマ\n", "クマ\n", "<s>山\n"])
    assert doubled.details["tokenizer"]["lines"] == 3  # two lines and the prompt
    assert any("both segmentations are known" in note for note in found.notes)


@pytest.mark.parametrize("pre", ["llama-bpe", "smollm"])
def test_a_byte_level_tokenizer_equals_transformers(pre, tmp_path):
    """Guards against a BOS that SmolLM2 does not have, and against Llama 2's segmentation."""
    folder = byte_level.byte_level_folder(tmp_path, pre)
    lines = [*tokenizer_files.TEXT.splitlines(keepends=True), "12345 <|eot_id|> 犬<tag>\n"]
    found = compare_tokenizers(str(folder), "transformers", folder, lines)
    assert found.verdict == "equal" and set(found.details["segmentations"].values()) == {"published"}


@pytest.mark.parametrize("wrong", [lambda ids: ids[:1] + ids, lambda ids: ids[1:], lambda ids: [*ids[:-1], 5]])
def test_a_tokenizer_with_a_known_segmentation_and_another_mistake_is_a_bug(wrong, monkeypatch):
    """Guards against a double BOS that passes as the documented segmentation of `<s>`."""
    open_encoder = tokenizer_mode.open_encoder

    def open_wrong(spec, folder):
        name, encode = open_encoder(spec, folder)
        return name, encode if spec == "demo" else lambda line: encode(line) if "<s>" in line else wrong(encode(line))

    assert compare_tokenizers("demo", "transformers", find_checkpoint("demo"), []).passed
    monkeypatch.setattr(tokenizer_mode, "open_encoder", open_wrong)
    for models in (("demo", "transformers"), ("transformers", "demo")):
        assert compare_tokenizers(*models, find_checkpoint("demo"), ["クマ\n"]).verdict == "bug"
    assert not compare_tokenizers("demo", "transformers", find_checkpoint("demo"), []).passed


def test_the_full_size_comparison_in_miniature(tmp_path):
    result = compare_fullsize("tiny", tmp_path / "checkpoint")
    assert not result.different and len(result.rows) > 70
    files = {path.name for path in (tmp_path / "checkpoint").iterdir()}
    assert files == {"config.json", "pytorch_model.bin.index.json", *result.shards} and len(result.shards) == 2
    index = json.loads((tmp_path / "checkpoint" / "pytorch_model.bin.index.json").read_text())
    assert len(index["weight_map"]) == 9 * 4 + 3 + 4  # the parameters, and inv_freq of every layer


@pytest.mark.fullsize
@pytest.mark.parametrize(
    ("shape", "parameters", "size"),
    [("7b", 6_738_415_616, 13_476_839_424), ("7b-fast", 6_845_263_872, 13_690_535_936)],
)
def test_the_full_size_comparison(tmp_path, shape, parameters, size):
    result = compare_fullsize(shape, tmp_path)
    assert (result.parameters, result.total_size) == (parameters, size)
    assert result.peak_bytes < 16 * 2**30
    assert not result.different
