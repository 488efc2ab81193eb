"""The promises on a CUDA GPU: transformers' bits and tokens, the CPU's answers, and every command (pytest -m gpu)."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers.reference import ATTENTIONS, DTYPES, both, positions_of
from helpers.training import save_tiny, write_data

import llama_jp
from llama_jp.bridge import CACHE
from llama_jp.checkpoint.load import load_model
from llama_jp.cli import main
from llama_jp.quantization import quantize
from llama_jp.speed.self_drafting import self_draft
from llama_jp.speed.static_steps import StaticLlama

pytestmark = pytest.mark.gpu

GREEDY = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None}
PROMPTS = [[1, 300, 301, 302], [1, 400, 401, 402, 403, 404]]


@pytest.fixture(scope="module")
def demo() -> llama_jp.Llama:
    return load_model("demo", dtype="float32", device="cuda")


@pytest.fixture(scope="module")
def on_cpu() -> llama_jp.Llama:
    return load_model("demo", dtype="float32", device="cpu")


def ids_of(answers: list[llama_jp.Generation]) -> list[list[int]]:
    return [answer.ids for answer in answers]


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_the_bits_of_transformers(small, dtype, attention):
    """A whole text, a prompt with cached steps, and a left-padded batch, on a model with grouped heads."""
    our, their = (model.to("cuda") for model in both(small, dtype, attention))
    ids = torch.randint(1, 96, (2, 20), generator=torch.Generator().manual_seed(1)).cuda()
    assert torch.equal(our(ids), their(ids).logits)
    cache, past = our.new_cache(2, 20), transformers.DynamicCache(config=their.config)
    for part in ids.split([15, 1, 1, 3], dim=1):
        assert torch.equal(our(part, cache), their(part, **{CACHE: past}, use_cache=True).logits)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    expected = their(ids, attention_mask=mask, position_ids=positions_of(mask)).logits
    assert torch.equal(our(ids, mask=mask)[mask.bool()], expected[mask.bool()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "options", [{"do_sample": False}, {"do_sample": True, "top_p": 0.9}], ids=["greedy", "sampled"]
)
def test_the_tokens_of_transformers(small, dtype, options):
    our, their = (model.to("cuda") for model in both(small, dtype))
    ids = torch.tensor([PROMPTS[0]], device="cuda") % 96
    torch.manual_seed(5)
    expected = their.generate(ids, max_new_tokens=24, eos_token_id=None, **options)[0, ids.shape[1] :].tolist()
    seed = {"seed": 5} if options["do_sample"] else {}
    assert llama_jp.generate(our, ids, max_new_tokens=24, **options, **seed)[0].ids == expected


def test_gradients_are_those_of_the_cpu(small):
    """Up to rounding."""
    ids = torch.tensor([[1, 5, 9, 11, 2, 30]])
    models = [load_model(small, dtype="float32", device=device) for device in ("cuda", "cpu")]
    for model in models:
        model(ids.to(model.embed_tokens.weight.device)).square().mean().backward()
    for ours, expected in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad.cpu(), expected.grad, rtol=1e-3, atol=1e-5)


def test_every_way_of_generating_has_the_answer_of_the_cpu(demo, on_cpu):
    expected = ids_of(llama_jp.generate(on_cpu, PROMPTS, **GREEDY))
    assert ids_of(llama_jp.generate(demo, PROMPTS, **GREEDY)) == expected
    assert ids_of(llama_jp.generate_many(demo, PROMPTS * 3, batch=2, **GREEDY)) == expected * 3
    assert ids_of(llama_jp.generate(demo, PROMPTS[:1], prompt_lookup_num_tokens=4, **GREEDY)) == expected[:1]
    assert ids_of(llama_jp.generate(demo, PROMPTS[:1], assistant_model=demo, **GREEDY)) == expected[:1]
    beams = {"num_beams": 3, "max_new_tokens": 12}
    assert ids_of(llama_jp.generate(demo, PROMPTS, **beams)) == ids_of(llama_jp.generate(on_cpu, PROMPTS, **beams))


@pytest.mark.parametrize("compile", [False, True])
def test_same_tokens_from_a_cuda_graph(demo, compile):
    static = StaticLlama(demo, compile)
    for prompts in (PROMPTS[:1], PROMPTS):
        assert ids_of(llama_jp.generate(static, prompts, **GREEDY)) == ids_of(
            llama_jp.generate(demo, prompts, **GREEDY)
        )


@pytest.mark.parametrize("options", [{}, {"bits": 4, "group_size": 32}], ids=["int8", "int4"])
@torch.no_grad()
def test_a_quantised_model(tmp_path, options):
    """Loaded on the GPU, and moved there after its weight was packed for the CPU."""
    quantize("demo", tmp_path / "quantised", **options)
    ids = torch.tensor([PROMPTS[0]])
    loaded, moved = (load_model(tmp_path / "quantised", dtype="float32", device=device) for device in ("cuda", "cpu"))
    expected = moved(ids)
    for model in (loaded, moved.to("cuda")):
        torch.testing.assert_close(model(ids.cuda()).cpu(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved.cpu()(ids), expected, rtol=1e-4, atol=1e-4)


def test_what_works_on_the_cpu_only_says_so(demo):
    with pytest.raises(ValueError, match="optimize works on the CPU, but the model is on cuda:0"):
        llama_jp.optimize(demo)
    with pytest.raises(ValueError, match="a self-draft works on the CPU, but the model is on cuda:0"):
        self_draft(demo)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "むかしむかし、", "--max-new-tokens", "8"],
        ["generate", "むかしむかし、", "--max-new-tokens", "8", "--compile"],
        ["bench", "demo", "--prompt", "16", "--steps", "4", "--runs", "1"],
        ["parity", "--model", "demo"],
        ["info", "demo"],
    ],
    ids=lambda words: " ".join(words),
)
def test_commands(words, capsys):
    assert main(words) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--lora", "2"], ["--precision", "float32"]], ids=str)
def test_training(tmp_path, capsys, words):
    tiny, data = save_tiny(tmp_path / "tiny"), write_data(tmp_path / "data.jsonl", 20)
    command = ["finetune", str(data), str(tmp_path / "out"), "--model", str(tiny), "--length", "64", *words]
    assert main([*command, "--steps", "4"]) == 0, capsys.readouterr().err
    assert "step 4 of 4" in capsys.readouterr().err
