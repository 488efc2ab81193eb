"""Every recipe of examples/changes, through every step that a plain model goes through."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from helpers.reference import SMALL, save_random, theirs
from torch import Tensor

import llama_jp
from llama_jp import Llama
from llama_jp.checkpoint.load import load_model
from llama_jp.cli import main
from llama_jp.evaluation.divergence import measure_divergence
from llama_jp.evaluation.documents import Text, read_text
from llama_jp.model import positions_and_mask
from llama_jp.surgery import drop_layers, merge_layers, resize_vocabulary

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

from changes import int8_cache, mixture_of_experts, qk_norm, reward_head, squared_relu  # noqa: E402 (needs the path)
from changes.alibi import attend_alibi  # noqa: E402
from changes.attention_sinks import SINKS, attend_sinks  # noqa: E402
from changes.no_positions import no_rope  # noqa: E402
from changes.sliding_window import WINDOW, attend_window  # noqa: E402
from changes.top_n_sigma import TopNSigma  # noqa: E402

MODULES = sorted(file.stem for file in (EXAMPLES / "changes").glob("*.py"))
DOCUMENTS = [torch.randint(3, 96, (1, n), generator=torch.Generator().manual_seed(n)) for n in (21, 27)]
TOLERANCE = {"atol": 2e-5, "rtol": 0}  # of float32 logits of size 5; measured: 4e-6


class Recipe(NamedTuple):
    """A change: how to make it from a plain checkpoint, and how to load it again."""

    expect: tuple[str, ...]  # operations that differ from those of the plain model; none: not compared by operation
    functions: dict[str, Any] = {}
    model_class: type[Llama] = Llama
    make: Callable[[Llama], Llama | None] | None = None  # from the plain model, in place or not

    def build(self, folder: Path) -> Llama:
        """The changed model in float32. New parameters are random, so that each of them matters."""
        plain = load_model(folder, dtype="float32")
        if self.make is not None:
            model = self.make(plain) or plain
        else:
            missing = "initialise" if self.model_class in (qk_norm.QKNormLlama, reward_head.RewardLlama) else "refuse"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = self.model_class.from_pretrained(folder, dtype="float32", missing=missing, **self.functions)
        torch.manual_seed(3)
        for parameter in new_parameters(model, plain).values():
            parameter.data += 0.2 * torch.randn_like(parameter)
        return model.eval()


def squared(plain: Llama) -> Llama:
    model = squared_relu.SquaredReLULlama(plain.config)
    model.load_state_dict(plain.state_dict(), strict=False)
    return model


OUTPUT = "layers.*.self_attn.attn_output"
RECIPES = {
    "sliding_window": Recipe((OUTPUT,), {"attention": attend_window}),
    "attention_sinks": Recipe((OUTPUT,), {"attention": attend_sinks}),
    "no_positions": Recipe(("rope.*",), {"rope": no_rope}),
    "alibi": Recipe((OUTPUT, "rope.*"), {"attention": attend_alibi, "rope": no_rope}),
    "qk_norm": Recipe(("layers.*.self_attn.q_proj", "layers.*.self_attn.k_proj"), {}, qk_norm.QKNormLlama),
    "squared_relu": Recipe(("layers.*.mlp.mlp_act",), {}, squared_relu.SquaredReLULlama, squared),
    "mixture_of_experts": Recipe(
        ("layers.*",), {}, mixture_of_experts.MixtureOfExpertsLlama, mixture_of_experts.upcycle
    ),
    "reward_head": Recipe((), {}, reward_head.RewardLlama),
    "int8_cache": Recipe(("layers.*.self_attn.keys", "layers.*.self_attn.values"), {}, int8_cache.Int8CacheLlama),
    "larger_vocabulary": Recipe((), make=lambda plain: resize_vocabulary(plain, 100)),
    "dropped_layer": Recipe((), make=lambda plain: drop_layers(plain, [1])),
    "merged_layers": Recipe((), make=lambda plain: merge_layers(plain, 0)),
}
each_recipe = pytest.mark.parametrize("name", RECIPES)
PLAIN = ("larger_vocabulary", "dropped_layer", "merged_layers")  # still plain Llamas


def new_parameters(model: Llama, plain: Llama) -> dict[str, Tensor]:
    known = dict(plain.named_parameters())
    return {name: parameter for name, parameter in model.named_parameters() if name not in known}


def losses(logits: Tensor, ids: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("changes"), 7, torch.float32, **SMALL)


@each_recipe
@torch.no_grad()
def test_padded_rows_packed_documents_and_steps_have_the_logits_of_the_text_alone(folder, name):
    """Guards against distances from the wrong end, sinks in the padding, and a cache that changes the numbers."""
    model = RECIPES[name].build(folder)
    alone = [model(ids) for ids in DOCUMENTS]
    packed = model(torch.cat(DOCUMENTS, 1), mask=torch.tensor([[1] * 21 + [2] * 27]))
    torch.testing.assert_close(packed, torch.cat(alone, 1), **TOLERANCE)
    rows = torch.cat([F.pad(DOCUMENTS[0], (6, 0)), DOCUMENTS[1]])
    mask = torch.tensor([[0] * 6 + [1] * 21, [1] * 27])
    padded = model(rows, mask=mask)
    for row, ids, expected in zip(padded, DOCUMENTS, alone, strict=True):
        torch.testing.assert_close(row[-ids.shape[1] :], expected[0], **TOLERANCE)

    cache, whole = model.new_cache(2, 27), padded
    if name == "int8_cache":  # one rounding of keys and values, whatever the division into calls
        whole = model(rows, model.new_cache(2, 27), mask=mask)
        assert 1e-3 < (whole - padded).abs().max() < 0.1
    steps = [
        model(rows[:, a:b], cache, mask=mask[:, :b])
        for a, b in ((0, 9), (9, 12), *zip(range(12, 27), range(13, 28), strict=True))
    ]
    steps = torch.cat(steps, 1)[mask.bool()]
    torch.testing.assert_close(steps, whole[mask.bool()], **TOLERANCE)
    cache = model.new_cache(1, 27)  # without a mask
    steps = torch.cat([model(part, cache) for part in DOCUMENTS[1].split([25, 1, 1], 1)], 1)
    torch.testing.assert_close(steps[0], whole[1], **TOLERANCE)


@each_recipe
def test_training_lowers_the_loss_through_every_parameter(folder, name):
    """Guards against parameters without a gradient, and against gradients that are not finite."""
    model = RECIPES[name].build(folder).train()
    ids, mask = torch.cat(DOCUMENTS, 1), torch.tensor([[1] * 21 + [2] * 27])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    found = []
    for _ in range(4):
        if isinstance(model, reward_head.RewardLlama):
            loss = reward_head.pairwise_loss(model, ids, ids.flip(1))
        else:
            loss = losses(model(ids, mask=mask), ids)
        optimizer.zero_grad()
        loss.backward()
        for path, parameter in model.named_parameters():
            if path == "lm_head.weight" and isinstance(model, reward_head.RewardLlama):
                continue  # rewards need no logits
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), path
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0] - 0.05, found


@each_recipe
def test_what_is_saved_loads_with_equal_logits(folder, tmp_path, name):
    """Guards against a checkpoint that loads as another model, and against parts that no import finds."""
    recipe = RECIPES[name]
    model = recipe.build(folder)
    model.save_pretrained(tmp_path / "out")
    if name in PLAIN:
        loaded = [Llama.from_pretrained(tmp_path / "out", dtype="float32"), theirs(tmp_path / "out", torch.float32)]
    else:
        with pytest.raises(ValueError, match="holds a changed model"):
            Llama.from_pretrained(tmp_path / "out")
        handed_in = recipe.model_class.from_pretrained(tmp_path / "out", dtype="float32", **recipe.functions)
        loaded = [handed_in, Llama.from_pretrained(tmp_path / "out", dtype="float32", trust_parts=True)]
    with torch.no_grad():
        for other in loaded:
            logits = other(DOCUMENTS[1])
            assert torch.equal(logits if isinstance(logits, Tensor) else logits.logits, model(DOCUMENTS[1]))
    assert type(loaded[0]) is type(model) and type(loaded[0].new_cache()) is type(model.new_cache())
    if isinstance(model, reward_head.RewardLlama):
        assert torch.equal(loaded[1].rewards(DOCUMENTS[0]), model.rewards(DOCUMENTS[0]))


@each_recipe
@torch.no_grad()
def test_generation_continues_with_the_most_probable_tokens(folder, name):
    """Guards against a change that decoding steps do not see."""
    model = RECIPES[name].build(folder)
    answers = llama_jp.generate(model, [ids[0].tolist() for ids in DOCUMENTS], max_new_tokens=6, do_sample=False)
    for ids, answer in zip(DOCUMENTS, answers, strict=True):
        for token in answer.ids:
            cache = model.new_cache(1, ids.shape[1]) if name == "int8_cache" else None
            assert token == model(ids, cache)[0, -1].argmax()
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].expect])
def test_parity_finds_the_changed_operations_and_no_others(folder, name):
    """Guards against a change that reaches more than its docstring says."""
    mode = {"int8_cache": "steps", "attention_sinks": "ragged"}.get(name, "whole")
    recipe = RECIPES[name]
    pair = recipe.build(folder), load_model(folder, dtype="float32")
    ids = torch.cat([ids[:, :21] for ids in DOCUMENTS])
    found = llama_jp.compare(*pair, ids, mode, expect=recipe.expect)
    assert found.verdict == "expected" and found.passed, [each.operation for each in found.findings]
    unexpected = llama_jp.compare(*pair, ids, mode)
    assert unexpected.verdict == "bug" and not unexpected.passed


@each_recipe
def test_it_is_quantised_or_refused_by_name(folder, tmp_path, name):
    """Guards against a quantised checkpoint of another model."""
    RECIPES[name].build(folder).save_pretrained(tmp_path / "out")
    if name in PLAIN:
        with pytest.warns(UserWarning, match="no certificate"):
            llama_jp.quantize(tmp_path / "out", tmp_path / "int8")
        assert load_model(tmp_path / "int8", dtype="float32")(DOCUMENTS[0]).isfinite().all()
    else:
        with pytest.raises(ValueError, match=r"the model is a changed one \(.*\), and only a plain Llama"):
            llama_jp.quantize(tmp_path / "out", tmp_path / "int8")


@each_recipe
def test_the_bridge_has_the_same_loss_and_gradients(folder, name):
    """Guards against a change that transformers' tools do not see."""
    from llama_jp.bridge import LlamaJpForCausalLM

    model = RECIPES[name].build(folder).train()
    ids, positions = torch.cat(DOCUMENTS, 1), torch.tensor([[*range(21), *range(27)]])
    loss = losses(model(ids, mask=torch.tensor([[1] * 21 + [2] * 27])), ids)
    wrapped = LlamaJpForCausalLM(model)
    other = wrapped(ids, position_ids=positions, labels=ids, use_cache=False).loss
    torch.testing.assert_close(other, loss)
    other.backward()
    plain = load_model(folder, dtype="float32")
    for path, parameter in new_parameters(model, plain).items():
        assert parameter.grad is not None or path == "reward_head.weight", path


@each_recipe
@torch.no_grad()
def test_faster_decoding_changes_no_token(folder, name):
    """Guards against beams, drafts and samples of one prompt that share a cache which they cannot share."""
    model, options = RECIPES[name].build(folder), {"max_new_tokens": 9, "do_sample": False}
    prompt = DOCUMENTS[0][0, :6].tolist() * 3
    (alone,) = llama_jp.generate(model, [prompt], **options)
    (drafted,) = llama_jp.generate(model, [prompt], prompt_lookup_num_tokens=3, **options)
    assert drafted.ids == alone.ids
    (beam,) = llama_jp.generate(model, [prompt], num_beams=3, **options)
    assert len(beam.ids) == 9
    optimized, logits = llama_jp.optimize(model), model(DOCUMENTS[0])
    optimized.undo()
    assert torch.equal(model(DOCUMENTS[0]), logits)


@pytest.mark.slow
@each_recipe
@torch.no_grad()
def test_torch_compile_takes_the_whole_model(folder, name):
    torch.compiler.reset()  # it gives up after eight versions of one function
    model = RECIPES[name].build(folder)
    compiled = torch.compile(model, backend="eager", fullgraph=name != "mixture_of_experts")  # its routing branches
    assert torch.equal(compiled(DOCUMENTS[0]), model(DOCUMENTS[0]))


@pytest.fixture(scope="module")
def story() -> Text:
    """The first two stories of the held-out text."""
    model, tokenizer = llama_jp.load("demo")
    text = read_text("held-out.ja.txt", tokenizer, model.config)
    return Text(text.file, text.sha256, text.windows[:2])


@pytest.mark.parametrize("module", [module for module in MODULES if module != "top_n_sigma"])
@pytest.mark.filterwarnings("ignore:initialised")
@torch.no_grad()
def test_make_changes_the_demo(module, story):
    """Guards against a recipe that works on the test's model alone."""
    plain, model = load_model("demo").float(), load_model(f"changes.{module}:make", dtype="float32")
    logits = [[each(window.ids)[0, :, :3072] for window in story.windows] for each in (plain, model)]
    found = measure_divergence(*logits, story)
    assert found.reference_perplexity < 1.5 < 4000 and found.perplexity < 1e5
    same = module in ("int8_cache", "reward_head", "larger_vocabulary", "mixture_of_experts")
    assert (found.kl_divergence < 1e-6) == same
    (answer,) = llama_jp.generate(model, [story.windows[0].ids[0, :9].tolist()], max_new_tokens=3, do_sample=False)
    assert len(answer.ids) == 3


def test_the_command_line_takes_a_recipe_from_the_current_folder(monkeypatch, capsys):
    monkeypatch.chdir(EXAMPLES)
    assert main(["generate", "--model", "changes.sliding_window:make", "--max-new-tokens", "4", "クマが"]) == 0
    assert capsys.readouterr().out.strip()


def test_every_recipe_is_short_explained_and_listed():
    pages = [
        (EXAMPLES.parent / "docs" / page).read_text(encoding="utf-8") for page in ("changing.md", "changing.ja.md")
    ]
    for module in MODULES:
        text = (EXAMPLES / "changes" / f"{module}.py").read_text(encoding="utf-8")
        assert text.startswith('"""') and len(text.splitlines()) <= 60, module
        assert all(f"examples/changes/{module}.py" in page for page in pages), module


# The numbers of each recipe, by hand


@torch.no_grad()
def test_a_window_changes_the_positions_beyond_it(folder):
    plain, window, sinks = (
        load_model(folder, dtype="float32", attention=attention)(DOCUMENTS[1])
        for attention in ("sdpa", attend_window, attend_sinks)
    )
    first = [(changed - plain).abs().amax(-1)[0].gt(1e-4).nonzero()[0].item() for changed in (window, sinks)]
    assert first == [WINDOW, WINDOW + SINKS]


@torch.no_grad()
def test_sinks_are_the_first_positions_of_a_document():
    """Guards against sinks by index: under padding and in a later document the first tokens are elsewhere."""
    mask = torch.tensor([[0] * 3 + [1] * 7 + [2] * 30])
    positions, visible = positions_and_mask(mask, 40, 40, mask.device)
    q = torch.zeros(1, 1, 40, 40)
    weights = attend_sinks(q, q, torch.eye(40)[None, None], visible, positions)[0, 0]  # (T, S)
    assert weights[39].nonzero().flatten().tolist() == [*range(10, 10 + SINKS), *range(40 - WINDOW, 40)]
    assert weights[9].nonzero().flatten().tolist() == [*range(3, 10)]


def test_alibi_has_the_slopes_of_the_paper():
    """Eight heads have slopes 1/2 … 1/256: with equal scores, weights fall by exp(-slope) from key to key."""
    eye = torch.eye(3, 3).expand(1, 8, 3, 3).contiguous()
    weights = attend_alibi(torch.zeros(1, 8, 3, 3), torch.zeros(1, 8, 3, 3), eye, None)[0, :, 2]  # (H, 3)
    slopes = 0.5 ** torch.arange(1, 9)
    torch.testing.assert_close(weights[:, 1] / weights[:, 2], (-slopes).exp())
    torch.testing.assert_close(weights[:, 0] / weights[:, 2], (-2 * slopes).exp())


@torch.no_grad()
def test_qk_norm_bounds_the_scores(folder):
    model = qk_norm.QKNormLlama(load_model(folder).config)
    with llama_jp.trace(model, ["layers.*.self_attn.q_rot", "layers.*.self_attn.k_rot"]) as seen:
        model(DOCUMENTS[0] * 1)
    for vectors in seen.values():
        torch.testing.assert_close(vectors.square().mean(-1), torch.ones(vectors.shape[:-1]), atol=1e-3, rtol=0)


@torch.no_grad()
def test_a_mixture_of_equal_experts_is_the_dense_model(folder):
    plain = load_model(folder, dtype="float32")
    torch.testing.assert_close(mixture_of_experts.upcycle(plain)(DOCUMENTS[0]), plain(DOCUMENTS[0]), **TOLERANCE)


def test_rewards_do_not_depend_on_padding(folder):
    model = RECIPES["reward_head"].build(folder)
    alone = torch.cat([model.rewards(ids) for ids in DOCUMENTS])
    for side in ((6, 0), (0, 6)):
        rows = torch.cat([F.pad(DOCUMENTS[0], side), DOCUMENTS[1]])
        mask = torch.cat([F.pad(torch.ones(1, 21), side), torch.ones(1, 27)]).long()
        torch.testing.assert_close(model.rewards(rows, mask), alone, **TOLERANCE)


def test_an_int8_cache_has_half_the_bytes_and_every_operation_of_a_cache(folder, tmp_path):
    """Guards against scales that stay behind when rows move, the cache grows, or it is saved."""
    model = RECIPES["int8_cache"].build(folder)
    cache = model.new_cache(2, 64)
    size = sum(tensor.nbytes for tensor in cache.tensors().values())
    assert size == (8 + 4) / 32 * sum(x.nbytes for x in Llama.new_cache(model, 2, 64).tensors().values())  # D = 8
    with torch.no_grad():
        model(torch.cat([DOCUMENTS[0], DOCUMENTS[0].flip(1)]), cache)
        expected = model(torch.tensor([[5], [6]]), cache)
        cache.crop(21)
        other = cache.fork([1, 0, 1])
        logits = model(torch.tensor([[6], [5], [6]]), other)
        torch.testing.assert_close(logits[:2], expected.flip(0), **TOLERANCE)
        cache.save(tmp_path / "cache", range(21))
        again = model.new_cache(2, 64)
        assert again.load(tmp_path / "cache") == [*range(21)]
        assert torch.equal(model(torch.tensor([[5], [6]]), again), expected)
        with pytest.raises(ValueError, match="tensors, but this cache has 6"):
            Llama.new_cache(model, 2).load(tmp_path / "cache")


def test_int8_caches_work_with_shared_prefill_and_prompts_of_different_lengths(folder):
    """Guards against code that copies keys and values alone: `exact=False` joins the caches of several prefills."""
    model = RECIPES["int8_cache"].build(folder)
    prompts = [[5, 6, 7], [*range(3, 90)]]
    options = {"max_new_tokens": 5, "do_sample": False}
    exact, shared = (llama_jp.generate(model, prompts, exact=exact, **options) for exact in (True, False))
    assert [answer.ids for answer in exact] == [answer.ids for answer in shared]


def test_top_n_sigma_keeps_the_logits_near_the_largest():
    logits = torch.tensor([[4.0, 3.0, 0.0, 1.0], [4.0, 3.0, 0.0, -torch.inf]])
    kept = TopNSigma(1.0)(torch.zeros(2, 1), logits).isfinite()
    assert kept.tolist() == [[True, True, False, False], [True, True, False, False]]  # sigma 1.58 and 1.70
    assert TopNSigma(3.0)(torch.zeros(2, 1), logits).equal(logits)
    model = load_model("demo")
    answers = [
        llama_jp.generate(model, [[1, 300, 301]], max_new_tokens=8, do_sample=sample, seed=1, **options)[0].ids
        for sample, options in ((True, {"logits_processor": TopNSigma(0.0), "temperature": 3.0}), (False, {}))
    ]
    assert answers[0] == answers[1], "n = 0 keeps the most probable token alone"
