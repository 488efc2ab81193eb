"""ELYZA-tasks-100: the file format, the settings, and the comparison with published answers."""

from __future__ import annotations

import csv
import json

import pytest
import torch
import transformers

import llama_jp
from llama_jp.evaluation.published_answers import compare_with_answer, continue_text, encode_rest
from llama_jp.evaluation.tasks import answer_tasks, encode_task, read_tasks, write_tasks

TASKS = [
    {"input": "クマが海辺に行く話を書いてください。", "output": '一行\n"二行"', "eval_aspect": "観点, その2"},
    {"input": "犬の話", "output": "", "eval_aspect": " "},
]
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def answers(demo):
    return [next(answer_tasks(*demo, [task], max_new_tokens=NEW_TOKENS)) for task in TASKS]


def test_tasks_survive_the_file(tmp_path):
    """Line ends, quotes and commas in a value; a byte order mark, as spreadsheets write it; JSONL."""
    file = tmp_path / "tasks.csv"
    file.write_text("\ufeff" + write_tasks(TASKS), encoding="utf-8", newline="")
    assert read_tasks(file) == TASKS
    with file.open(encoding="utf-8-sig", newline="") as opened:
        assert list(csv.DictReader(opened)) == TASKS
    lines = tmp_path / "tasks.jsonl"
    lines.write_text("\n".join(json.dumps(task, ensure_ascii=False) for task in TASKS) + "\n", encoding="utf-8")
    assert read_tasks(lines) == TASKS


def test_the_file_is_that_of_datasets(tmp_path):
    """ELYZA wrote its answers with `Dataset.to_csv(index=False)`."""
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(TASKS).to_csv(tmp_path / "theirs.csv", index=False)
    assert (tmp_path / "theirs.csv").read_text(encoding="utf-8") == write_tasks(TASKS)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "text\n犬\n", 'task 1 is not a row with a text in the column "input"'),
        ("a.csv", "input,output\n犬,例,もう\n", "task 1 is not a row"),
        ("a.csv", "input,output\n犬\n", "task 1 is not a row"),
        ("a.csv", "input\n", "holds no tasks"),
        ("a.jsonl", "犬\n", "line 1 is not JSON"),
        ("a.jsonl", "[1]\n", "line 1 is no object"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=sentence):
        read_tasks(tmp_path / name)
    (tmp_path / name).write_bytes(b"input\n\x8c\n")
    with pytest.raises(ValueError, match="is not UTF-8: byte 6 is 0x8c"):
        read_tasks(tmp_path / name)


def test_answers_are_those_of_elyzas_script(demo, reference, answers):
    """baseline/scripts/elyza_llama2.py, with transformers: its prompt, its call of `generate`, its decoding."""
    model, tokenizer = reference
    prompt = (
        "<s>[INST] <<SYS>>\nあなたは誠実で優秀な日本人のアシスタントです。\n<</SYS>>\n\n"
        + TASKS[0]["input"]
        + " [/INST] "
    )
    assert demo[1].encode(prompt, parse_special=True) == encode_task(demo[1], TASKS[0])
    ids = torch.tensor([encode_task(demo[1], TASKS[0])])
    transformers.set_seed(0)
    output = model.generate(ids, max_new_tokens=NEW_TOKENS, pad_token_id=0, eos_token_id=tokenizer.eos_token_id)
    assert tokenizer.decode(output.tolist()[0][ids.shape[1] :], skip_special_tokens=True) == answers[0]


def test_the_answer_ends_where_the_context_ends(demo):
    """Guards against a refusal: ELYZA's limit of 1200 tokens is more than a context of 1024 holds."""
    tokenizer = demo[1]
    task = next(
        task
        for task in ({"input": "犬" * length} for length in range(850, 1100))
        if len(encode_task(tokenizer, task)) >= 1015
    )
    (answer,) = answer_tasks(*demo, [task])
    assert len(encode_task(tokenizer, task)) < 1024 and answer


def test_an_answer_that_is_cut_inside_a_character(demo):
    """A published answer of the full length may end with half a character, which decoding writes as U+FFFD."""
    prompt = encode_task(demo[1], TASKS[0])
    (answer,) = answer_tasks(*demo, TASKS[:1], max_new_tokens=8)
    assert compare_with_answer(*demo, prompt, answer + "\ufffd", 1200) is None
    assert compare_with_answer(*demo, prompt, answer, 1200) is not None


def test_the_seed_counts_where_the_checkpoint_samples(demo, answers):
    model, tokenizer = demo
    greedy = list(answer_tasks(model, tokenizer, TASKS[:1], max_new_tokens=NEW_TOKENS, seeds=[3]))
    assert greedy == answers[:1]
    model = llama_jp.Llama.from_pretrained("demo", dtype="float32")
    model.generation_config |= {"do_sample": True, "temperature": 3.0}
    first, second, again = (
        list(answer_tasks(model, tokenizer, TASKS[:1], max_new_tokens=NEW_TOKENS, seeds=[seed])) for seed in (3, 4, 3)
    )
    assert first == again != second


def test_several_at_a_time_have_the_answers_of_one_at_a_time(demo, answers):
    """In the order of the tasks: the second answer is the shorter one. `done` skips tasks, and their seeds."""
    assert list(answer_tasks(*demo, TASKS, max_new_tokens=NEW_TOKENS, batch=2)) == answers
    assert list(answer_tasks(*demo, TASKS, max_new_tokens=NEW_TOKENS, done=1)) == answers[1:]
    model = llama_jp.Llama.from_pretrained("demo", dtype="float32")
    model.generation_config |= {"do_sample": True, "temperature": 3.0}
    sampled = [
        list(answer_tasks(model, demo[1], TASKS, max_new_tokens=8, seeds=[3, 4], **options))
        for options in ({}, {"batch": 2}, {"done": 1})
    ]
    assert sampled[0] == sampled[1] and sampled[0][1:] == sampled[2]


def test_own_answers_have_no_difference(demo, answers):
    for task, answer in zip(TASKS, answers, strict=True):
        assert compare_with_answer(*demo, encode_task(demo[1], task), answer, NEW_TOKENS) is None


def test_the_space_before_a_text_is_no_difference(demo):
    """After BOS the first piece is `▁…`, and decoding removes its space."""
    model, tokenizer = demo
    (generation,) = llama_jp.generate(model, [[tokenizer.bos_id]], max_new_tokens=NEW_TOKENS)
    assert tokenizer.pieces(generation.ids)[0].startswith("▁")
    answer = tokenizer.decode(generation.ids)
    assert compare_with_answer(model, tokenizer, [tokenizer.bos_id], answer, NEW_TOKENS) is None


def test_a_complete_answer_needs_eos(demo):
    """Also for the empty answer, and for a published answer that goes on after the model's EOS."""
    prompt = encode_task(demo[1], TASKS[1])
    (answer,) = answer_tasks(*demo, TASKS[1:], max_new_tokens=400)
    assert len(demo[1].encode(answer)) < 400 and compare_with_answer(*demo, prompt, answer, 400) is None
    longer = compare_with_answer(*demo, prompt, answer + "続", 400)
    assert longer.token == demo[1].eos_id and longer.text_before.endswith(answer[-8:])
    shorter = compare_with_answer(*demo, prompt, answer[:30], 400)
    assert shorter.reference_token == demo[1].eos_id and shorter.margin > 0
    assert compare_with_answer(*demo, prompt, "", 400).position == 0


def test_the_first_difference_and_its_margin(demo, answers):
    model, tokenizer = demo
    prompt = encode_task(tokenizer, TASKS[0])
    (generation,) = llama_jp.generate(model, [prompt], max_new_tokens=NEW_TOKENS, top_logprobs=2)
    start = tokenizer.decode(generation.ids[:9])
    found = compare_with_answer(model, tokenizer, prompt, start + "龘", NEW_TOKENS)
    assert found.position == 9 and found.token == generation.ids[9] and found.text_before == start
    assert found.reference_piece == "<0xE9>", "the first byte of 龘, which has no piece"
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + generation.ids[:9]]))[0, -1].double().log_softmax(-1)
    margin = log_probs[found.token] - log_probs[found.reference_token]
    assert found.margin == pytest.approx(float(margin), rel=1e-4)


def test_other_ids_of_the_same_text_are_no_difference(demo, monkeypatch):
    """Text has many ids. Guards against a difference where the model's ids are not those of the encoded answer."""
    model, tokenizer = demo
    prompt = encode_task(tokenizer, TASKS[0])
    (generation,) = llama_jp.generate(model, [prompt], max_new_tokens=NEW_TOKENS)
    monkeypatch.setattr(  # one character at a time, and the last one as bytes
        "llama_jp.evaluation.published_answers.continue_text",
        lambda tokenizer, text: [i for c in text for i in continue_text(tokenizer, c)],
    )
    assert compare_with_answer(model, tokenizer, prompt, tokenizer.decode(generation.ids), NEW_TOKENS) is None


def test_the_rest_of_a_text_may_begin_inside_a_character(demo):
    _, tokenizer = demo
    rest = "龘が犬".encode()[1:]
    ids = encode_rest(tokenizer, rest)
    assert tokenizer.pieces(ids)[:2] == ["<0xBE>", "<0x98>"] and tokenizer.decode(ids[2:]) == "が犬"
    assert continue_text(tokenizer, "犬") == tokenizer.encode("海犬", bos=False)[-1:]


def test_an_answer_beyond_the_context_is_refused(demo):
    with pytest.raises(ValueError, match=r"the prompt has \d+ tokens and the answer \d+, but the context holds 1024"):
        compare_with_answer(*demo, [1], "龘" * 400, 1200)
