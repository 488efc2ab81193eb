"""Self-speculation: a quantised copy drafts on the model's cache, and the answers stay the model's own."""

from __future__ import annotations

import random

import pytest
import torch
from helpers.quantized import SHAPE
from helpers.reference import SEED, save_random
from torch import nn

import llama_jp
from llama_jp import Llama
from llama_jp.generation.speculation import DraftModel
from llama_jp.linear.fused import FusedSlice
from llama_jp.speed import draft_memory, self_draft, self_drafting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("draft"), 5, **SHAPE | {"max_position_embeddings": 256})


@pytest.fixture(scope="module")
def double(folder) -> Llama:
    """In float64, a call for several tokens decides no near tie differently than calls for one."""
    return Llama.from_pretrained(folder, dtype=torch.float64, device="cpu")


@pytest.fixture(scope="module")
def draft(double):
    torch.set_num_threads(1)
    return self_draft(double, 8)


def prompts(number: int):
    rng = random.Random(SEED)
    return [[rng.randrange(SHAPE["vocab_size"]) for _ in range(rng.randrange(1, 20))] for _ in range(number)]


def always_wrong(draft) -> None:
    """Make a copy draft the least probable token."""
    head = draft.model.lm_head.forward
    draft.model.lm_head.forward = lambda x: -head(x)


@pytest.mark.parametrize(
    "options", [{}, {"repetition_penalty": 1.3}, {"eos_token_id": list(range(0, 80, 7))}, {"num_assistant_tokens": 1}]
)
def test_greedy_answers_and_the_cache_stay_the_same(double, draft, options):
    """Guards against keys and values of the draft that stay in the model's cache."""
    accepted = 0
    plain_options = {name: value for name, value in options.items() if name != "num_assistant_tokens"}
    for prompt in prompts(8):
        caches = [double.new_cache(1, 100) for _ in range(2)]
        (plain,) = llama_jp.generate(double, [prompt], max_new_tokens=40, cache=caches[0], **plain_options)
        (fast,) = llama_jp.generate(
            double, [prompt], max_new_tokens=40, cache=caches[1], assistant_model=draft, **options
        )
        assert (fast.ids, fast.finish_reason) == (plain.ids, plain.finish_reason)
        torch.testing.assert_close(fast.logprobs, plain.logprobs, rtol=0, atol=1e-5)
        assert caches[0].length == caches[1].length
        for name, tensor in caches[0].tensors().items():
            other, length = caches[1].tensors()[name], caches[0].length
            torch.testing.assert_close(other[:, :, :length], tensor[:, :, :length], rtol=0, atol=1e-5)
        accepted += fast.accepted
    assert accepted > 0


@pytest.mark.parametrize("bits", [8, 4])
def test_sixteen_bits(folder, bits):
    """The copy of a bfloat16 model uses packed kernels. Near ties apart, ids are those of plain decoding."""
    model = Llama.from_pretrained(folder, dtype="bfloat16", device="cpu")
    copy = self_draft(model, bits)
    assert isinstance(copy.model.layers[0].self_attn.q_proj, FusedSlice) or bits == 4
    same = total = accepted = drafted = 0
    for prompt in prompts(6):
        (plain,) = llama_jp.generate(model, [prompt], max_new_tokens=40)
        (fast,) = llama_jp.generate(model, [prompt], max_new_tokens=40, assistant_model=copy)
        same += sum(a == b for a, b in zip(plain.ids, fast.ids, strict=True))
        total += len(plain.ids)
        accepted, drafted = accepted + fast.accepted, drafted + fast.drafted
    assert same > 0.85 * total and 0 < accepted <= drafted
    assert bits == 4 or accepted > 0.8 * drafted, "int8 weights choose nearly the same tokens"


def test_there_is_one_prefill_and_one_cache(double, draft, monkeypatch):
    """Guards against a second cache, and against a copy that processes the prompt."""
    lengths = []
    forward = draft.model.forward

    def record(ids, cache, **rest):
        lengths.append(ids.shape[1])
        return forward(ids, cache, **rest)

    monkeypatch.setattr(draft.model, "forward", record)
    monkeypatch.setattr(draft.model, "new_cache", lambda *_: pytest.fail("the copy has no cache"))
    llama_jp.generate(double, [list(range(30))], max_new_tokens=20, assistant_model=draft)
    assert set(lengths) == {1}


def test_an_interrupted_draft_leaves_the_cache_as_it_was(double, draft, monkeypatch):
    """Guards against Ctrl-C while drafting: the chat takes over what the cache holds."""
    cache, calls = double.new_cache(1, 100), []
    forward = draft.model.forward

    def interrupt(*given, **named):
        calls.append(cache.length)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*given, **named)

    monkeypatch.setattr(draft.model, "forward", interrupt)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        for (token,) in llama_jp.generation.interface.start_decoding(
            double,
            [[1, 2, 3]],
            llama_jp.Options.resolve(double, None, {"max_new_tokens": 40}),
            [llama_jp.generation.stop_strings.StopStringBuffer(None, [], [1, 2, 3])],
            [llama_jp.Generation()],
            cache,
            draft,
        ):
            seen.append(token.id)
    assert cache.length == 3 + len(seen) - 1


def test_drafts_that_are_always_wrong_cost_little(double):
    """Guards against a schedule that goes on drafting. By counts: a draft token costs half a call of the model."""
    wrong = self_draft(double, 8)
    always_wrong(wrong)
    for new_tokens in (48, 100, 200):
        (plain,) = llama_jp.generate(double, [[1, 2, 3]], max_new_tokens=new_tokens, eos_token_id=[])
        (answer,) = llama_jp.generate(
            double, [[1, 2, 3]], max_new_tokens=new_tokens, eos_token_id=[], assistant_model=wrong
        )
        assert answer.ids == plain.ids and answer.accepted == 0 < answer.drafted
        assert answer.passes == new_tokens and DraftModel.SELF_COST * answer.drafted <= 0.1 * answer.passes


def test_the_model_keeps_its_own_tensors(folder):
    """Guards against copies of embedding and norms, and against a model that is not as before."""
    model = Llama.from_pretrained(folder, dtype="float32", device="cpu")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copy = self_draft(model)
    assert copy.model.embed_tokens.weight.data_ptr() == model.embed_tokens.weight.data_ptr()
    assert copy.model.norm.weight.data_ptr() == model.norm.weight.data_ptr()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    C, F, V = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]
    rows = 2 * (C + 2 * C // 2 + C + 2 * F + C) + V
    numbers = 2 * (C * (C + 2 * C // 2 + C) + 3 * C * F) + C * V
    assert copy.nbytes == draft_memory(model) == numbers + 4 * rows
    assert draft_memory(model.bfloat16(), 4) < copy.nbytes


def test_a_copy_of_an_optimised_model(folder, double, draft):
    model = Llama.from_pretrained(folder, dtype="float32", device="cpu")
    of_plain = self_draft(model)
    llama_jp.optimize(model, "exact")
    of_optimised = self_draft(model)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(of_plain.model(ids), of_optimised.model(ids))


def test_a_quantised_folder_of_the_same_model(folder, tmp_path):
    """Guards against the folder of another model, whose drafts would be rejected in silence."""
    llama_jp.quantize(folder, tmp_path / "int8")
    model = Llama.from_pretrained(folder, dtype="float32", device="cpu")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(self_draft(model, folder=tmp_path / "int8").model(ids), self_draft(model).model(ids))
    with pytest.raises(ValueError, match="is not quantised; name a folder that `llama-jp quantize` wrote"):
        self_draft(model, folder=folder)
    with torch.no_grad():
        model.embed_tokens.weight[0, 0] += 1
    with pytest.raises(ValueError, match=r"is not made of this model: embed_tokens\.weight differs"):
        self_draft(model, folder=tmp_path / "int8")


def test_refusals(folder, double, draft, tmp_path, monkeypatch, biased):
    model = Llama.from_pretrained(folder, dtype="float32", device="cpu")
    with pytest.raises(ValueError, match="bits of a self-draft are 8 or 4, not 3"):
        self_draft(model, 3)
    with pytest.raises(ValueError, match="int4 self-draft needs a model in bfloat16, and this one is in float32"):
        self_draft(model, 4)
    with pytest.raises(ValueError, match="belongs to another model; make one of this model"):
        llama_jp.generate(model, [[1, 2]], max_new_tokens=2, assistant_model=draft)
    with pytest.raises(ValueError, match="_proj has a bias"):
        self_draft(Llama.from_pretrained(biased, dtype="float32", device="cpu"))
    monkeypatch.setattr(self_drafting, "available_memory", lambda device: 10)
    with pytest.raises(ValueError, match=r"needs 0\.00 GB of memory beside the model, and 0\.00 GB are free; use 4"):
        self_draft(model)
    monkeypatch.undo()
    model.layers[1].mlp = nn.Identity()
    with pytest.raises(ValueError, match=r"forward is changed \(layers\.1\.mlp"):
        self_draft(model)
    llama_jp.quantize(folder, tmp_path / "int8")
    with pytest.raises(ValueError, match="quantised already"):
        self_draft(Llama.from_pretrained(tmp_path / "int8", device="cpu"))


def test_tied_heads(tmp_path):
    """A tied head is quantised in the copy only."""
    tied = save_random(tmp_path, 7, **SHAPE | {"tie_word_embeddings": True})
    model = Llama.from_pretrained(tied, dtype="bfloat16", device="cpu")
    copy = self_draft(model)
    assert copy.model.lm_head is not model.lm_head and model.lm_head.weight is model.embed_tokens.weight
    (fast,) = llama_jp.generate(model, [[1, 2]], max_new_tokens=20, assistant_model=copy)
    assert fast.accepted > 0
