"""The examples of a JSONL file: places, not text, in memory; wrong lines by number; an order that the seed decides."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from llama_jp import Tokenizer
from llama_jp.training import example
from llama_jp.training.data import JsonlExamples, open_data


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained("demo")


def write_lines(file: Path, *lines: dict | str | bytes) -> Path:
    content = [line if isinstance(line, bytes) else json.dumps(line, ensure_ascii=False).encode() for line in lines]
    file.write_bytes(b"\n".join(content))
    return file


TEXTS = [{"text": "クマ" * n} for n in range(1, 31)]


def test_examples_are_read_from_their_places(tokenizer, tmp_path):
    """Against: offsets that count characters, or that empty lines, Windows' line ends and a byte order mark shift."""
    lines = [b"\xef\xbb\xbf" + json.dumps(TEXTS[0]).encode() + b"\r", b"", TEXTS[1], b"  \r", TEXTS[2], b""]
    examples = JsonlExamples(write_lines(tmp_path / "data.jsonl", *lines), tokenizer, 100)
    assert [examples[i] for i in range(len(examples))] == [example(tokenizer, text) for text in TEXTS[:3]]
    assert list(examples.lines) == [1, 3, 5]


WRONG = [
    (b'{"text": ', "it is not JSON: Expecting value at character "),
    (b"{", "; a line is one whole object"),
    ('{"text": "ネコ"}'.encode("cp932"), "it is no UTF-8 text: byte 10 is 0x83"),
    (b'["text"]', "it is a list where an object was expected"),
    ({"question": "a", "answer": "b"}, 'it has question, answer; an example has "messages"'),
    ({"text": ["a"]}, '"text" is a list where a text was expected'),
    ({"instruction": "a", "output": ""}, "an answer of the assistant, has no text"),
    (b"[" * 100_000, "JSON nested too deeply"),
]


@pytest.mark.parametrize(("line", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_a_wrong_line_is_named(tokenizer, tmp_path, line, sentence):
    file = write_lines(tmp_path / "data.jsonl", TEXTS[0], b"", line, TEXTS[1])
    with pytest.raises(ValueError) as caught:
        JsonlExamples(file, tokenizer, 100)
    assert str(caught.value).startswith(f"{file}, line 3: ") and sentence in str(caught.value)


def test_files_without_examples_are_named(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="is a folder; name a JSONL file"):
        JsonlExamples(tmp_path, tokenizer, 100)
    with pytest.raises(ValueError, match="holds no examples"):
        JsonlExamples(write_lines(tmp_path / "empty.jsonl", b"", b" "), tokenizer, 100)
    with pytest.raises(FileNotFoundError):
        JsonlExamples(tmp_path / "missing.jsonl", tokenizer, 100)
    question = {"instruction": "クマ" * 30, "output": "はい"}
    with pytest.raises(ValueError, match="no examples with an answer in their first 8 tokens"):
        JsonlExamples(write_lines(tmp_path / "long.jsonl", question), tokenizer, 8)


def test_truncation_is_counted(tokenizer, tmp_path):
    long = {"instruction": "クマ" * 30, "output": "はい"}
    examples = JsonlExamples(write_lines(tmp_path / "data.jsonl", TEXTS[0], TEXTS[29], long), tokenizer, 10)
    assert examples.truncated == [2] and examples.unlearned == [3] and len(examples) == 2
    whole = example(tokenizer, TEXTS[29])
    assert examples[1] == (whole.ids[:10], whole.labels[:10]) and list(examples.sizes)[1] == 10


def test_the_seed_decides_order_and_held_out_part(tokenizer, tmp_path):
    file = write_lines(tmp_path / "data.jsonl", *TEXTS)
    data = open_data(file, None, 5, tokenizer, 40, seed=3)
    held_out = [number for row in data.held_out for number in row]
    assert len(held_out) == 5 and set(held_out).isdisjoint(data.training) and len(data.training) == 25
    epochs = [data.epoch(epoch, seed=3) for epoch in (0, 1)]
    assert all(sorted(number for row in epoch for number in row) == data.training for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = open_data(file, None, 5, tokenizer, 40, seed=3)
    assert again.held_out == data.held_out and again.epoch(1, seed=3) == epochs[1]
    assert open_data(file, None, 5, tokenizer, 40, seed=4).held_out != data.held_out
    assert open_data(file, None, None, tokenizer, 40, seed=3).training != data.training, "a twentieth by default"
    with pytest.raises(ValueError, match="30 of 30 examples are held out"):
        open_data(file, None, 30, tokenizer, 40, seed=3)


def test_steps_go_on_through_the_epochs(tokenizer, tmp_path):
    data = open_data(write_lines(tmp_path / "data.jsonl", *TEXTS), None, 0, tokenizer, 40, seed=0)
    rows = [len(data.epoch(epoch, 0)) for epoch in range(3)]
    count = data.count_steps(3, 4, seed=0)
    assert count == sum(-(-number // 4) for number in rows)
    steps = list(islice(data.steps(4, seed=0), count + 1))
    assert [epoch for epoch, _ in steps][-2:] == [2, 3] and all(1 <= len(rows) <= 4 for _, rows in steps)
    assert [row for epoch, rows in steps for row in rows if epoch == 1] == data.epoch(1, 0)


def test_another_file_can_be_the_held_out_part(tokenizer, tmp_path):
    file, other = write_lines(tmp_path / "a.jsonl", *TEXTS), write_lines(tmp_path / "b.jsonl", *TEXTS[:4])
    data = open_data(file, other, None, tokenizer, 40, seed=0)
    assert len(data.training) == 30 and sorted(sum(data.held_out, [])) == [0, 1, 2, 3]
    ids, labels, mask = data.evaluation.load(data.held_out)
    assert ids.shape == labels.shape == mask.shape and int(mask.any(0).sum()) == ids.shape[1] < 40
