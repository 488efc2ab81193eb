"""Log-likelihoods of choices, and the lm-eval adapter, against lm-eval's own backend on transformers' model."""

from __future__ import annotations

import importlib
import json
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
from lm_eval.tasks import TaskManager  # noqa: E402

from llama_jp.evaluation.lm_eval_adapter import LlamaJpLM  # noqa: E402

CONTEXT = "クマが海辺に行って、"
CHOICES = ["アザラシ", "犬", "猫", "海", "クマがクマがクマが", "アザラシと友達になりました。"]
PAIRS = [*((CONTEXT, choice) for choice in CHOICES), ("", "海です。"), ("クマ  ", "は森へ"), (CONTEXT * 20, "終わり")]


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


def backends(dtype: torch.dtype, batch_size: int, batching: str = "padded") -> tuple[HFLM, LlamaJpLM]:
    """lm-eval's own backend and ours, with a context of 64 tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_folder(), dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_folder())
    options = {"batch_size": batch_size, "max_length": 64}
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, **options)
    return theirs, LlamaJpLM(*llama_jp.load("demo", dtype=dtype, device="cpu"), batching=batching, **options)


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


TASK = """
task: answers_in_flight
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/data.jsonl}, cache_dir: FOLDER}
output_type: generate_until
test_split: test
doc_to_text: "{{text}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["。"], max_gen_toks: 14, do_sample: false}
metric_list: [{metric: exact_match}]
"""


@pytest.mark.filterwarnings("ignore:.*round differently from one row")
def test_a_task_in_flight_has_the_answers_of_one_request_at_a_time(tmp_path):
    """A whole run of the harness, offline, beside its own backend with a batch size of 1."""
    texts = ["クマ", "むかしむかし、", CONTEXT * 9, "犬と猫が", "海"]
    data = "".join(json.dumps({"text": text, "answer": "。"}, ensure_ascii=False) + "\n" for text in texts)
    (tmp_path / "data.jsonl").write_text(data, encoding="utf-8")
    (tmp_path / "task.yaml").write_text(TASK.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    tasks = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs, _ = backends(torch.float32, 1)
    _, ours = backends(torch.float32, 3, batching="in-flight")
    found = []
    for backend in (ours, theirs):
        results = lm_eval.simple_evaluate(backend, tasks=["answers_in_flight"], task_manager=tasks, bootstrap_iters=0)
        samples = results["samples"]["answers_in_flight"]
        found.append({sample["doc"]["text"]: sample["resps"][0][0] for sample in samples})
    assert found[0] == found[1] and len(found[0]) == len(texts)


@pytest.mark.filterwarnings("ignore:.*round differently from one row")
def test_requests_of_all_options_share_the_flight():
    """Guards against a stop sequence, a length or a seed of another request, and against rows that wait."""
    _, ours = backends(torch.float32, 2, batching="in-flight")
    prompts = [
        ("クマ", {"max_gen_toks": 9}),
        ("犬と猫が", {"max_gen_toks": 3, "until": ["X"]}),
        (CONTEXT, {"until": ["、"], "max_gen_toks": 9}),
        ("海", {"max_gen_toks": 2}),
        ("猫が", {"max_gen_toks": 4, "num_beams": 2}),
        ("犬", {"do_sample": True, "temperature": 0.9, "max_gen_toks": 6}),
        ("犬", {"do_sample": True, "temperature": 0.9, "max_gen_toks": 6}),
    ]
    calls = list[int]()
    handle = ours.model.register_forward_pre_hook(lambda module, args: calls.append(args[0].numel()))
    torch.manual_seed(0)
    answers = ours.generate_until(requests("generate_until", prompts[:4]), disable_tqdm=True)
    handle.remove()
    assert answers == [ours.answer([text], options)[0] for text, options in prompts[:4]]
    steps, prefills = [count for count in calls if count < 3], [count for count in calls if count > 2]
    lengths = [len(ours.tok_encode(answer)) for answer in answers]
    assert len(prefills) <= 5 and len(steps) < sum(lengths), "fewer calls than one request at a time needs"
    torch.manual_seed(0)
    everything = ours.generate_until(requests("generate_until", prompts), disable_tqdm=True)
    assert everything[:4] == answers and everything[4] == ours.answer([prompts[4][0]], prompts[4][1])[0]
    assert everything[5] != everything[6], "each request has random numbers of its own"
    torch.manual_seed(0)
    assert ours.generate_until(requests("generate_until", prompts), disable_tqdm=True) == everything


def test_a_wrong_batching_is_named():
    with pytest.raises(ValueError, match="batching is 'in-flight' or 'padded', not 'none'"):
        backends(torch.float32, 2, batching="none")


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
