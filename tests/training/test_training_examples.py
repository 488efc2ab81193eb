"""Conversations as training data: the ids are those of generation, and answers with their EOS are learned."""

from __future__ import annotations

import shutil

import pytest
from helpers.tokenizer_files import llama_folder, llama_model, real_data, write

from llama_jp import Tokenizer
from llama_jp.checkpoint.chat_template import elyza_template
from llama_jp.training import example
from llama_jp.training.losses import IGNORE

CHATML = """\
{% for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Tokenizer:
    """A tokenizer with pieces such as ▁the, which join a space with the word after it."""
    return Tokenizer.from_pretrained(llama_folder(tmp_path_factory.mktemp("llama") / "model"))


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def learned(ids: list[int], labels: list[int]) -> list[list[int]]:
    """The runs of ids that are learned, after a check of the labels."""
    assert len(ids) == len(labels)
    runs: list[list[int]] = [[]]
    for token, label in zip(ids, labels, strict=True):
        assert label in (token, IGNORE)
        if label == IGNORE:
            runs.append([])
        else:
            runs[-1].append(token)
    return [run for run in runs if run]


@pytest.mark.parametrize("answer", ["クマは海辺に行きました。", "the tree", "  a  b", "\n\n犬", "「はい」 </s>", "🐻"])
@pytest.mark.parametrize("name", ["demo", "llama"])
def test_an_answer_has_the_ids_that_follow_the_prompt_at_generation(llama, name, answer):
    """Against the ▁ trap: encoding prompt and answer as one text, or the answer alone, gives other ids."""
    tokenizer = llama if name == "llama" else Tokenizer.from_pretrained("demo")
    ids, labels = example(tokenizer, [user("お話をしてください。"), assistant(answer)])
    prompt = tokenizer.chat([user("お話をしてください。")])
    assert ids[: len(prompt)] == prompt and ids[-1] == tokenizer.eos_id
    assert learned(ids, labels) == [ids[len(prompt) :]]
    assert tokenizer.decode(ids[len(prompt) - 1 : -1]) == answer.strip(), "from the space that ends the prompt"


def test_every_turn_is_learned_in_the_context_of_generation(llama):
    for tokenizer in (llama, Tokenizer.from_pretrained("demo")):
        messages = [
            user("犬？"),
            assistant("はい。"),
            user("猫？"),
            assistant("いいえ。"),
            user("海？"),
            assistant("ええ"),
        ]
        ids, labels = example(tokenizer, messages)
        assert ids[: len(tokenizer.chat(messages[:5]))] == tokenizer.chat(messages[:5])
        answers = [tokenizer.decode(run, skip_special=False) for run in learned(ids, labels)]
        assert "".join(answers) == "はい。</s>いいえ。</s>ええ</s>"


def test_a_word_that_the_history_joins_with_the_space_is_context(llama):
    """In the history the template writes `[/INST] the`, one piece ▁the; the model generates ▁, t, h, e."""
    history = [user("a"), assistant("the tree is")]
    ids, labels = example(llama, [*history, user("b"), assistant("はい")])
    assert "▁the" in llama.pieces(llama.chat([*history, user("b")]))
    first = [llama.pieces(run) for run in learned(ids, labels)]
    joined = [piece for run in first for piece in run]
    assert "▁the" not in joined and joined[-1] == "</s>"
    alone = llama.pieces(example(llama, history)[0])
    assert "▁the" not in alone[-8:], "as the last answer, it has the ids of generation"


def test_the_template_of_the_checkpoint_decides(tmp_path):
    """Its end of a turn is learned, and what it writes after that is not."""
    model = llama_model(control_symbols=["<|im_start|>", "<|im_end|>"])
    special = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>"}
    write(tmp_path, tokenizer_model=model, special_tokens_map_json=special, chat_template_jinja=CHATML)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    ids, labels = example(tokenizer, [user("犬"), assistant(" the "), user("猫"), assistant("はい")])
    end = tokenizer.eos_id
    assert [run[-1] for run in learned(ids, labels)] == [end, end] and ids[-1] == end
    assert "".join(tokenizer.decode(run) for run in learned(ids, labels)) == "theはい"
    assert ids[: -len(learned(ids, labels)[-1])] == tokenizer.chat([user("犬"), assistant(" the "), user("猫")])


def test_the_forms_of_a_line(llama):
    expected = example(llama, [user("犬"), assistant("はい")])
    assert example(llama, {"instruction": "犬", "output": "はい", "id": 7}) == expected
    assert example(llama, {"instruction": "犬", "input": "", "output": "はい"}) == expected
    assert example(llama, {"messages": [user("犬"), assistant("はい")]}) == expected
    both = example(llama, [user("犬\n\n猫"), assistant("はい")])
    assert example(llama, {"instruction": "犬", "input": "猫", "output": "はい"}) == both
    system = [{"role": "system", "content": "海"}, user("犬"), assistant("はい")]
    assert example(llama, {"system": "海", "instruction": "犬", "output": "はい"}) == example(llama, system)
    ids, labels = example(llama, {"text": "犬と猫"})
    assert example(llama, "犬と猫") == (ids, labels)
    assert ids == [*llama.encode("犬と猫"), llama.eos_id] and labels == [IGNORE, *ids[1:]]


@pytest.mark.parametrize(
    ("turns", "sentence"),
    [
        ({"prompt": "a", "completion": "b"}, 'it has prompt, completion; an example has "messages"'),
        ({}, "it has no key"),
        ({"text": "a", "messages": []}, "messages and text are given; keep one"),
        ({"messages": {"role": "user"}}, '"messages" is a dict'),
        ({"instruction": 3, "output": "b"}, '"instruction" is an int'),
        ({"instruction": "a", "output": "b", "input": ["x"]}, '"input" is a list'),
        ({"instruction": "a", "output": " "}, "message 1, an answer of the assistant, has no text"),
        ({"instruction": "a", "output": None}, "message 1, an answer of the assistant, has no text"),
        ({"text": None}, "the text is empty"),
        ("\n", "the text is empty"),
        ([user("a")], "the last message is not an answer"),
        ([user("a"), assistant("b"), user("c")], "the last message is not an answer"),
        ([assistant("b")], "refuses this conversation"),
        ([{"content": "b"}], "message 0 is no"),
        ([], "the last message is not an answer"),
        ([user("a"), {"role": "assistant", "content": ["b"]}], "message 1, an answer of the assistant, has no text"),
        ([user("a"), assistant("b\ud800")], "half a surrogate pair"),
    ],
)
def test_each_mistake_has_one_sentence(llama, turns, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        example(llama, turns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", ["Hello, world!", "こんにちは。", "the 2nd", "1. 犬\n2. 猫", "`x`", "…"])
def test_the_tokenizer_of_llama_2(tmp_path, answer):
    """ELYZA's models have it; in its vocabulary most English words begin with a space."""
    folder = shutil.copytree(real_data("llama2-tokenizer"), tmp_path / "model")
    write(folder, chat_template_jinja=elyza_template().text)
    tokenizer = Tokenizer.from_pretrained(folder)
    messages = [user("a"), assistant(answer), user("b"), assistant(answer)]
    prompt = tokenizer.chat(messages[:3])
    ids, labels = example(tokenizer, messages)
    *earlier, _ = learned(ids, labels)
    last = ids[len(prompt) :]
    assert ids[: len(prompt)] == prompt and ids[-1] == tokenizer.eos_id
    assert tokenizer.decode(ids[len(prompt) - 1 :]) == answer
    assert tokenizer.pieces([last[0]])[0][0] != "▁", "the prompt ends with the space"
    assert sum(earlier, []) in (last, last[1:]), "in the history, the first token may be joined with the space"
