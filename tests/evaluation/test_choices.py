"""Log-likelihoods of choices, and the lm-eval adapter, against lm-eval's own backend on transformers' model."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
import transformers

import llama_jp
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.evaluation.choices import score_continuations

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402

from llama_jp.evaluation.lm_eval_adapter import LlamaJpLM  # noqa: E402

CONTEXT = "クマが海辺に行って、"
CHOICES = ["アザラシ", "犬", "猫", "海", "クマがクマがクマが", "アザラシと友達になりました。"]
PAIRS = [*((CONTEXT, choice) for choice in CHOICES), ("", "海です。"), ("クマ  ", "は森へ"), (CONTEXT * 20, "終わり")]


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


def backends(dtype: torch.dtype, batch_size: int, **options) -> tuple[HFLM, LlamaJpLM]:
    """lm-eval's own backend and ours, with a context of 64 tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_folder())
    options |= {"batch_size": batch_size, "max_length": 64}
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, **options)
    return theirs, LlamaJpLM(*llama_jp.load("demo", dtype=dtype, device="cpu"), **options)


@pytest.mark.filterwarnings("ignore:the first")
@pytest.mark.parametrize(("dtype", "batch_size"), [(torch.float32, 1), (torch.float32, 3), (torch.bfloat16, 4)])
def test_the_adapter_is_bit_identical_to_lm_evals_backend(dtype, batch_size):
    """Guards against other batches, another padding and a float32 softmax, each of which changes the last bits."""
    theirs, ours = backends(dtype, batch_size)
    pairs = requests("loglikelihood", PAIRS)
    assert ours.loglikelihood(pairs, disable_tqdm=True) == theirs.loglikelihood(pairs, disable_tqdm=True)
    texts = requests("loglikelihood_rolling", [(CONTEXT * count,) for count in (1, 30, 7)])
    assert ours.loglikelihood_rolling(texts, disable_tqdm=True) == theirs.loglikelihood_rolling(
        texts, disable_tqdm=True
    )
    options = {"until": ["。"], "max_gen_toks": 12}
    sampled = {"do_sample": True, "temperature": 0.9, "top_p": 0.8, "max_gen_toks": 12}
    prompts = [
        ("クマ", options),
        ("むかしむかし、", options),
        (CONTEXT * 9, options),
        ("犬", sampled),
        ("猫が", sampled),
    ]
    answers = []
    for backend in (ours, theirs):
        torch.manual_seed(0)
        answers.append(backend.generate_until(requests("generate_until", prompts), disable_tqdm=True))
    assert answers[0] == answers[1] and all(answers[0])


def test_a_stop_sequence_is_not_searched_in_the_prompt():
    """Guards against the option stop_strings, for which a stop string may begin in the prompt."""
    theirs, ours = backends(torch.float32, 2)
    continued = ours.generate_until(requests("generate_until", [("クマ", {"max_gen_toks": 8})]), disable_tqdm=True)[0]
    prompts = requests("generate_until", [("クマ", {"until": ["マ" + continued[0]], "max_gen_toks": 8})])
    assert ours.generate_until(prompts, disable_tqdm=True) == theirs.generate_until(prompts, disable_tqdm=True)


def test_chat_templates_are_those_of_transformers():
    theirs, ours = backends(torch.float32, 1)
    theirs.tokenizer.chat_template = ours.chat_template(True)
    chat = [{"role": "system", "content": "短く。"}, {"role": "user", "content": " 犬は</s>? "}]
    assert ours.apply_chat_template(chat) == theirs.apply_chat_template(chat)
    chat.append({"role": "assistant", "content": "犬は"})
    ours_open, theirs_open = (each.apply_chat_template(chat, add_generation_prompt=False) for each in (ours, theirs))
    assert ours_open == theirs_open and ours_open.endswith("犬は")


def test_text_after_a_special_token_is_encoded_as_in_training():
    """The harness's backend encodes it otherwise, and so does ours on demand."""
    text = "<s>[INST] 犬の話 [/INST] 犬です。</s>"
    theirs, ours = backends(torch.float32, 1)
    assert ours.tok_encode(text) == ours.tokenizer.encode(text, parse_special=True) != theirs.tok_encode(text)
    ours = LlamaJpLM(ours.model, ours.tokenizer, segmentation="transformers5")
    assert ours.tok_encode(text) == theirs.tok_encode(text)


def test_a_missing_harness_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "llama_jp.evaluation.lm_eval_adapter")
    with pytest.raises(ImportError, match=r"lm-eval is not installed: pip install 'llama-jp\[eval\]'"):
        importlib.import_module("llama_jp.evaluation.lm_eval_adapter")


@pytest.mark.filterwarnings("ignore:the first")
def test_choices_are_those_of_lm_eval(demo):
    """One row of a batch serves choices that differ in the last token only; the rounding may depend on the batch."""
    theirs, _ = backends(torch.float32, 1)
    for context, choices in ((CONTEXT, CHOICES), ("", ["海です。", "山"]), ("クマ  ", ["は森へ", " は"])):
        expected = theirs.loglikelihood(
            requests("loglikelihood", [(context, choice) for choice in choices]), disable_tqdm=True
        )
        found = llama_jp.choice_log_likelihoods(*demo, context, choices)
        assert [each.is_greedy for each in found] == [greedy for _, greedy in expected]
        assert [each.log_likelihood for each in found] == pytest.approx([value for value, _ in expected], rel=1e-5)


def test_greedy_choices_are_recognised(demo):
    model, tokenizer = demo
    (answer,) = llama_jp.generate(model, [tokenizer.encode(CONTEXT)], max_new_tokens=1)
    text = tokenizer.vocabulary.text(answer.ids[0])
    assert [each.is_greedy for each in llama_jp.choice_log_likelihoods(*demo, CONTEXT, [text, "龘"])] == [True, False]


def test_a_finer_softmax(demo):
    """bfloat16 has 8 bits, so lm-eval's sums are coarse; softmax_dtype chooses a finer dtype."""
    model, tokenizer = llama_jp.load("demo", dtype="bfloat16", device="cpu")
    coarse, fine = (
        llama_jp.choice_log_likelihoods(model, tokenizer, CONTEXT, ["アザラシ"], softmax_dtype=dtype)[0].log_likelihood
        for dtype in (None, torch.float32)
    )
    assert coarse == float(torch.tensor(coarse, dtype=torch.bfloat16)) and coarse != fine == pytest.approx(coarse, 0.01)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ([], "choices is a list of texts"),
        ("犬", "choices is a list of texts"),
        (["犬", ""], "continuation 1 adds no token"),
        (["犬" * 1100], r"continuation 0 has \d+ tokens, but the context holds 1024"),
    ],
)
def test_wrong_choices_are_named(demo, choices, sentence):
    with pytest.raises(ValueError, match=sentence):
        llama_jp.choice_log_likelihoods(*demo, CONTEXT, choices)


def test_a_long_context_loses_its_beginning_with_a_warning(demo):
    model, tokenizer = demo
    ids = tokenizer.encode(CONTEXT * 4)
    with pytest.warns(UserWarning, match=f"the first {len(ids) - 10} tokens of context 0 do not fit into 10 tokens"):
        (found,) = score_continuations(model, [(ids, [5])], context=10)
    assert found == score_continuations(model, [(ids[-10:], [5])])[0]
    with pytest.raises(ValueError, match="use the tokenizer of this model"):
        score_continuations(model, [([1], [5000])])
